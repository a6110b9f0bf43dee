/**
 * `report.json`: what a run concluded, in the form a reader sees. The harness computes every number in it from the run's
 * raw rows; the site only sets it in type. One zod definition gives the TypeScript types, the runtime check and the
 * published JSON Schema.
 *
 * Results are unions on `state`, so a number that was not measured cannot be printed.
 */
import { z } from 'zod';

/** Of runs that have no speed plan (all before run@2): without `measurement`. */
export const FIRST_REPORT_SCHEMA_ID = 'kilotoken/report@1';
export const REPORT_SCHEMA_ID = 'kilotoken/report@2';

/** The house's words. Never "verified". */
export const Outcome = z.enum([
  'consistent',
  'refuted',
  'inconclusive',
  'not testable here',
  'internally inconsistent',
]);

/** Anything that makes a number doubtful, shown beside the number. */
export const Warning = z.object({
  code: z.enum([
    'short-run',
    'few-prompts',
    'synthetic-weights',
    'synthetic-acceptance',
    'defects-compiled-in',
    'foreign-load',
    'no-correctness-verdict',
    'dirty-tree',
    'repetitive-output',
    'not-steady',
    'throttled',
    'cached',
    'few-processes',
    'assumed',
    'invalid',
  ]),
  text: z.string(),
});

export const Interval = z.object({
  low: z.number(),
  high: z.number(),
  /** Two-sided confidence, for instance 0.95. */
  level: z.number(),
  /** How it was made, for instance `BCa bootstrap by prompt, 2000 resamples, seed 1`. */
  method: z.string(),
});

export const Measured = z.discriminatedUnion('state', [
  z.object({
    state: z.literal('measured'),
    value: z.number(),
    unit: z.string(),
    interval: Interval.nullable(),
    /** Observations behind the value and what one is, for instance 64 prompts. */
    n: z.int(),
    of: z.string(),
    warnings: z.array(Warning),
  }),
  z.object({ state: z.literal('not yet measured'), reason: z.string() }),
]);

export const Verdict = z.object({
  id: z.string(),
  /** The question in one sentence, for instance "Greedy output with speculation equals greedy output without it". */
  question: z.string(),
  outcome: Outcome,
  /** One sentence of evidence: what was compared, how many tokens, the first difference if any. */
  evidence: z.string(),
  /** For `consistent`: the smallest effect this test would have caught, in words with numbers. */
  wouldHaveCaught: z.string().nullable(),
  n: z.int(),
  of: z.string(),
  engines: z.array(z.string()),
  scenarios: z.array(z.string()),
  warnings: z.array(Warning),
});

/** How directly a figure was observed, best first: every round; whole requests; the engine's counters; by formula from others. */
export const Source = z.enum(['trace', 'request', 'counter', 'inferred']);

export const AcceptanceRow = z.object({
  engine: z.string(),
  scenario: z.string(),
  decoding: z.string(),
  rule: z.string(),
  blockSize: z.int(),
  prompts: z.int(),
  rounds: z.int(),
  /** Pooled over rounds; the bonus token counts, so the range is 1 .. block. */
  rawMicro: Measured,
  /** Mean of per-prompt means. */
  rawMacro: Measured,
  /** As raw, after the cut at a stop id or the token limit. */
  keptMicro: Measured,
  keptMacro: Measured,
  /** survival[i] = share of rounds whose draft i + 1 was accepted, i = 0 .. block - 2. */
  survival: z.array(z.number()),
  /** histogram[a] = rounds with a accepted drafts, a = 0 .. block - 1. */
  histogram: z.array(z.int()),
  /** Acceptance length an n-gram (prompt lookup) drafter would have had on the same outputs. */
  ngramBaseline: Measured,
  /** Share of generated tokens inside a loop that repeats verbatim; high values inflate acceptance. */
  repetition: Measured,
  /** The published figure for this scenario, or null. */
  published: z.object({ value: z.number(), source: z.string() }).nullable(),
  /** How directly the acceptance was observed. Absent in report@1. */
  source: Source.optional(),
});

export const SpeedRow = z.object({
  engine: z.string(),
  scenario: z.string(),
  decoding: z.string(),
  speculation: z.boolean(),
  rule: z.string(),
  blockSize: z.int(),
  /** Decode tokens per second: kept tokens of decode rounds / their wall time; prefill lies outside. */
  decodeTokensPerSecond: Measured,
  /** Mean wall time of a decode round. */
  stepMs: Measured,
  prefillTokensPerSecond: Measured,
  /** Against the row without speculation of the same scenario and decoding. */
  speedup: Measured,
});

/** A figure with the formula it was computed by. */
export const Figure = z.object({
  /** Short and stable, for instance `decode-tps`. */
  id: z.string(),
  name: z.string(),
  formula: z.string(),
  source: Source,
  figure: Measured,
});

/** One scenario and concurrency, one arm. */
export const SpeedCell = z.object({
  id: z.string(),
  engine: z.string(),
  scenario: z.string(),
  concurrency: z.int(),
  decoding: z.string(),
  speculation: z.boolean(),
  rule: z.string(),
  blockSize: z.int(),
  /** Sustained for as long as a headline asks, valid, undisturbed, in fresh processes, and with a consistent verdict on its output. */
  headline: z.boolean(),
  /** What was timed. Seconds: first start to last end, summed over processes. */
  window: z.object({
    seconds: z.number(),
    longestSeconds: z.number(),
    processes: z.int(),
    freshProcesses: z.boolean(),
    sessions: z.int(),
    rounds: z.int(),
    tokens: z.int(),
    prompts: z.int(),
  }),
  warmup: z.object({ criterion: z.string(), steady: z.int(), of: z.int() }),
  /** What this run says of the output that was timed. */
  correctness: z.object({
    outcome: z.union([Outcome, z.literal('no verdict')]),
    evidence: z.string(),
  }),
  /** Decode tokens per second against acceptance length over step time; null without a decode round. */
  identity: z
    .object({
      tokensPerSecond: z.number(),
      acceptanceLength: z.number(),
      stepMs: z.number(),
      /** |tokens per second x step time / acceptance length - 1| */
      residual: z.number(),
      tolerance: z.number(),
      holds: z.boolean(),
    })
    .nullable(),
  /** Peak over mean against what a block allows; null when no window was long enough. */
  peak: z.object({ seconds: z.number(), ratio: z.number(), most: z.number(), holds: z.boolean() }).nullable(),
  /** Why no figure of this cell may be used; empty when it may. */
  invalidBecause: z.array(z.string()),
  warnings: z.array(Warning),
  figures: z.array(Figure),
});

