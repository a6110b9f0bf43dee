/**
 * What `kilotoken bench kernels` writes: every raw sample, and the figures derived from them (kernels-figures.ts). The definitions check the
 * samples that come from the addon and from peers/run.py, the document, and make its JSON Schema.
 */
import { z } from 'zod';

export const BENCH_KERNELS_SCHEMA_ID = 'kilotoken/bench-kernels@1';
export const BENCH_PEERS_SCHEMA_ID = 'kilotoken/bench-peers@1';

const Microseconds = z.array(z.number().positive()).min(3).describe('microseconds, one sample a repeat');
const Count = z.int().positive();
const Weights = z.enum(['mxfp4', 'fp8', 'bf16', 'f32']).describe('how the weights are stored');
const PeerWeights = z.enum([...Weights.options, 'int4']).describe('how the weights are stored');
export type PeerWeights = z.infer<typeof PeerWeights>;

const ReadRate = z.strictObject({
  ringKib: Count,
  pageBytes: Count,
  bytes: Count.describe('distinct memory read in one sample'),
  us: Microseconds,
});

const Hop = z.strictObject({ partner: Count.describe('block that block 0 trades with'), us: Microseconds });

export const Floors = z.strictObject({
  blocks: Count.describe('one a multiprocessor'),
  clockStepNs: z.number().positive().describe("smallest step of the GPU's common clock"),
  reads: z.array(ReadRate).min(1),
  barrierUs: Microseconds.describe('all blocks meet at one counter; microseconds, one sample a repeat of many'),
  flag: z.array(Hop).min(1).describe('one way, by a flag'),
  flagged: z.array(Hop).min(1).describe('one way, 512 bytes and then a flag'),
  carried: z.array(Hop).min(1).describe('one way, 512 bytes whose words are their own flags'),
  launchUs: Microseconds.describe('an empty kernel, back to back in a stream'),
  graphNodeUs: Microseconds.describe('the same kernel in a chain of nodes of a CUDA graph'),
});
export type Floors = z.infer<typeof Floors>;

export const Operation = z.strictObject({
  op: z.enum(['qkv', 'o', 'dense-up', 'dense-down', 'router', 'head', 'expert-pair']),
  weights: Weights,
  rows: Count.nullable(),
  k: Count.nullable(),
  experts: Count.nullable().describe('distinct experts of a step; null where there are none'),
  m: Count.describe('live rows of the step'),
  arrangement: z
    .enum(['stream', 'chain'])
    .describe('stream: one call follows another as the ring allows; chain: each waits for the sums of the one before'),
  choice: z
    .enum(['before', 'within'])
    .nullable()
    .optional()
    .describe(
      'of experts (top-k): made by a launch before the timed one, or within it; null: there is none; absent in older documents: within',
    ),
  bytes: Count.describe('weights and scales of one call, as stored'),
  copies: Count.describe('calls until weights are used again'),
  calls: Count.describe('of one launch'),
  spanUs: Microseconds.describe(
    'of one launch, from the first call that begins to the last that ends, on the clock of the GPU',
  ),
  check: z
    .strictObject({ values: Count, error: z.number().min(0), bound: z.number().positive() })
    .describe('before timing: the worst difference from a computation in double, relative to what was summed'),
});
export type Operation = z.infer<typeof Operation>;

const LayerTimes = z.strictObject({
  m: Count.describe('rows of a step'),
  context: Count,
  fewUs: Microseconds,
  manyUs: Microseconds,
  experts: z.array(z.number().positive()).min(3).describe('by round: distinct experts of a layer'),
});

export const Layers = z.strictObject({
  few: Count.describe('layers of the smaller slice'),
  many: Count,
  linearBytes: Count.describe('of one layer as stored, experts apart'),
  expertBytes: Count.describe("of one expert's part"),
  times: z.array(LayerTimes),
});
export type Layers = z.infer<typeof Layers>;

const Cause = z.looseObject({ why: z.string() });

export const PeerRow = z.strictObject({
  matrix: z.string(),
  rows: Count.nullable(),
  k: Count.nullable(),
  experts: Count.nullable(),
  m: Count,
  peer: z.string(),
  weights: PeerWeights,
  mode: z.string().describe('how calls are issued: eager, or replays of a CUDA graph'),
  bytes: Count.describe('weights and scales of one call, as this peer stores them'),
  copies: Count,
  error: z.number().min(0).describe("the worst row's relative distance from a computation in binary64"),
  errorBound: z.number().positive(),
  us: Microseconds.describe('of one call; one sample a replay of all copies'),
});
export type PeerRow = z.infer<typeof PeerRow>;

