/**
 * A loaded model of the addon, whichever device holds its weights: any number of engines over it, plain (block 1) and speculative ones, so
 * that two engines of a comparison differ in nothing but the block and the rule. Who loads one says what its cards say of it.
 */
import type { Engine, EngineCard, Numerics, VerificationRule } from '../harness/engine.ts';
import { callAddon, type NativeModel } from './addon.ts';
import { InputError } from './errors.ts';
import {
  type CompiledDefects,
  checkedOptions,
  defectsOnCard,
  type EngineOptions,
  NativeEngine,
  SCORE_CHUNK,
  sessionSettings,
} from './sessions.ts';
import { type ToyPlace, toyOpener } from './toy.ts';

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

/** What callers need of the model's shape; a Checkpoint has it. */
export interface ModelShape {
  readonly vocab: number;
  readonly maxContext: number;
  readonly draft: { readonly blockSize: number } | null;
}

/** What stands on every card of a loaded model. */
export interface ModelFacts {
  readonly name: string;
  readonly weightsDigest: string;
  readonly draftDigest: string;
  readonly buildDigest: string;
  readonly numerics: Numerics;
  readonly device: string;
  readonly topology: string;
  /** What the build was compiled with. */
  readonly defects: CompiledDefects;
  /** Defects of the networks as loaded. */
  readonly networkDefects: readonly string[];
}

export class LoadedModel<Shape extends ModelShape = ModelShape> {
  readonly checkpoint: Shape;
  readonly #native: NativeModel;
  readonly #facts: ModelFacts;
  readonly #addonFile: string | undefined;
  readonly #loop: ToyPlace;

  /**
   * @param addonFile the build that `native` comes from; undefined is the normal one
   * @param loop which decode loop runs: `stack-cuda` decides on the GPU
   */
  constructor(
    checkpoint: Shape,
    native: NativeModel,
    facts: ModelFacts,
    addonFile: string | undefined,
    loop: ToyPlace = 'cpu',
  ) {
    this.#loop = loop;
    this.checkpoint = checkpoint;
    this.#native = native;
    this.#facts = facts;
    this.#addonFile = addonFile;
  }

  /** @throws InputError for a rule or a block size that this checkpoint cannot be decoded with */
  engine(options: EngineOptions = {}): Engine {
    const longest = this.checkpoint.draft?.blockSize ?? 1;
    const { blockSize, rule, replay } = checkedOptions(options, longest, 'the checkpoint');
    const defects = [...defectsOnCard(this.#facts.defects, options.defect), ...this.#facts.networkDefects];
    const openToy = toyOpener({ ...options, rule, replay }, this.#addonFile, this.#loop);
    return new NativeEngine(
      this.#native,
      this.#card(blockSize, rule, defects),
      sessionSettings(replay, options.defect),
      openToy,
      this.#loop === 'stack-cuda',
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
    const { defects: _compiled, networkDefects: _loaded, ...facts } = this.#facts;
    return {
      ...facts,
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
