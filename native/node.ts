/**
 * The GPUs of this machine for the node benchmark: models of the 1.02 T shape, tensor-parallel over the first GPUs, opened through the
 * addon. The harness's seam (harness/bench/node/machine.ts) has the same shape; bin/ puts one behind the other.
 */
import { createHash } from 'node:crypto';
import { addon, addonDigest, type CudaAddon, callAddon, cudaAddonFile } from './addon.ts';
import { DeviceError, EnvironmentError } from './errors.ts';
import { gpuLook } from './gpus.ts';
import { measureCollectives, type NativeCollectives } from './node-collectives.ts';

/** What the addon exports for it; see native/addon/node_exports.cpp. */
export interface NodeExports {
  nodeDescribe(): Promise<NativeNode>;
  nodeOpen(spec: NativeNodeSpec): Promise<NativeNodeModel>;
  /** Absent where the build has no floors. */
  nodeReadCeiling?(gpus: number): Promise<{ readonly bytesPerSecond: number[]; readonly method: string }>;
  /** Absent where the build is older than it. */
  readonly nodeCollectives?: NativeCollectives;
}

export interface NativeNode {
  readonly lack: string;
  readonly gpus: {
    readonly index: number;
    readonly name: string;
    readonly memory: number;
    readonly freeMemory: number;
    readonly peers: number[];
  }[];
  /** Empty: it can. */
  readonly lacks: {
    readonly fp8Experts: string;
    readonly reference: string;
    readonly filledContext: string;
    readonly sharedRouting: string;
  };
}

export interface NativeNodeSpec {
  readonly engine: 'stack' | 'reference';
  readonly experts: 'mxfp4' | 'fp8';
  readonly layers: number;
  readonly gpus: number;
  readonly sharedRouting: number;
  readonly maxContext: number;
  readonly filledContext: number | null;
  readonly seed: string;
}

export interface NativeNodeRequest {
  readonly prompt: readonly number[];
  readonly filledContext: number;
  readonly maxTokens: number;
  readonly block: number;
  readonly proposals: readonly number[] | null;
  readonly mode: 'ops' | 'graph' | 'resident';
  readonly trace: boolean;
}

export interface NativeNodeRound {
  readonly committed: number[];
  readonly drafted: number[];
  readonly accepted: number;
  readonly finish: 'stop' | 'length' | null;
  readonly draftNs: number;
  readonly verifyNs: number;
  readonly distinctExperts: number[];
}

export interface NativeNodeModel {
  readonly weightBytes: number;
  /** Prefills. */
  generate(request: NativeNodeRequest): Promise<NativeNodeSequence>;
  close(): Promise<void>;
}

export interface NativeNodeTraceOp {
  readonly op: string;
  readonly count: number;
  readonly totalNs: number;
  readonly mathNs: number;
  readonly busyNs: number;
  readonly slowestNs: number;
}

export interface NativeNodeSequence {
  /** To the end of the output. */
  decode(): Promise<void>;
  /** What that made, copied. */
  decoded(): { readonly rounds: NativeNodeRound[]; readonly prefillNs: number };
  /** The target's logits of the last step as binary32, or null. */
  logits(): Promise<Float32Array | null>;
  /** As NodeTraceOp of the seam; empty where nothing was traced. */
  trace(): Promise<NativeNodeTraceOp[]>;
  close(): Promise<void>;
}

const orNull = (text: string): string | null => (text === '' ? null : text);

/** @throws EnvironmentError if the CUDA engines are not built, or without the node's exports */
export function nodeMachine() {
  const file = cudaAddonFile();
  const build = addon(file) as CudaAddon & Partial<NodeExports>;
  const { nodeDescribe, nodeOpen, nodeReadCeiling, nodeCollectives } = build;
  if (nodeDescribe === undefined || nodeOpen === undefined)
    throw new EnvironmentError('the CUDA engines were built without the node benchmark; run `npm run setup`');
  return {
    look: gpuLook,
    async describe() {
      const { lack, gpus, lacks } = await callAddon(nodeDescribe);
      return {
        lack,
        gpus,
        capabilities: {
          fp8Experts: orNull(lacks.fp8Experts),
          reference: orNull(lacks.reference),
          filledContext: orNull(lacks.filledContext),
          sharedRouting: orNull(lacks.sharedRouting),
        },
        buildDigest: await addonDigest(file),
      };
    },
    async open(spec: NativeNodeSpec) {
      const model = await callAddon(() => nodeOpen(spec));
      return {
        weightBytes: model.weightBytes > 0 ? model.weightBytes : null,
        async generate(request: NativeNodeRequest) {
          const sequence = await callAddon(() => model.generate(request));
          return {
            decode: () => callAddon(() => sequence.decode()),
            decoded: () => callAddon(() => sequence.decoded()),
            async logitsDigest() {
              const logits = await callAddon(() => sequence.logits());
              if (logits === null) return null;
              if (logits.some((value) => Number.isNaN(value)))
                throw new DeviceError('the last step left a NaN among its logits');
              const bytes = new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength);
              return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
            },
            async trace() {
              const ops = await callAddon(() => sequence.trace());
              return ops.length === 0 ? null : ops;
            },
            close: () => callAddon(() => sequence.close()),
          };
        },
        close: () => callAddon(() => model.close()),
      };
    },
    ...(nodeReadCeiling === undefined ? {} : { readCeiling: (gpus: number) => callAddon(() => nodeReadCeiling(gpus)) }),
    ...(nodeCollectives === undefined
      ? {}
      : { collectives: (gpus: number) => measureCollectives(nodeCollectives, gpus) }),
  };
}
