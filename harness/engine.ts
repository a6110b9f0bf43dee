/**
 * The one seam. An engine takes token ids and gives token ids; text, scenarios and verdicts are none of its business.
 * An HTTP endpoint, a recorded trace, a fake that lies in one known way, the plain reference and the stack are the same
 * thing to the harness: everything a report prints derives from `card`, `Round` and `score`.
 *
 * Nothing in this file may name an implementation.
 */

/** How a block of drafted tokens is checked against the target. */
export type VerificationRule =
  /** Sample the target at each position with the position's own uniform; a draft is accepted if it equals the sample. */
  | 'match'
  /** Drafts are sampled from q; accept with min(1, p/q); the first rejected position is resampled from (p - q)+. */
  | 'reject'
  /** Target and draft both take argmax(log p + Gumbel noise), the noise keyed by position and token. */
  | 'coupled';

/** Which tensors are held in which format. Two runs are comparable for losslessness only if `id` is the same string. */
export interface Numerics {
  /** Canonical text, for instance `experts=mxfp4;linears=fp8-128x128;act=fp8-1x128;kv=bf16;rest=bf16;sum=fp32`. */
  readonly id: string;
  readonly experts: string;
  readonly linears: string;
  readonly activations: string;
  readonly kv: string;
}

export interface EngineCard {
  /** Short stable name, for instance `nano-cpu`. */
  readonly name: string;
  /** `sha256:<hex>` over the weight shards, in index order; `none` if the engine cannot say. */
  readonly weightsDigest: string;
  /** `sha256:<hex>` over the draft's shards; `none` without a draft. */
  readonly draftDigest: string;
  readonly numerics: Numerics;
  readonly device: string;
  readonly topology: string;
  readonly tensorParallel: number;
  /** Tokens a verify step looks at: the anchor and its drafts. 1 means no speculation. */
  readonly blockSize: number;
  /** The rule that checks drafts. With `blockSize` 1 it names the sampler whose draws the rule would reproduce. */
  readonly rule: VerificationRule;
  readonly buildDigest: string;
  readonly vocabSize: number;
  /** Longest sequence, prompt and output together, in tokens. */
  readonly maxContext: number;
  /** Defect switches that are compiled in or on. A run with any is never publishable. */
  readonly defects: readonly string[];
  /** A text describing any assumed or forced acceptance, or null when every acceptance is real. */
  readonly syntheticAcceptance: string | null;
}

/** Decoding parameters, as the engine must echo them. */
export interface Decoding {
  /** Unsigned 64-bit seed as a decimal string (a JSON number cannot hold it). */
  readonly seed: string;
  /** 0 is greedy: argmax, ties to the lowest id. */
  readonly temperature: number;
  /** Nucleus mass in (0, 1]; 1 keeps all. Applied after top-k. */
  readonly topP: number;
  /** Keep the k most likely; 0 keeps all. Ties keep the lowest ids. */
  readonly topK: number;
  readonly maxTokens: number;
  /** Emission ends with the first of these, which is itself emitted. */
  readonly stopIds: readonly number[];
}

export interface Nanoseconds {
  readonly draft: number;
  readonly verify: number;
  readonly total: number;
}

/** What a replay needs to re-decide a round without the engine. Rows are natural-log probabilities after decoding filters. */
export interface RoundReplay {
  /** Target rows, one per verified position (accepted + 1 of them are decisive). */
  readonly p: readonly Float64Array[];
  /** Draft rows, one per drafted token. Empty for deterministic drafts. */
  readonly q: readonly Float64Array[];
  /**
   * Every uniform used, in order of use, with its counter: `draft` for each drafted token, then `accept` for each coin, then
   * `residual` for the token after the drafts; `target` for a token of plain decoding, of the prefill and of `match`.
   */
  readonly uniforms: readonly {
    readonly stream: string;
    readonly position: number;
    readonly round: number;
    /** Third word of the counter; absent: 0. */
    readonly draw?: number;
    readonly u: number;
  }[];
  /**
   * Under `coupled`: the noise behind every token picked, in order of use, the drafts first. u: [V], in (0, 1); the noise of a
   * token is -log(-log u[token]). Draft and target of one position share it by design.
   */
  readonly noise?: readonly {
    readonly of: 'draft' | 'target';
    readonly position: number;
    readonly round: number;
    readonly u: Float64Array;
  }[];
}

