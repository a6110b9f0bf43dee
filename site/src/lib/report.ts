/**
 * Reads one report.json and refuses what the page cannot set in type: bad JSON, another schema version, a missing or
 * mistyped field. Refusal is one sentence that names the file and the place in it.
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type {
  AcceptanceRow,
  ClaimRow,
  EngineRow,
  FacetRow,
  Figure,
  HonestyCheck,
  Interval,
  Measured,
  Measurement,
  Outcome,
  Report,
  Source,
  SpeedCell,
  SpeedComparison,
  SpeedRow,
  Verdict,
  Warning,
} from '../../../harness/report/schema.ts';
import {
  byState,
  type Check,
  flag,
  integer,
  listOf,
  nullable,
  number,
  object,
  oneOf,
  optional,
  text,
} from './shape.ts';

/** The second has a part on measurement. */
const SCHEMAS = ['kilotoken/report@1', 'kilotoken/report@2'] as const satisfies readonly Report['schema'][];

/** The report's fault, or its author's: where in the page's code it was noticed is of no use, so there is no stack. */
export class ReportError extends Error {
  override readonly name = 'ReportError';
  constructor(message: string) {
    super(message);
    this.stack = message;
  }
}

const outcome = oneOf(
  'consistent',
  'refuted',
  'inconclusive',
  'not testable here',
  'internally inconsistent',
) satisfies Check<Outcome>;

const warning = object<Warning>({
  code: oneOf(
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
  ),
  text,
});

const source = oneOf('trace', 'request', 'counter', 'inferred') satisfies Check<Source>;

const interval = object<Interval>({ low: number, high: number, level: number, method: text });

export const measured = byState<Measured>({
  measured: object({
    state: oneOf('measured'),
    value: number,
    unit: text,
    interval: nullable(interval),
    n: integer,
    of: text,
    warnings: listOf(warning),
  }),
  'not yet measured': object({ state: oneOf('not yet measured'), reason: text }),
});

export const verdict = object<Verdict>({
  id: text,
  question: text,
  outcome,
  evidence: text,
  wouldHaveCaught: nullable(text),
  n: integer,
  of: text,
  engines: listOf(text),
  scenarios: listOf(text),
  warnings: listOf(warning),
});

const acceptanceRow = object<AcceptanceRow>({
  engine: text,
  scenario: text,
  decoding: text,
  rule: text,
  blockSize: integer,
  prompts: integer,
  rounds: integer,
  rawMicro: measured,
  rawMacro: measured,
  keptMicro: measured,
  keptMacro: measured,
  survival: listOf(number),
  histogram: listOf(integer),
  ngramBaseline: measured,
  repetition: measured,
  published: nullable(object({ value: number, source: text })),
  source: optional(source),
});

const speedRow = object<SpeedRow>({
  engine: text,
  scenario: text,
  decoding: text,
  speculation: flag,
  rule: text,
  blockSize: integer,
  decodeTokensPerSecond: measured,
  stepMs: measured,
  prefillTokensPerSecond: measured,
  speedup: measured,
});

const figures = listOf(object<Figure>({ id: text, name: text, formula: text, source, figure: measured }));

const speedCell = object<SpeedCell>({
  id: text,
  engine: text,
  scenario: text,
  concurrency: integer,
  decoding: text,
  speculation: flag,
  rule: text,
  blockSize: integer,
  headline: flag,
  window: object({
    seconds: number,
    longestSeconds: number,
    processes: integer,
    freshProcesses: flag,
    sessions: integer,
    rounds: integer,
    tokens: integer,
    prompts: integer,
  }),
  warmup: object({ criterion: text, steady: integer, of: integer }),
  correctness: object({
    outcome: oneOf(
      'consistent',
      'refuted',
      'inconclusive',
      'not testable here',
      'internally inconsistent',
      'no verdict',
    ),
    evidence: text,
  }),
  identity: nullable(
    object({
      tokensPerSecond: number,
      acceptanceLength: number,
      stepMs: number,
      residual: number,
      tolerance: number,
      holds: flag,
    }),
  ),
  peak: nullable(object({ seconds: number, ratio: number, most: number, holds: flag })),
  invalidBecause: listOf(text),
  warnings: listOf(warning),
  figures,
});

