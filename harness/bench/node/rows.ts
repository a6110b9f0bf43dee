/**
 * What the bundle of a node benchmark holds, kind `node@1`; one zod definition a file checks every row when it is written and when it
 * is read back.
 *
 *   plan.json          what was to be run, fixed before the first token; its bytes are its canonical form (RFC 8785)
 *   manifest.json      what was run on what, and the row files with the sha256 of their rows
 *   floors.jsonl       one measured floor a line
 *   models.jsonl       one opening of a model a line
 *   rounds.jsonl       one round a line, short names: g generation, i place, c committed ids, d drafted, a accepted, f finish,
 *                      ns device clock of draft and verification, e distinct experts of each mixture layer
 *   traces.jsonl       one kind of operation of a traced round a line
 *   collectives.jsonl  the all-reduce alone: a launch as one rank saw it, digests of sums, planted mistakes, NCCL, one a line. Empty where the plan
 *                      has none, missing from bundles that are older than it
 *   generations.jsonl  one generation a line: which task of the plan, the harness's clock around it, what its rounds add up to
 *   telemetry.jsonl    one reading of a sensor a line (harness/bundle/rows.ts)
 *   events.jsonl       one thing that happened a line
 *   report.json        every figure a reader sees, computed from the rows
 *   tree.json          sha256 of every file above
 */
import { z } from 'zod';
import { Provenance } from '../../bundle/provenance.ts';
import { Digest, EventRow, Machine, RunFile, TelemetryRow } from '../../bundle/rows.ts';
import { PlanTask } from './plan.ts';

export const NODE_SCHEMA_ID = 'kilotoken/node@1';

const Count = z.int().nonnegative();
/** Nanoseconds of the harness's monotonic clock since the run began, or of a duration. */
const Nanoseconds = z.number().nonnegative();

export const FloorRow = z.strictObject({
  t_ns: Nanoseconds,
  kind: z.literal('read'),
  gpus: z.int().positive(),
  /** One entry a GPU, all reading at once. */
  bytesPerSecond: z.array(z.number().positive()).min(1),
  method: z.string().min(1),
});

export const ModelRow = z.strictObject({
  t_ns: Nanoseconds,
  model: z.string().min(1),
  loadNs: Nanoseconds,
  /** As the engine says, on the first GPU. */
  weightBytes: z.number().positive().nullable(),
  /** Why it could not be opened; null when it could. */
  lack: z.string().nullable(),
});

export const NodeRoundRow = z.strictObject({
  g: Count,
  /** 0 is the prefill. */
  i: Count,
  c: z.array(Count),
  d: Count,
  a: Count,
  f: z.enum(['stop', 'length']).nullable(),
  ns: z.tuple([Nanoseconds, Nanoseconds]),
  e: z.array(Count),
});

/** One kind of operation in the last round of a traced generation; as NodeTraceOp of machine.ts. */
export const TraceRow = z.strictObject({
  g: Count,
  op: z.string().min(1),
  count: z.int().positive(),
  totalNs: Nanoseconds,
  mathNs: Nanoseconds,
  busyNs: Nanoseconds,
  slowestNs: Nanoseconds,
});

const CollectiveForm = z.enum(['one-hop', 'two-hops']);

/** One line of collectives.jsonl, over the first `gpus` GPUs; fields as in CollectiveSamples of machine.ts. */
export const CollectiveRow = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('launch'),
    t_ns: Nanoseconds,
    gpus: z.int().min(2),
    how: z.enum(['none', ...CollectiveForm.options]),
    arrangement: z.enum(['chain', 'step', 'barrier']),
    rows: z.int().positive(),
    launch: Count,
    rank: Count,
    spanNs: z.number().positive(),
    slowestNs: z.number().positive(),
    cycles: z.array(z.int().positive()).min(1),
  }),
  z.strictObject({
    kind: z.literal('sums'),
    t_ns: Nanoseconds,
    gpus: z.int().min(2),
    how: CollectiveForm,
    data: z.enum(['random', 'cancelling']),
    calls: z.int().min(1).max(64),
    /** By rank. */
    digests: z.array(Digest).min(2),
  }),
  z.strictObject({
    kind: z.literal('planted'),
    t_ns: Nanoseconds,
    gpus: z.int().min(2),
    how: CollectiveForm,
    mistake: z.string().min(1),
    seen: Count,
    values: z.int().positive(),
  }),
  z.strictObject({
    kind: z.literal('nccl'),
    t_ns: Nanoseconds,
    gpus: z.int().min(2),
    version: z.string(),
    how: z.enum(['eager', 'graph']),
    rank: Count,
    batch: z.int().positive(),
    us: z.array(z.number().positive()).min(1),
  }),
  /** wrong: sums that the machine itself found to be others. fault: a GPU faulted or a wait ran out; nothing follows. */
  z.strictObject({
    kind: z.enum(['wrong', 'fault']),
    t_ns: Nanoseconds,
    gpus: z.int().min(2),
    text: z.string().min(1),
  }),
  /** Why something was not measured. */
  z.strictObject({
    kind: z.literal('lack'),
    t_ns: Nanoseconds,
    gpus: z.int().min(2),
    of: z.enum(['all', 'NCCL', 'NCCL as a CUDA graph']),
    reason: z.string().min(1),
  }),
]);

