/**
 * The engines of this repository behind the harness's seam. One loaded model gives any number of engines: plain (block 1) and
 * speculative ones share its weights, so that two engines of a comparison differ in nothing but the block and the rule.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import os from 'node:os';
import type { Decoding, Engine, EngineCard, Round, Score, Session, VerificationRule } from '../harness/engine.ts';
import {
  type Activations,
  addon,
  addonFile,
  callAddon,
  type NativeModel,
  type NativeRound,
  type NativeScored,
  type NativeSession,
} from './addon.ts';
import { type Checkpoint, describeNumerics, openCheckpoint } from './checkpoint/index.ts';
import { EnvironmentError, InputError } from './errors.ts';

const RULES: readonly VerificationRule[] = ['match', 'reject', 'coupled'];
/** Rows a scoring step carries; any number gives the same bits. */
const SCORE_CHUNK = 64;

export interface LoadOptions {
  /** Default: as the checkpoint's config says. */
  readonly activations?: Activations;
  /** One of the addon's instruction sets, for tests; default the widest this machine has. All give the same bits. */
  readonly instructionSet?: string;
}

export interface EngineOptions {
  /** Anchor and drafts: 1 is plain decoding, 2 .. the draft's block size speculates. Default: the draft's, or 1 without one. */
  readonly blockSize?: number;
  /** Default `match`. */
  readonly rule?: VerificationRule;
  /** Rounds carry the rows and uniforms that decided them. */
  readonly replay?: boolean;
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
}

export class CpuModel {
  readonly checkpoint: Checkpoint;
  readonly #native: NativeModel;
  readonly #facts: Facts;

  private constructor(checkpoint: Checkpoint, native: NativeModel, facts: Facts) {
    this.checkpoint = checkpoint;
    this.#native = native;
    this.#facts = facts;
  }

  /**
   * Reads a checkpoint of the family and decodes its weights.
   * @throws InputError for a broken checkpoint, EnvironmentError without a built addon or a fitting processor
   */
  static async load(directory: string, options: LoadOptions = {}): Promise<CpuModel> {
    const checkpoint = await openCheckpoint(directory);
    const activations = options.activations ?? checkpoint.activationsDefault;
    const native = addon();
    const instructionSet = options.instructionSet ?? native.instructionSets()[0];
    if (instructionSet === undefined) {
      throw new EnvironmentError('this processor lacks AVX2 and FMA, which the CPU engine needs on x86-64');
    }
    const model = await callAddon(() =>
      native.load({
        ...checkpoint,
        tensors: [...checkpoint.tensors.values()],
        draft: checkpoint.draft && { ...checkpoint.draft, tensors: [...checkpoint.draft.tensors.values()] },
        activations,
        instructionSet,
      }),
    );
    const [weightsDigest, draftDigest, build] = await Promise.all([
      checkpoint.weightsDigest(),
      checkpoint.draftDigest(),
      readFile(addonFile()),
    ]);
    const buildDigest = `sha256:${createHash('sha256').update(build).digest('hex')}`;
    return new CpuModel(checkpoint, model, { weightsDigest, draftDigest, buildDigest, activations, instructionSet });
  }

  /** @throws InputError for a rule or a block size that this checkpoint cannot be decoded with */
  engine(options: EngineOptions = {}): Engine {
    const longest = this.checkpoint.draft?.blockSize ?? 1;
    const { blockSize = longest, rule = 'match', replay = false } = options;
    if (!Number.isInteger(blockSize) || blockSize < 1 || blockSize > longest) {
      const reason =
        this.checkpoint.draft === null
          ? 'the checkpoint has no draft, so only 1 can be decoded'
          : `1 .. ${longest} can be decoded`;
      throw new InputError(`block size ${blockSize}: ${reason}`);
    }
    if (!RULES.includes(rule)) throw new InputError(`unknown rule ${JSON.stringify(rule)}; use ${RULES.join(', ')}`);
    return new CpuEngine(this.#native, this.#card(blockSize, rule), replay);
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

  #card(blockSize: number, rule: VerificationRule): EngineCard {
    const { activations, instructionSet, ...digests } = this.#facts;
    const processor = os.cpus()[0]?.model.trim() ?? process.arch;
    return {
      name: 'cpu',
      ...digests,
      numerics: describeNumerics(this.checkpoint, activations),
      device: `${processor} (${instructionSet})`,
      topology: 'one thread a session',
      tensorParallel: 1,
      blockSize,
      rule,
      vocabSize: this.checkpoint.vocab,
      maxContext: this.checkpoint.maxContext,
      defects: [],
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

class CpuEngine implements Engine {
  readonly card: EngineCard;
  readonly #native: NativeModel;
  readonly #replay: boolean;
  #closed = false;

  constructor(native: NativeModel, card: EngineCard, replay: boolean) {
    this.#native = native;
    this.card = card;
    this.#replay = replay;
  }

  async open(prompt: readonly number[], decoding: Decoding): Promise<Session> {
    this.#check();
    const { blockSize, rule } = this.card;
    const options = { ...decoding, blockSize, rule, replay: this.#replay };
    return new CpuSession(await callAddon(() => this.#native.open(prompt, options)));
  }

  async score(prefix: readonly number[], next: readonly number[]): Promise<Score> {
    this.#check();
    if (prefix.length === 0) throw new InputError('the prefix is empty');
    if (next.length === 0) return { logprobs: [] };
    const scored: NativeScored = await callAddon(() => this.#native.score([...prefix, ...next], 0, SCORE_CHUNK));
    return { logprobs: scored.nextLogprobs.slice(prefix.length - 1) };
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #check(): void {
    if (this.#closed) throw new InputError('the engine is closed');
  }
}

class CpuSession implements Session {
  readonly #native: NativeSession;

  constructor(native: NativeSession) {
    this.#native = native;
  }

  async step(): Promise<Round> {
    return toRound(await callAddon(() => this.#native.step()));
  }

  async fork(): Promise<Session> {
    return new CpuSession(await callAddon(() => this.#native.fork()));
  }

  async close(): Promise<void> {
    this.#native.close();
  }
}

function toRound({ draftNs, verifyNs, totalNs, ...round }: NativeRound): Round {
  return { ...round, deviceNs: null, hostNs: { draft: draftNs, verify: verifyNs, total: totalNs } };
}
