/**
 * The seam of the node benchmark: a machine with some GPUs that can hold a model of the 1.02 T shape and decode with it. As in
 * harness/engine.ts, token ids go in and token ids come out; nothing here names an implementation. A fake (fake.ts) and the addon
 * (native/node.ts, put behind this by bin/) are the same thing to the runner.
 */

import type { GpuLook } from '../../measure/gpus.ts';

/** What runs: the stack, or the plain reference beside it. */
export type NodeEngine = 'stack' | 'reference';
export type ExpertFormat = 'mxfp4' | 'fp8';
/** How rounds are launched: one launch an operation, a CUDA graph a round, or one resident kernel for all of them. */
export type LaunchMode = 'ops' | 'graph' | 'resident';

export interface NodeGpu {
  readonly index: number;
  readonly name: string;
  /** Bytes; free as the driver says before anything of this run lies on it. */
  readonly memory: number;
  readonly freeMemory: number;
  /** Indices of the GPUs it can read and write directly. */
  readonly peers: readonly number[];
}

export interface NodeCapabilities {
  /** Null: it can. Else why not, in words that complete "not measured: ...". */
  readonly fp8Experts: string | null;
  readonly reference: string | null;
  readonly filledContext: string | null;
  readonly sharedRouting: string | null;
}

export interface NodeDescription {
  /** Why nothing can run here; empty when something can. */
  readonly lack: string;
  readonly gpus: readonly NodeGpu[];
  readonly capabilities: NodeCapabilities;
  /** `sha256:<hex>` of what was built. */
  readonly buildDigest: string;
}

/** A model as it is opened: tensor-parallel over the first `gpus` GPUs, weights a function of the seed. */
export interface NodeModelSpec {
  readonly engine: NodeEngine;
  readonly experts: ExpertFormat;
  readonly layers: number;
  readonly gpus: number;
  /** 0: tokens choose experts independently. 1: neighbouring positions choose alike, as far as the model goes. */
  readonly sharedRouting: number;
  readonly maxContext: number;
  /** Positions that every request will have filled before its prompt; null: each says for itself. */
  readonly filledContext: number | null;
  /** Unsigned 64-bit, decimal. */
  readonly seed: string;
}

export interface NodeRequest {
  readonly prompt: readonly number[];
  /** Positions before the prompt whose cache entries are made by a formula instead of a prefill. */
  readonly filledContext: number;
  /** Of the output, the token of the prefill included. Nothing else ends it. */
  readonly maxTokens: number;
  /** 1: plain. */
  readonly block: number;
  /** By place in the output, maxTokens or more: what stands in for the draft's choices. Null: plain decoding, or the draft's own. */
  readonly proposals: readonly number[] | null;
  readonly mode: LaunchMode;
  /** Keep clocks of every operation of the last round; it is slower for that. */
  readonly trace: boolean;
}

/** One round as the device tells it. */
export interface NodeRound {
  readonly committed: readonly number[];
  readonly drafted: readonly number[];
  readonly accepted: number;
  readonly finish: 'stop' | 'length' | null;
  /** Clock of the device, nanoseconds. */
  readonly draftNs: number;
  readonly verifyNs: number;
  /** Of each mixture-of-experts layer. */
  readonly distinctExperts: readonly number[];
}

/** All rounds of an output. */
export interface NodeDecoded {
  /** The first is the prefill's: one token, nothing drafted. */
  readonly rounds: readonly NodeRound[];
  /** Nanoseconds of decode() that the prompt took, by the engine's clock; 0 where `generate` had already dealt with it. */
  readonly prefillNs: number;
}

/**
 * One kind of operation in the last round, on the first GPU, all of its instructions together. Nanoseconds. `total`: from one beginning
 * to the next. Of a thread block's own time: `math` until its products are done, `busy` until its results are stored, both a mean over
 * blocks; `slowest` is `busy` of the slowest. A beginning is that of the last block, `busy` counts from a block's own: what `total` has beyond
 * `busy` is waiting, for other blocks or other GPUs, and what `busy` has beyond `total` is time in which the neighbouring operations also ran.
 */
export interface NodeTraceOp {
  readonly op: string;
  readonly count: number;
  readonly totalNs: number;
  readonly mathNs: number;
  readonly busyNs: number;
  readonly slowestNs: number;
}