export const GenerationFault = z.strictObject({
  /** threw: the machine gave up. refused: it cannot hold the request. malformed: a round was not of the agreed shape. */
  kind: z.enum(['threw', 'refused', 'malformed', 'hung', 'interrupted']),
  message: z.string(),
});

export const GenerationRow = z.strictObject({
  /** Number in the order of running, from 0. */
  g: Count,
  stage: z.string().min(1),
  ...PlanTask.shape,
  model: z.string().min(1),
  t_ns: Nanoseconds,
  /** The harness's clock around the prefill, and around all further rounds together; where an engine does both in one go, parted by its own. */
  prefillNs: Nanoseconds,
  decodeNs: Nanoseconds,
  rounds: Count,
  tokens: Count,
  /** sha256 over the committed ids as little-endian 32-bit words. */
  tokensDigest: Digest,
  /** sha256 over the logits of the last step; null where the engine does not show them. */
  logitsDigest: Digest.nullable(),
  /** Rows of traces.jsonl. */
  traced: Count,
  fault: GenerationFault.nullable(),
});

export const NODE_ROW_SCHEMAS = {
  'floors.jsonl': FloorRow,
  'models.jsonl': ModelRow,
  'rounds.jsonl': NodeRoundRow,
  'traces.jsonl': TraceRow,
  'generations.jsonl': GenerationRow,
  'collectives.jsonl': CollectiveRow,
  'telemetry.jsonl': TelemetryRow,
  'events.jsonl': EventRow,
} as const satisfies Record<string, z.ZodType>;

export type NodeRowFileName = keyof typeof NODE_ROW_SCHEMAS;
/** Files that a bundle written before them lacks; its manifest does not name them either. */
export const LATER_ROW_FILES: ReadonlySet<string> = new Set<NodeRowFileName>(['collectives.jsonl']);
export const NODE_ROW_FILES = Object.keys(NODE_ROW_SCHEMAS) as NodeRowFileName[];

export const NodeGpuRow = z.strictObject({
  index: Count,
  name: z.string().min(1),
  memory: z.number().positive(),
  freeMemory: z.number().nonnegative(),
  peers: z.array(Count),
});

export const NodeManifest = z.strictObject({
  $schema: z.string(),
  schema: z.literal(NODE_SCHEMA_ID),
  id: z.string().min(1),
  title: z.string(),
  startedAt: z.string(),
  /** running: still going, or killed. */
  status: z.enum(['running', 'complete', 'interrupted', 'failed']),
  seconds: z.number().nonnegative(),
  command: z.string(),
  commit: z.string(),
  dirty: z.boolean(),
  machine: Machine,
  /** All GPUs the driver shows, used or not. */
  gpus: z.array(NodeGpuRow).min(1),
  buildDigest: z.string(),
  provenance: Provenance,
  /** sha256 of plan.json. */
  planDigest: Digest,
  files: z.array(RunFile),
});

export type FloorRow = z.infer<typeof FloorRow>;
export type ModelRow = z.infer<typeof ModelRow>;
export type NodeRoundRow = z.infer<typeof NodeRoundRow>;
export type TraceRow = z.infer<typeof TraceRow>;
export type GenerationRow = z.infer<typeof GenerationRow>;
export type CollectiveRow = z.infer<typeof CollectiveRow>;
export type GenerationFault = z.infer<typeof GenerationFault>;
export type NodeManifest = z.infer<typeof NodeManifest>;
export { EventRow, TelemetryRow };