const measurement = object<Measurement>({
  mode: oneOf('short', 'sustained'),
  statement: text,
  cells: listOf(speedCell),
  comparisons: listOf(
    object<SpeedComparison>({ scenario: text, concurrency: integer, decoding: text, rule: text, figures }),
  ),
  facets: listOf(
    object<FacetRow>({
      engine: text,
      rule: text,
      decoding: text,
      facet: oneOf('language', 'thinking', 'context', 'temperature'),
      value: text,
      prompts: integer,
      rounds: integer,
      rawMicro: measured,
      keptMicro: measured,
      source,
    }),
  ),
  absentFacets: listOf(object({ facet: text, reason: text })),
  checks: listOf(
    object<HonestyCheck>({
      id: text,
      question: text,
      outcome: oneOf('clear', 'found', 'not checked'),
      evidence: text,
    }),
  ),
  telemetry: listOf(
    object({ source: text, devices: integer, readings: integer, hz: number, quantities: listOf(text) }),
  ),
});

const engineRow = object<EngineRow>({
  name: text,
  weightsDigest: text,
  draftDigest: text,
  numerics: text,
  device: text,
  topology: text,
  tensorParallel: integer,
  blockSize: integer,
  rule: text,
  buildDigest: text,
  vocabSize: integer,
  maxContext: integer,
  defects: listOf(text),
  syntheticAcceptance: nullable(text),
});

const claimRow = object<ClaimRow>({
  id: text,
  claim: text,
  source: text,
  outcome: oneOf(
    'consistent',
    'refuted',
    'inconclusive',
    'not testable here',
    'internally inconsistent',
    'not yet measured',
  ),
  finding: text,
});

const report = object<Report>({
  $schema: text,
  schema: oneOf(...SCHEMAS),
  run: object({
    id: text,
    title: text,
    startedAt: text,
    seconds: number,
    command: text,
    seed: text,
    commit: text,
    dirty: flag,
    publishable: flag,
    notPublishableBecause: listOf(text),
  }),
  machine: object({ cpu: text, cores: integer, memoryGiB: number, os: text, node: text, gpus: listOf(text) }),
  model: object({ kind: oneOf('nano', 'pro-synthetic', 'real'), name: text, note: text }),
  engines: listOf(engineRow),
  suites: listOf(object({ scenario: text, prompts: integer, promptTokens: integer, digest: text })),
  verdicts: listOf(verdict),
  acceptance: listOf(acceptanceRow),
  speed: listOf(speedRow),
  measurement: optional(measurement),
  claims: listOf(claimRow),
  warnings: listOf(warning),
  files: listOf(object({ path: text, sha256: text, bytes: integer })),
});

/** Checks the text of a report.json. `name` stands in the message. Throws ReportError. */
export function parseReport(json: string, name: string): Report {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new ReportError(`${name} is not JSON: ${(error as Error).message}`);
  }
  const schema = (value as { schema?: unknown } | null)?.schema;
  if (!SCHEMAS.some((known) => known === schema)) {
    const found = schema === undefined ? 'no schema field' : `schema ${JSON.stringify(schema)}`;
    throw new ReportError(
      `${name} cannot be shown: it has ${found}, and this page reads ${SCHEMAS.map((known) => `"${known}"`).join(' and ')} only`,
    );
  }
  try {
    const checked = report(value, 'report');
    if (checked.schema !== SCHEMAS[0]) measurement(checked.measurement, 'report.measurement');
    return checked;
  } catch (error) {
    throw new ReportError(`${name} cannot be shown: ${(error as Error).message}`);
  }
}

/**
 * The report to show. `path` is a report.json, or a folder with one run per subfolder, of which the newest by its own
 * `run.startedAt` is taken (file times do not survive a clone), one of a reference engine only where there is no other: a
 * reference is what others are compared with. Null when a folder, or no folder, holds no report.
 */
export function readReport(path: string): StoredReport | null {
  if (existsSync(path) && statSync(path).isFile()) return readFile(path);
  if (path.endsWith('.json')) throw new ReportError(`${path} does not exist`);
  const all = readReports(path);
  return all.find(({ report }) => report.engines.some(({ name }) => !name.startsWith('reference'))) ?? all[0] ?? null;
}

export interface StoredReport {
  readonly report: Report;
  /** As it was written, byte for byte. */
  readonly json: string;
}

/** All reports of a folder with one run per subfolder, the newest first; none of a single report, or where there is no such folder. */
export function readReports(path: string): StoredReport[] {
  if (!existsSync(path) || statSync(path).isFile()) return [];
  return readdirSync(path)
    .map((entry) => join(path, entry, 'report.json'))
    .filter((file) => existsSync(file))
    .map(readFile)
    .sort((a, b) => order(b.report.run.startedAt, a.report.run.startedAt) || order(b.report.run.id, a.report.run.id));
}

function readFile(path: string): StoredReport {
  const json = readFileSync(path, 'utf8');
  return { report: parseReport(json, path), json };
}

const order = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
