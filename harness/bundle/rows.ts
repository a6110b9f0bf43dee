/**
 * What a run directory holds, one zod definition a file. The same definitions check every row when it is written (an
 * engine is not trusted to return numbers) and when it is read back, and give the published JSON Schemas.
 *
 *   plan.json        what was to be run, fixed before the first token; its bytes are its canonical form (RFC 8785)
 *   manifest.json    what was run on what, and the row files with the sha256 of their rows
 *   prompts.jsonl    one prompt a line, as token ids
 *   sessions.jsonl   one opened session a line
 *   rounds.jsonl     one engine round a line
 *   faults.jsonl     one session that did not end properly a line
 *   timings.jsonl    one timed session or segment a line (harness/measure/rows.ts)
 *   telemetry.jsonl  one reading of a sensor a line
 *   events.jsonl     one thing that happened a line
 *   verdicts.json    what was concluded
 *   report.json      the same with every figure a reader sees (harness/report/schema.ts)
 *   tree.json        sha256 of every file above, and of that list (tree.ts)
 *
 * Row files are stored gzipped (`rounds.jsonl.gz`). Every `t_ns` is nanoseconds of the harness's monotonic clock since the run
 * began. Runs of schema `kilotoken/run@1` (plan inside the manifest, no telemetry, events and tree) are still read.
 */
import { z } from 'zod';
import { SpeedPlan, TimingRow } from '../measure/rows.ts';
import { ClaimRow, Report, Verdict } from '../report/schema.ts';
import { Claim } from '../suite/claims.ts';
import { Provenance } from './provenance.ts';

export const RUN_SCHEMA_ID = 'kilotoken/run@2';
export const FIRST_RUN_SCHEMA_ID = 'kilotoken/run@1';
export const VERDICTS_SCHEMA_ID = 'kilotoken/verdicts@1';

const Count = z.int().nonnegative();
const TokenId = z.int().nonnegative();
const Nanoseconds = z.number().nonnegative();
export const Digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);

export const Rule = z.enum(['match', 'reject', 'coupled']);

export const Decoding = z.strictObject({
  /** Unsigned 64-bit, decimal. */
  seed: z.string().regex(/^[0-9]{1,20}$/),
  temperature: z.number().nonnegative(),
  topP: z.number().positive().max(1),
  topK: Count,
  maxTokens: z.int().positive(),
  stopIds: z.array(TokenId),
});

/** The two sides of every comparison. */
export const Arm = z.enum(['plain', 'speculative']);

export const PromptRow = z.strictObject({
  id: z.string().min(1),
  scenario: z.string().min(1),
  ids: z.array(TokenId).min(1),
  digest: Digest,
  /** Of the suite, for instance `lang:en`; facets of the report. Absent before run@2. */
  tags: z.array(z.string()).optional(),
});

export const SessionRow = z.strictObject({
  /** `phase/arm/prompt/repeat`; unique in the run. */
  session: z.string().min(1),
  phase: z.string().min(1),
  arm: Arm,
  /** An engine of the manifest. */
  engine: z.string().min(1),
  prompt: z.string().min(1),
  scenario: z.string().min(1),
  repeat: Count,
  decoding: Decoding,
  promptTokens: z.int().positive(),
  promptDigest: Digest,
  /** cardDigest of the engine, so that a card cannot be changed afterwards alone. Absent before run@2. */
  engineDigest: Digest.optional(),
});

export const RoundRow = z.strictObject({
  session: z.string().min(1),
  /** 0 is the prefill. */
  index: Count,
  kind: z.enum(['prefill', 'decode']),
  committed: z.array(TokenId),
  drafted: z.array(TokenId),
  accepted: Count,
  finish: z.enum(['stop', 'length']).nullable(),
  /** The engine's own wall clock. */
  ns: z.strictObject({ draft: Nanoseconds, verify: Nanoseconds, total: Nanoseconds }),
  /** The engine's device clock, where it has one. */
  deviceNs: z.strictObject({ draft: Nanoseconds, verify: Nanoseconds, total: Nanoseconds }).nullable(),
  /** The harness's clock around the step. Figures use this one: it is not the engine's to choose. */
  wallNs: Nanoseconds,
  /** The harness's clock just before the step. Absent before run@2. */
  t_ns: Nanoseconds.optional(),
  /** On round 0: the parameters as the engine says it took them, where it says so. */
  echoed: Decoding.optional(),
  /** One entry a committed token, where the engine shows its rows: the five likeliest tokens with their natural-log probabilities. */
  top5: z.array(z.array(z.tuple([TokenId, z.number()])).max(5)).optional(),
});