export interface NodeSequence {
  /** To the end. Called once; the harness's clock runs around it. */
  decode(): Promise<void>;
  /** What that made. */
  decoded(): Promise<NodeDecoded>;
  /** `sha256:<hex>` over the target's logits of the last step as binary32; null where they are not to be had. */
  logitsDigest(): Promise<string | null>;
  /** In the order in which operations first come; null where nothing was traced. */
  trace(): Promise<readonly NodeTraceOp[] | null>;
  close(): Promise<void>;
}

export interface NodeModel {
  /** Bytes of weights as they lie on the first GPU; null when the engine does not say. */
  readonly weightBytes: number | null;
  /** Ready to decode: the prompt has gone through, if the engine can part that from what follows. */
  generate(request: NodeRequest): Promise<NodeSequence>;
  close(): Promise<void>;
}

/** Bytes a second that each GPU reads while all of them do, one entry a GPU, and how it was measured. */
export interface ReadCeiling {
  readonly bytesPerSecond: readonly number[];
  readonly method: string;
}

/**
 * The all-reduce inside the kernel alone, as kernels/bench/collectives.h defines it: `cycles` are samples, one a call, of block 0;
 * `spanNs` is the GPU's common clock over all of them, `slowestNs` that of the block for which they took longest.
 */
export interface CollectiveLaunch {
  /** none: no sum is made; the blocks of a GPU only meet. */
  readonly how: 'none' | 'one-hop' | 'two-hops';
  /** chain: a call follows the one before by its data alone. step: and behind each the blocks meet. barrier: the meeting alone. */
  readonly arrangement: 'chain' | 'step' | 'barrier';
  readonly rows: number;
  readonly launch: number;
  readonly rank: number;
  readonly spanNs: number;
  readonly slowestNs: number;
  readonly cycles: readonly number[];
}

/** Sums of the last of so many calls, by rank: `sha256:<hex>` over 8 x 6144 binary32 values, little endian. */
export interface CollectiveSums {
  readonly how: 'one-hop' | 'two-hops';
  readonly data: 'random' | 'cancelling';
  readonly calls: number;
  readonly digests: readonly string[];
}

/** An all-reduce of a library, microseconds a call: each sample is the mean over a batch. */
export interface LibraryTimes {
  readonly how: 'eager' | 'graph';
  readonly rank: number;
  readonly us: readonly number[];
}

export interface CollectiveSamples {
  readonly launches: readonly CollectiveLaunch[];
  readonly sums: readonly CollectiveSums[];
  /** A mistake made on purpose, and at how many of how many places the machine's own comparison saw it. */
  readonly planted: readonly {
    readonly how: 'one-hop' | 'two-hops';
    readonly mistake: string;
    readonly seen: number;
    readonly values: number;
  }[];
  /** Ranks whose sums the machine itself found wrong, in words. Nothing is timed behind the first. */
  readonly wrong: readonly string[];
  /** NCCL on the same GPUs. Lacks are null where there is none. */
  readonly nccl: {
    readonly version: string | null;
    readonly lack: string | null;
    readonly graphLack: string | null;
    readonly batch: number;
    readonly times: readonly LibraryTimes[];
  };
}

export interface NodeMachine {
  /** Who is on the GPUs now, one entry a GPU in the order of `describe`. Asked before anything else, it leaves the GPUs untouched. */
  look(): Promise<readonly GpuLook[]>;
  describe(): Promise<NodeDescription>;
  /** Rejects with InputError for what it cannot hold, EnvironmentError for memory, DeviceError for a GPU that faulted. */
  open(spec: NodeModelSpec): Promise<NodeModel>;
  /** Absent: this build measures no floor. */
  readonly readCeiling?: (gpus: number) => Promise<ReadCeiling>;
  /** Absent: this build measures no collectives. Over the first `gpus`, at least 2, while no model is open; rejects as open() does. */
  readonly collectives?: (gpus: number) => Promise<CollectiveSamples>;
}

/** A GPU faulted or a wait ran out. Same name as native/errors.ts has, so that the command line ends alike: exit 70. */
export class DeviceError extends Error {
  override readonly name = 'DeviceError';
}
