/**
 * The all-reduce alone as the addon measures it, in the shape of the seam (CollectiveSamples of harness/bench/node/machine.ts). Sums become
 * digests here; whoever reads them computes what they must be.
 */
import { createHash } from 'node:crypto';
import { callAddon } from './addon.ts';

/** `samples`: JSON as kernels/bench/collectives.cu writes it. `sums`: by its checks, then by rank. */
export type NativeCollectives = (gpus: number) => Promise<{
  readonly samples: string;
  readonly sums: readonly (readonly Float32Array[])[];
}>;

interface Samples {
  readonly checkedCalls: number;
  readonly launches: {
    readonly how: 'none' | 'one-hop' | 'two-hops';
    readonly arrangement: 'chain' | 'step' | 'barrier';
    readonly rows: number;
    readonly launch: number;
    readonly rank: number;
    readonly spanNs: number;
    readonly slowestNs: number;
    readonly cycles: number[];
  }[];
  readonly checks: { readonly how: 'one-hop' | 'two-hops'; readonly data: 'random' | 'cancelling' }[];
  readonly planted: {
    readonly how: 'one-hop' | 'two-hops';
    readonly mistake: string;
    readonly seen: number;
    readonly values: number;
  }[];
  readonly wrong: string[];
  /** Texts are empty where there is nothing to say. */
  readonly nccl: {
    readonly version: string;
    readonly lack: string;
    readonly graphLack: string;
    readonly batch: number;
    readonly times: { readonly how: 'eager' | 'graph'; readonly rank: number; readonly us: number[] }[];
  };
}

const orNull = (text: string): string | null => (text === '' ? null : text);

export async function measureCollectives(measure: NativeCollectives, gpus: number) {
  const { samples, sums } = await callAddon(() => measure(gpus));
  const { checkedCalls, launches, checks, planted, wrong, nccl } = JSON.parse(samples) as Samples;
  return {
    launches,
    planted,
    wrong,
    sums: checks.map((check, i) => ({
      ...check,
      calls: checkedCalls,
      digests: sums[i]!.map((values) => {
        const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
        return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
      }),
    })),
    nccl: {
      version: orNull(nccl.version),
      lack: orNull(nccl.lack),
      graphLack: orNull(nccl.graphLack),
      batch: nccl.batch,
      times: nccl.times,
    },
  };
}