/** One reading of one sensor. Quantities a source does not have are absent. */
export const TelemetryRow = z.strictObject({
  t_ns: Nanoseconds,
  /** What was read, for instance `nvidia-smi`, `rapl`, `/proc/stat`. */
  source: z.string().min(1),
  /** Which of several, for instance a GPU's index; absent for the whole machine. */
  device: z.string().optional(),
  power_w: z.number().nonnegative().optional(),
  /** Since the counter's own zero; never falls within a run. */
  energy_j: z.number().nonnegative().optional(),
  sm_clock_mhz: z.number().nonnegative().optional(),
  mem_clock_mhz: z.number().nonnegative().optional(),
  temperature_c: z.number().optional(),
  /** As the driver names or codes them; empty when nothing throttles. */
  throttle_reasons: z.array(z.string()).optional(),
  utilisation: z.number().min(0).max(1).optional(),
  memory_used_mib: z.number().nonnegative().optional(),
  /** Cores that other processes keep busy. */
  foreign_load: z.number().nonnegative().optional(),
  /** Cores busy in all. */
  cpu_load: z.number().nonnegative().optional(),
  /** The part of a merged run it comes from, from 1. */
  shard: z.int().positive().optional(),
});

/**
 * Something that happened at a time. `run-start` and `run-end` are the writer's own; the runner adds `phase-start` and `phase-end`
 * (with `phase`), and whatever else is worth a line. Other members are free.
 */
export const EventRow = z.looseObject({
  t_ns: Nanoseconds,
  kind: z.string().min(1),
  shard: z.int().positive().optional(),
});

export const FaultRow = z.strictObject({
  session: z.string().min(1),
  kind: z.enum([
    /** open() or step() rejected. */
    'threw',
    /** open() or step() did not settle in time. */
    'hung',
    /** A round was not of the agreed shape. */
    'malformed',
    /** The session went on past its token limit. */
    'overran',
    /** The run was interrupted during the session. */
    'interrupted',
    /** Not opened, because this engine had already failed too often. */
    'not run',
  ]),
  message: z.string(),
});

export const EngineCardRow = z.strictObject({
  name: z.string().min(1),
  weightsDigest: z.string(),
  draftDigest: z.string(),
  numerics: z.strictObject({
    id: z.string(),
    experts: z.string(),
    linears: z.string(),
    activations: z.string(),
    kv: z.string(),
  }),
  device: z.string(),
  topology: z.string(),
  tensorParallel: z.int().positive(),
  blockSize: z.int().positive(),
  rule: Rule,
  buildDigest: z.string(),
  vocabSize: z.int().positive(),
  maxContext: z.int().positive(),
  defects: z.array(z.string()),
  syntheticAcceptance: z.string().nullable(),
});

/** Two engines, one set of prompts. What is concluded from it depends on `test`. */
export const PhasePlan = z.strictObject({
  id: z.string().min(1),
  /** equality: the two outputs must be the same tokens. law: the same distribution. speed: only timed. */
  test: z.enum(['equality', 'law', 'speed']),
  rule: Rule,
  plain: z.string(),
  speculative: z.string(),
  prompts: z.array(z.string()).min(1),
  temperature: z.number().nonnegative(),
  topP: z.number().positive().max(1),
  topK: Count,
  maxTokens: z.int().positive(),
  /** Sessions per arm and prompt: seeds of a law test, ABBA pairs of a speed test, 1 for equality. */
  repeats: z.int().positive(),
  /** Sessions in flight at once. */
  concurrency: z.int().positive(),
});

export const Plan = z.strictObject({
  seed: z.string().regex(/^[0-9]{1,20}$/),
  stopIds: z.array(TokenId),
  phases: z.array(PhasePlan).min(1),
  /** Tokens of the prompt's end a law test keeps; the law is conditional on whatever prefix it gets. */
  lawPromptTokens: z.int().positive(),
  /** Family-wise false-alarm rate of a law test. */
  lawAlpha: z.number().positive().max(0.1),
  lawPower: z.number().min(0.5).max(0.9999),
  /** A law test that could not have caught this total variation distance is inconclusive. */
  lawLargestBlindEffect: z.number().positive().max(1),
  stepTimeoutSeconds: z.number().positive(),
  bootstrapResamples: z.int().positive(),
  /** Made by `audit --quick`: a look, never published. In the plan, so that shards and their merge have it. Absent in every other plan. */
  quick: z.literal(true).optional(),
  /** cardDigest of every engine, by its name: what is run is fixed together with how. Absent before run@2. */
  engines: z.record(z.string(), Digest).optional(),
  /** What is timed and how; null when nothing is. Absent before run@2. */
  speed: SpeedPlan.nullable().optional(),
});