/** The two arms of a scenario and concurrency beside each other. */
export const SpeedComparison = z.object({
  scenario: z.string(),
  concurrency: z.int(),
  decoding: z.string(),
  rule: z.string(),
  figures: z.array(Figure),
});

/** Acceptance of the prompts that share a value of a facet. */
export const FacetRow = z.object({
  engine: z.string(),
  rule: z.string(),
  decoding: z.string(),
  facet: z.enum(['language', 'thinking', 'context', 'temperature']),
  value: z.string(),
  prompts: z.int(),
  rounds: z.int(),
  rawMicro: Measured,
  keptMicro: Measured,
  source: Source,
});

/** Something that would make the measurement dishonest, and whether it was seen. */
export const HonestyCheck = z.object({
  id: z.string(),
  question: z.string(),
  outcome: z.enum(['clear', 'found', 'not checked']),
  evidence: z.string(),
});

export const Measurement = z.object({
  mode: z.enum(['short', 'sustained']),
  /** In one sentence what kind of measurement this is; stands beside its figures. */
  statement: z.string(),
  cells: z.array(SpeedCell),
  comparisons: z.array(SpeedComparison),
  facets: z.array(FacetRow),
  /** Facets of which the prompts of this run say nothing. */
  absentFacets: z.array(z.object({ facet: z.string(), reason: z.string() })),
  checks: z.array(HonestyCheck),
  /** What telemetry there was. */
  telemetry: z.array(
    z.object({
      source: z.string(),
      devices: z.int(),
      readings: z.int(),
      hz: z.number(),
      quantities: z.array(z.string()),
    }),
  ),
});

export const EngineRow = z.object({
  name: z.string(),
  weightsDigest: z.string(),
  draftDigest: z.string(),
  numerics: z.string(),
  device: z.string(),
  topology: z.string(),
  tensorParallel: z.int(),
  blockSize: z.int(),
  rule: z.string(),
  buildDigest: z.string(),
  vocabSize: z.int(),
  maxContext: z.int(),
  defects: z.array(z.string()),
  syntheticAcceptance: z.string().nullable(),
});

/** A claim of the ledger (suites/claims.json) and what this run says of it. */
export const ClaimRow = z.object({
  id: z.string(),
  claim: z.string(),
  source: z.string(),
  outcome: z.union([Outcome, z.literal('not yet measured')]),
  finding: z.string(),
});

export const Report = z.object({
  $schema: z.string(),
  schema: z.enum([FIRST_REPORT_SCHEMA_ID, REPORT_SCHEMA_ID]),
  run: z.object({
    id: z.string(),
    title: z.string(),
    startedAt: z.string(),
    seconds: z.number(),
    command: z.string(),
    seed: z.string(),
    commit: z.string(),
    dirty: z.boolean(),
    publishable: z.boolean(),
    notPublishableBecause: z.array(z.string()),
  }),
  machine: z.object({
    cpu: z.string(),
    cores: z.int(),
    memoryGiB: z.number(),
    os: z.string(),
    node: z.string(),
    gpus: z.array(z.string()),
  }),
  /** What kind of model this is, said beside every number: trained nano, synthetic pro, or real. */
  model: z.object({ kind: z.enum(['nano', 'pro-synthetic', 'real']), name: z.string(), note: z.string() }),
  engines: z.array(EngineRow),
  suites: z.array(z.object({ scenario: z.string(), prompts: z.int(), promptTokens: z.int(), digest: z.string() })),
  verdicts: z.array(Verdict),
  acceptance: z.array(AcceptanceRow),
  speed: z.array(SpeedRow),
  /** Speed by every definition, facets and checks. Absent in report@1. */
  measurement: Measurement.optional(),
  claims: z.array(ClaimRow),
  warnings: z.array(Warning),
  /** Name and sha256 of every other file of the run. */
  files: z.array(z.object({ path: z.string(), sha256: z.string(), bytes: z.int() })),
});

export type Outcome = z.infer<typeof Outcome>;
export type Warning = z.infer<typeof Warning>;
export type Interval = z.infer<typeof Interval>;
export type Measured = z.infer<typeof Measured>;
export type Verdict = z.infer<typeof Verdict>;
export type AcceptanceRow = z.infer<typeof AcceptanceRow>;
export type SpeedRow = z.infer<typeof SpeedRow>;
export type Source = z.infer<typeof Source>;
export type Figure = z.infer<typeof Figure>;
export type SpeedCell = z.infer<typeof SpeedCell>;
export type SpeedComparison = z.infer<typeof SpeedComparison>;
export type FacetRow = z.infer<typeof FacetRow>;
export type HonestyCheck = z.infer<typeof HonestyCheck>;
export type Measurement = z.infer<typeof Measurement>;
export type EngineRow = z.infer<typeof EngineRow>;
export type ClaimRow = z.infer<typeof ClaimRow>;
export type Report = z.infer<typeof Report>;