export const Peers = z.strictObject({
  schema: z.literal(BENCH_PEERS_SCHEMA_ID),
  device: z.string(),
  multiprocessors: Count,
  torch: z.string(),
  cuda: z.string(),
  triton: z.string(),
  cudnn: z.string(),
  driver: z.string(),
  rows: z.array(PeerRow),
  leftOut: z.array(Cause).describe('what a peer could not do, did wrong, or had no time for, and why'),
});
export type Peers = z.infer<typeof Peers>;

export const Raw = z.strictObject({
  floors: Floors,
  operations: z.array(Operation),
  layers: Layers.nullable(),
  peers: Peers.nullable(),
});
export type Raw = z.infer<typeof Raw>;

// --- derived

const Summary = z.strictObject({ median: z.number(), least: z.number(), most: z.number(), samples: Count });
export type Summary = z.infer<typeof Summary>;

const HopFigures = z
  .strictObject({ partners: Count, medianUs: z.number(), bestUs: z.number(), worstUs: z.number() })
  .describe("over all partners, of each partner's median");

const Rate = { us: Summary, gbPerS: z.number(), share: z.number().describe('of the read ceiling') };

export const Figures = z.strictObject({
  ceiling: z
    .strictObject({ gbPerS: z.number(), ringKib: Count, pageBytes: Count })
    .describe('the best median read rate'),
  reads: z.array(z.strictObject({ ringKib: Count, pageBytes: Count, us: Summary, gbPerS: z.number() })),
  barrierUs: Summary,
  hops: z.strictObject({ flag: HopFigures, flagged: HopFigures, carried: HopFigures }),
  launchUs: Summary,
  graphNodeUs: Summary,
  operations: z.array(
    z.strictObject({
      op: Operation.shape.op,
      weights: Weights,
      experts: Count.nullable(),
      m: Count,
      arrangement: Operation.shape.arrangement,
      choice: Operation.shape.choice,
      bytes: Count,
      ...Rate,
      peer: z
        .strictObject({ peer: z.string(), mode: z.string(), us: z.number(), ratio: z.number() })
        .nullable()
        .describe('the fastest peer on this matrix with weights no narrower; ratio: its time over ours'),
    }),
  ),
  layers: z.array(
    z.strictObject({
      m: Count,
      experts: z.number(),
      bytes: z.number(),
      us: z.number(),
      gbPerS: z.number(),
      share: z.number(),
      timesItsBytes: z.number().describe('time over that of its bytes at the read ceiling'),
    }),
  ),
  peers: z.array(
    z.strictObject({
      matrix: z.string(),
      m: Count,
      experts: Count.nullable(),
      peer: z.string(),
      weights: PeerWeights,
      mode: z.string(),
      ...Rate,
    }),
  ),
});
export type Figures = z.infer<typeof Figures>;

export const BenchKernels = z.strictObject({
  schema: z.literal(BENCH_KERNELS_SCHEMA_ID),
  made: z.iso.datetime(),
  commit: z.string(),
  dirty: z.boolean(),
  build: z.string().describe('sha256 of the addon that was run'),
  gpu: z.strictObject({
    name: z.string(),
    capability: z.string(),
    driverCuda: z.int(),
    runtimeCuda: z.int(),
    memory: z.int(),
  }),
  raw: Raw,
  figures: Figures,
});
export type BenchKernels = z.infer<typeof BenchKernels>;

/** JSON Schema (draft 2020-12) of the document, newline included. */
export function benchKernelsSchemaText(): string {
  const { $schema, ...rest } = z.toJSONSchema(BenchKernels, {
    target: 'draft-2020-12',
    override: ({ jsonSchema }) => {
      delete jsonSchema.format;
    },
  });
  const title = `What bench kernels writes (${BENCH_KERNELS_SCHEMA_ID})`;
  return `${JSON.stringify({ $schema, $id: 'schemas/bench-kernels.schema.json', title, ...rest }, null, 2)}\n`;
}
