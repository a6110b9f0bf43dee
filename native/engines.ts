/**
 * The engines of this repository behind the harness's seam. One loaded model gives any number of engines: plain (block 1) and
 * speculative ones share its weights, so that two engines of a comparison differ in nothing but the block and the rule.
 */
import type { Engine, EngineCard, VerificationRule } from '../harness/engine.ts';
import { type Activations, addon, addonDigest, callAddon, type NativeModel } from './addon.ts';
import { type Checkpoint, describeNumerics, openCheckpoint } from './checkpoint/index.ts';
import { EnvironmentError, InputError } from './errors.ts';
import {
  type CompiledDefects,
  checkedOptions,
  defectsOnCard,
  type EngineOptions,
  NativeEngine,
  processorName,
  SCORE_CHUNK,
  sessionSettings,
} from './sessions.ts';
import { toyOpener } from './toy.ts';

export type { EngineOptions } from './sessions.ts';
export { ToyModel, type ToyTables, tablesOf } from './toy.ts';

export interface LoadOptions {
  /** Default: as the checkpoint's config says. */
  readonly activations?: Activations;
  /** One of the addon's instruction sets, for tests; default the widest this machine has. All give the same bits. */
  readonly instructionSet?: string;
  /** Another build of the addon, for tests. */
  readonly addonFile?: string;
  /** A known mistake of the networks by its id, in a build that has them compiled in; every card names it. Default: none. */
  readonly defect?: string;
}

export interface ScoredCase {
  /** [n - 1]: natural-log probability of ids[i + 1] after ids[..i]. */
  readonly nextLogprobs: readonly number[];
  /** [n][topK], most likely first. */
  readonly topIds: readonly (readonly number[])[];
  readonly topLogprobs: readonly (readonly number[])[];
}

export interface DraftedCase {
  /** Index of the anchor: the last id. */
  readonly anchor: number;
  /** [block - 1][topK]: row i predicts the token i + 1 positions behind the anchor. */
  readonly topIds: readonly (readonly number[])[];
  readonly topLogprobs: readonly (readonly number[])[];
}

interface Facts {
  readonly weightsDigest: string;
  readonly draftDigest: string;
  readonly buildDigest: string;
  readonly activations: Activations;
  readonly instructionSet: string;
  readonly defects: CompiledDefects;
  /** Defects of the networks as loaded, for the card. */
  readonly networkDefects: readonly string[];
}

export class CpuModel {
  readonly checkpoint: Checkpoint;
  readonly #native: NativeModel;
  readonly #facts: Facts;
  readonly #addonFile: string | undefined;

  private constructor(checkpoint: Checkpoint, native: NativeModel, facts: Facts, addonFile: string | undefined) {
    this.checkpoint = checkpoint;
    this.#native = native;
    this.#facts = facts;
    this.#addonFile = addonFile;
  }

  /**
   * Reads a checkpoint of the family and decodes its weights.
   * @throws InputError for a broken checkpoint, EnvironmentError without a built addon or a fitting processor
   */
  static async load(directory: string, options: LoadOptions = {}): Promise<CpuModel> {
    const checkpoint = await openCheckpoint(directory);
    const activations = options.activations ?? checkpoint.activationsDefault;
    const native = addon(options.addonFile);
    const instructionSet = options.instructionSet ?? native.instructionSets()[0];
    if (instructionSet === undefined) {
      throw new EnvironmentError('this processor lacks AVX2 and FMA, which the CPU engine needs on x86-64');
    }
    const networkDefects = defectsOnCard(native.networkDefects?.() ?? null, options.defect).slice(1);
    const model = await callAddon(() =>
      native.load({
        ...checkpoint,
        tensors: [...checkpoint.tensors.values()],
        draft: checkpoint.draft && { ...checkpoint.draft, tensors: [...checkpoint.draft.tensors.values()] },
        activations,
        instructionSet,
        ...(options.defect === undefined ? {} : { defect: options.defect }),
      }),
    );
    const [weightsDigest, draftDigest, buildDigest] = await Promise.all([
      checkpoint.weightsDigest(),
      checkpoint.draftDigest(),
      addonDigest(options.addonFile),
    ]);
    const facts: Facts = {
      weightsDigest,
      draftDigest,
      buildDigest,
      activations,
      instructionSet,
      defects: native.defects?.() ?? null,
      networkDefects,
    };
    return new CpuModel(checkpoint, model, facts, options.addonFile);
  }

  /** @throws InputError for a rule or a block size that this checkpoint cannot be decoded with */
  engine(options: EngineOptions = {}): Engine {
    const longest = this.checkpoint.draft?.blockSize ?? 1;
    const { blockSize, rule, replay } = checkedOptions(options, longest, 'the checkpoint');
    const defects = [...defectsOnCard(this.#facts.defects, options.defect), ...this.#facts.networkDefects];
    const openToy = toyOpener({ ...options, rule, replay }, this.#addonFile);
    return new NativeEngine(
      this.#native,
      this.#card(blockSize, rule, defects),
      sessionSettings(replay, options.defect),
      openToy,
    );
  }

  /**
   * Teacher-forced log-probabilities of whole sequences.
   * @throws InputError, naming the case
   */
  async scoreCases(cases: readonly (readonly number[])[], topK: number): Promise<ScoredCase[]> {
    return Promise.all(cases.map((ids, i) => inCase(i, () => this.#native.score(ids, topK, SCORE_CHUNK))));
  }

  /**
   * What the draft proposes behind the last id of each case, given everything before it.
   * @throws InputError, naming the case
   */
  async draftCases(cases: readonly (readonly number[])[], topK: number): Promise<DraftedCase[]> {
    return Promise.all(
      cases.map((ids, i) =>
        inCase(i, async () => ({ anchor: ids.length - 1, ...(await this.#native.draft(ids, topK)) })),
      ),
    );
  }

  /** Sessions that are open stay usable; nothing new can be opened. */
  async close(): Promise<void> {
    this.#native.close();
  }

  #card(blockSize: number, rule: VerificationRule, defects: readonly string[]): EngineCard {
    const { activations, instructionSet, defects: _compiled, networkDefects: _loaded, ...digests } = this.#facts;
    return {
      name: 'cpu',
      ...digests,
      numerics: describeNumerics(this.checkpoint, activations),
      device: `${processorName()} (${instructionSet})`,
      topology: 'one thread a session',
      tensorParallel: 1,
      blockSize,
      rule,
      vocabSize: this.checkpoint.vocab,
      maxContext: this.checkpoint.maxContext,
      defects,
      syntheticAcceptance: null,
    };
  }
}

async function inCase<T>(index: number, call: () => Promise<T>): Promise<T> {
  try {
    return await callAddon(call);
  } catch (error) {
    if (error instanceof InputError) throw new InputError(`case ${index}: ${error.message}`);
    throw error;
  }
}