/** One engine step: the prefill (first), a plain step, or a draft-verify-accept round. */
export interface Round {
  readonly kind: 'prefill' | 'decode';
  /** Tokens kept, in order. Cut at a stop id or at maxTokens. */
  readonly committed: readonly number[];
  /** Tokens proposed by the draft; empty for a plain step. */
  readonly drafted: readonly number[];
  /** Drafts that passed verification, before any cut: 0 .. drafted.length. The raw acceptance length is accepted + 1. */
  readonly accepted: number;
  /** Why the session ended with this round, if it did. */
  readonly finish: 'stop' | 'length' | null;
  /** Time on the device, nanoseconds; null when the engine cannot tell. */
  readonly deviceNs: Nanoseconds | null;
  /** Wall-clock time inside the engine, nanoseconds. */
  readonly hostNs: Nanoseconds;
  readonly replay?: RoundReplay;
  /** Distinct experts touched, per mixture-of-experts layer. */
  readonly distinctExperts?: readonly number[];
}

export interface Session {
  /** Advance by one round. Rejects after the round whose `finish` is not null. */
  step(): Promise<Round>;
  /** An independent copy that continues from here, with the same seed and positions. */
  fork(): Promise<Session>;
  close(): Promise<void>;
  /** The parameters as the engine took them, after whatever it does to them. */
  readonly decoding?: Decoding;
}

/** Teacher-forced log-probabilities (natural logarithm) of `next` after `prefix`. */
export interface Score {
  /** log p(next[i] | prefix, next[..i]) */
  readonly logprobs: readonly number[];
}

/**
 * A target and a draft as tables, for the same decode loop, caches and sampling that decode a model. The target is a Markov model
 * of order m; draft rows depend on the committed prefix, anchor included, and the slot. A context is the last m ids as a number
 * in base V, the oldest the most significant digit; where a sequence has fewer, 0 stands for them.
 */
export interface Toy {
  /** V */
  readonly vocab: number;
  /** m, 1 or more */
  readonly order: number;
  /** Longest block: the anchor and its drafts. */
  readonly block: number;
  /** Prompt and output together. */
  readonly maxContext: number;
  /** [V^m][V] logits, each exact in binary32; -Infinity is a token of probability 0. */
  readonly target: readonly (readonly number[])[];
  /** [V^m][block - 1][V] */
  readonly draft: readonly (readonly (readonly number[])[])[];
}

export interface ToyOptions {
  /** As `blockSize` of an engine's factory: absent is the toy's block, 1 is plain decoding. */
  readonly blockSize?: number;
  /** Uniforms that each session reads in order of use, and then from the first again, instead of drawing any. */
  readonly tape?: readonly number[];
}

export interface Engine {
  readonly card: EngineCard;
  /**
   * How `uniforms` and `noise` follow from seed and counter, if as in harness/stats/philox.ts: key the seed, counter (position,
   * stream, draw, round), streams target 0, draft 1, accept 2, residual 3, noise 4. Absent: not stated.
   */
  readonly generator?: 'philox4x32-10';
  /** The same engine over tables: the same rule, blocks, options and code. Absent: it has no toys. */
  readonly openToy?: (toy: Toy, options: ToyOptions) => Promise<Engine>;
  /** Whether `openToy` takes a tape. */
  readonly tapes?: boolean;
  open(prompt: readonly number[], decoding: Decoding): Promise<Session>;
  score(prefix: readonly number[], next: readonly number[]): Promise<Score>;
  close(): Promise<void>;
}

/** The caller's fault (bad ids, empty prompt, context over the limit, broken checkpoint): one clear line, exit code 2. */
export class InputError extends Error {
  override readonly name = 'InputError';
}

/** The machine lacks what was asked for (no GPU, no weights, no memory): exit code 3. */
export class EnvironmentError extends Error {
  override readonly name = 'EnvironmentError';
}
