/**
 * What a run directory holds, one zod definition a file. The same definitions check every row when it is written (an
 * engine is not trusted to return numbers) and when it is read back, and give the published JSON Schemas.
 *
 *   manifest.json   what was run on what, the plan fixed before the run, and the other files with their sha256
 *   prompts.jsonl   one prompt a line, as token ids
 *   sessions.jsonl  one opened session a line
 *   rounds.jsonl    one engine round a line
 *   faults.jsonl    one session that did not end properly a line
 *   verdicts.json   what was concluded
 *   report.json     the same with every figure a reader sees (harness/report/schema.ts)
 */
import { z } from 'zod';
import { ClaimRow, Report, Verdict } from '../report/schema.ts';
import { Claim } from '../suite/claims.ts';

export const RUN_SCHEMA_ID = 'kilotoken/run@1';
export const VERDICTS_SCHEMA_ID = 'kilotoken/verdicts@1';

const Count = z.int().nonnegative();
const TokenId = z.int().nonnegative();
const Nanoseconds = z.number().nonnegative();
const Digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);

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
});

export const Machine = Report.shape.machine;

export const RunFile = z.strictObject({ path: z.string(), sha256: Digest, bytes: Count });

export const Manifest = z.strictObject({
  $schema: z.string(),
  schema: z.literal(RUN_SCHEMA_ID),
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
  plan: Plan,
  /** sha256 of the canonical plan. */
  planDigest: Digest,
  /** suites/claims.json as it was. */
  ledger: z.array(Claim),
  /** Cores kept busy by other processes during the speed phase; null when it was not reached. */
  foreignCores: z.number().nullable(),
  files: z.array(RunFile),
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
export type Manifest = z.infer<typeof Manifest>;
export type Verdicts = z.infer<typeof Verdicts>;
