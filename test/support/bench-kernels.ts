/** A kernel bench with made-up samples whose figures are easy to name, for tests of what is derived, checked and printed. */
import { deriveFigures } from '../../harness/bench/kernels-figures.ts';
import {
  BENCH_KERNELS_SCHEMA_ID,
  BENCH_PEERS_SCHEMA_ID,
  type BenchKernels,
  type PeerRow,
  type Raw,
} from '../../harness/bench/kernels-schema.ts';

export function sampleRaw(): Raw {
  const hops = (us: number) => [1, 2, 3].map((partner) => ({ partner, us: [us + partner / 10, us, us + partner / 5] }));
  const peer = (fields: Partial<PeerRow>): PeerRow => ({
    matrix: 'qkv',
    rows: 3392,
    k: 6144,
    experts: null,
    m: 8,
    peer: 'one',
    weights: 'fp8',
    mode: 'graph',
    bytes: 20_000_000,
    copies: 12,
    error: 0.001,
    errorBound: 0.01,
    us: [10, 11, 12],
    ...fields,
  });
  return {
    floors: {
      blocks: 4,
      clockStepNs: 32,
      reads: [
        { ringKib: 32, pageBytes: 8192, bytes: 4e9, us: [1010, 1000, 1020] },
        { ringKib: 64, pageBytes: 16384, bytes: 4e9, us: [1000, 790, 800] },
      ],
      barrierUs: [0.9, 0.95, 1],
      flag: hops(0.8),
      flagged: hops(1),
      carried: hops(0.4),
      launchUs: [2, 3, 4],
      graphNodeUs: [1, 1.5, 2, 1.5],
    },
    operations: [
      {
        op: 'qkv',
        weights: 'fp8',
        rows: 3392,
        k: 6144,
        experts: null,
        m: 8,
        arrangement: 'stream',
        bytes: 20_000_000,
        copies: 12,
        calls: 100,
        spanUs: [500, 510, 490],
        check: { values: 64, error: 1e-5, bound: 1e-4 },
      },
    ],
    layers: {
      few: 7,
      many: 14,
      linearBytes: 50e6,
      expertBytes: 2.5e6,
      times: [{ m: 8, context: 120, fewUs: [700, 710, 690], manyUs: [1050, 1060, 1040], experts: [59, 60, 61] }],
    },
    peers: {
      schema: BENCH_PEERS_SCHEMA_ID,
      device: 'A GPU',
      multiprocessors: 4,
      torch: '2.11',
      cuda: '13.0',
      triton: '3.6',
      cudnn: '9',
      driver: '580',
      rows: [
        peer({}),
        peer({ peer: 'two', us: [8, 9, 7] }),
        peer({ peer: 'narrower', weights: 'mxfp4', us: [1, 1, 1] }),
        peer({ peer: 'narrower still', weights: 'int4', us: [1, 1, 1] }),
        peer({ peer: 'of other rows', m: 4, us: [1, 1, 1] }),
        peer({ peer: 'wider', weights: 'bf16', us: [14, 15, 16] }),
      ],
      leftOut: [{ peer: 'three', why: 'no time left' }],
    },
  };
}

export function sampleBench(): BenchKernels {
  const raw = sampleRaw();
  return {
    schema: BENCH_KERNELS_SCHEMA_ID,
    made: '2026-01-01T00:00:00.000Z',
    commit: '0'.repeat(40),
    dirty: false,
    build: 'sha256:0',
    gpu: { name: 'A GPU', capability: '9.0', driverCuda: 13_000, runtimeCuda: 13_000, memory: 1 },
    raw,
    figures: deriveFigures(raw),
  };
}