export const Machine = Report.shape.machine;

/** What manifest.json says of a row file: sha256 and size of the rows as text, whatever their file is compressed with. */
export const RunFile = z.strictObject({
  path: z.string(),
  sha256: Digest,
  bytes: Count,
  /** Lines. Absent before run@2. */
  rows: Count.optional(),
});

/** One of `of` parts of a plan that were run apart; index from 1. */
export const Shard = z.strictObject({ index: z.int().positive(), of: z.int().positive() });

/** What a merged run says of a shard it was joined from. */
export const MergedPart = z.strictObject({
  shard: Shard,
  id: z.string().min(1),
  startedAt: z.string(),
  /** The shards lie one behind another on the clock of the merged run; this one from here, for so many seconds. */
  offsetNs: Nanoseconds,
  seconds: z.number().nonnegative(),
  /** headDigest of the shard's manifest, as its run-start has it. */
  head: Digest,
  machine: Machine,
  provenance: Provenance,
  /** sha256 of the shard's manifest.json, and the root of its tree. */
  manifestSha256: Digest,
  treeRoot: Digest,
  foreignCores: z.number().nullable(),
});

const MANIFEST = {
  $schema: z.string(),
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
  model: Report.shape.model,
  /** Keyed by the name the plan, the rows and the report use. */
  engines: z.record(z.string(), EngineCardRow),
  suites: Report.shape.suites,
  tokenizer: z.strictObject({ digest: z.string(), templateDigest: z.string() }).nullable(),
  /** sha256 of the canonical plan. */
  planDigest: Digest,
  /** suites/claims.json as it was. */
  ledger: z.array(Claim),
  /** Cores kept busy by other processes during the speed phase; null when it was not reached. */
  foreignCores: z.number().nullable(),
  files: z.array(RunFile),
};

/** manifest.json of the first schema: the plan stood inside. */
export const ManifestV1 = z.strictObject({ schema: z.literal(FIRST_RUN_SCHEMA_ID), ...MANIFEST, plan: Plan });

export const ManifestV2 = z.strictObject({
  schema: z.literal(RUN_SCHEMA_ID),
  ...MANIFEST,
  provenance: Provenance,
  /** sha256 of the canonical list of [id, digest] of the prompts, in order. */
  promptsDigest: Digest,
  /** Null when the whole plan was run in one piece, and after a merge. */
  shard: Shard.nullable(),
  /** Null but for a merged run. */
  parts: z.array(MergedPart).min(1).nullable(),
});

export const Verdicts = z.strictObject({
  $schema: z.string(),
  schema: z.literal(VERDICTS_SCHEMA_ID),
  run: z.string(),
  verdicts: z.array(Verdict),
  claims: z.array(ClaimRow),
});

export type Rule = z.infer<typeof Rule>;
export type Arm = z.infer<typeof Arm>;
export type PromptRow = z.infer<typeof PromptRow>;
export type SessionRow = z.infer<typeof SessionRow>;
export type RoundRow = z.infer<typeof RoundRow>;
export type FaultRow = z.infer<typeof FaultRow>;
export type EngineCardRow = z.infer<typeof EngineCardRow>;
export type PhasePlan = z.infer<typeof PhasePlan>;
export type Plan = z.infer<typeof Plan>;
export type RunFile = z.infer<typeof RunFile>;
export { TimingRow };
export type TelemetryRow = z.infer<typeof TelemetryRow>;
export type EventRow = z.infer<typeof EventRow>;
export type Shard = z.infer<typeof Shard>;
export type MergedPart = z.infer<typeof MergedPart>;
export type ManifestV1 = z.infer<typeof ManifestV1>;
export type ManifestV2 = z.infer<typeof ManifestV2>;
/** A manifest of any schema with its plan, as the rest of the harness takes it. */
export type Manifest = Omit<ManifestV2, '$schema' | 'schema' | 'provenance' | 'promptsDigest'> & {
  readonly schema: typeof RUN_SCHEMA_ID | typeof FIRST_RUN_SCHEMA_ID;
  readonly plan: Plan;
  /** Null before run@2. */
  readonly provenance: Provenance | null;
  readonly promptsDigest: string | null;
};
export type Verdicts = z.infer<typeof Verdicts>;
