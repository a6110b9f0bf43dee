/** `report.json` of a node benchmark: what a reader sees, every number of it computed from the rows. */
import { z } from 'zod';
import { Measured, Verdict } from '../../report/schema.ts';

export const NODE_REPORT_SCHEMA_ID = 'kilotoken/node-report@1';

export const NodeFigure = z.object({
  id: z.string(),
  name: z.string(),
  /** How it follows from the rows, in words and symbols. */
  formula: z.string(),
  figure: Measured,
});

export const NodeCellRow = z.object({
  id: z.string(),
  group: z.string(),
  engine: z.string(),
  experts: z.string(),
  layers: z.int(),
  gpus: z.int(),
  sharedRouting: z.number(),
  mode: z.string(),
  speculation: z.boolean(),
  block: z.int(),
  /** `expected`: tokens a round that the profile gives at this block; `target`: at block 8. */
  profile: z.object({ name: z.string(), target: z.number(), expected: z.number() }).nullable(),
  context: z.int(),
  /** Timed generations that count. */
  repeats: z.int(),
  labels: z.array(z.string()),
  figures: z.array(NodeFigure),
});

/** Where the microseconds of a layer go: one kind of operation of the last round, on the first GPU, over the number of layers. */
export const NodeLayerOp = z.object({
  op: z.string(),
  /** Instructions in a round. */
  count: z.int(),
  /** Microseconds a layer; medians over the repeats. As NodeTraceOp of machine.ts. */
  totalUs: z.number(),
  mathUs: z.number(),
  busyUs: z.number(),
  slowestUs: z.number(),
  /** totalUs - busyUs. Above 0 at least so much waiting for other blocks and GPUs, skew included; below 0 at least so much overlap with its neighbours. */
  waitUs: z.number(),
});

export const NodeLayerRow = z.object({
  id: z.string(),
  layers: z.int(),
  gpus: z.int(),
  speculation: z.boolean(),
  repeats: z.int(),
  labels: z.array(z.string()),
  totalUs: z.number(),
  waitUs: z.number(),
  ops: z.array(NodeLayerOp),
});

export const NodeComparison = z.object({
  id: z.string(),
  name: z.string(),
  formula: z.string(),
  labels: z.array(z.string()),
  figure: Measured,
});

/** Times of a call of one kind of all-reduce on so many GPUs, microseconds: of the rank whose median is longest. */
export const NodeCollectiveRow = z.object({
  id: z.string(),
  gpus: z.int(),
  how: z.string(),
  arrangement: z.string(),
  rows: z.int(),
  /** Launches, or batches of a library. */
  launches: z.int(),
  /** Of a rank. */
  samples: z.int(),
  medianUs: z.number(),
  p5Us: z.number(),
  p95Us: z.number(),
  meanUs: z.number(),
  /** A call of the block of threads for which a launch took longest, mean over the launch; null for a library. */
  slowestUs: z.number().nullable(),
  rankMediansUs: z.array(z.number()),
  /** Of the multiprocessor with the samples, by rank, over all launches; empty for a library. */
  clockMhz: z.array(z.number()),
});

export const NodeCollectives = z.object({
  rows: z.array(NodeCollectiveRow),
  /** What a call adds to what waits for it, and how many times longer a library takes. */
  exposed: z.array(NodeComparison),
  lacks: z.array(z.object({ gpus: z.int(), what: z.string(), reason: z.string() })),
});

export const NodeTarget = z.object({
  id: z.string(),
  name: z.string(),
  unit: z.string(),
  must: z.number(),
  aim: z.number(),
  better: z.enum(['higher', 'lower']),
  outcome: z.enum(['aim reached', 'must reached', 'missed', 'not yet measured']),
  figure: Measured,
});

export const NodeGpuUse = z.object({
  gpu: z.string(),
  readings: z.int(),
  powerW: z.object({ mean: z.number(), most: z.number() }).nullable(),
  smClockMhz: z.object({ median: z.number(), least: z.number() }).nullable(),
  temperatureC: z.number().nullable(),
  throttled: z.array(z.string()),
});

export const NodeReport = z.object({
  $schema: z.string(),
  schema: z.literal(NODE_REPORT_SCHEMA_ID),
  run: z.object({
    id: z.string(),
    title: z.string(),
    startedAt: z.string(),
    status: z.string(),
    seconds: z.number(),
    command: z.string(),
    commit: z.string(),
    dirty: z.boolean(),
    seed: z.string(),
  }),
  machine: z.object({ gpus: z.int(), used: z.int(), gpu: z.string(), cpu: z.string(), os: z.string() }),
  /** What every number of the report stands under. */
  labels: z.array(z.string()),
  warnings: z.array(z.string()),
  verdicts: z.array(Verdict),
  profiles: z.array(
    z.object({ name: z.string(), target: z.number(), chances: z.array(z.number()), source: z.string() }),
  ),
  floors: z.array(NodeFigure),
  models: z.array(
    z.object({
      id: z.string(),
      layers: z.int(),
      gpus: z.int(),
      loadSeconds: z.number(),
      /** Bytes of weights on the first GPU, as the engine says; and what a GPU was estimated to hold in all. */
      weightBytes: z.number().nullable(),
      estimatedGpuBytes: z.number(),
      lack: z.string().nullable(),
    }),
  ),
  cells: z.array(NodeCellRow),
  layers: z.array(NodeLayerRow),
  notMeasured: z.array(z.object({ cell: z.string(), group: z.string(), reason: z.string() })),
  comparisons: z.array(NodeComparison),
  /** Computed for 8 GPUs and all layers from what was measured on less; empty where nothing needs it. */
  projections: z.array(NodeComparison),
  targets: z.array(NodeTarget),
  /** Missing where the plan has none. */
  collectives: NodeCollectives.optional(),
  telemetry: z.array(NodeGpuUse),
});

export type NodeFigure = z.infer<typeof NodeFigure>;
export type NodeCellRow = z.infer<typeof NodeCellRow>;
export type NodeLayerOp = z.infer<typeof NodeLayerOp>;
export type NodeLayerRow = z.infer<typeof NodeLayerRow>;
export type NodeComparison = z.infer<typeof NodeComparison>;
export type NodeCollectiveRow = z.infer<typeof NodeCollectiveRow>;
export type NodeCollectives = z.infer<typeof NodeCollectives>;
export type NodeTarget = z.infer<typeof NodeTarget>;
export type NodeGpuUse = z.infer<typeof NodeGpuUse>;
export type NodeReport = z.infer<typeof NodeReport>;
