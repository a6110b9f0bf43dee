/**
 * Two runs side by side: what they were run with, what they emitted down to the first differing token, what they concluded and what
 * they measured. Sessions are matched by name, so runs of one plan are compared session by session.
 */
import { buildReport } from '../report/build.ts';
import type { Measured, Report } from '../report/schema.ts';
import { describeDifference, firstDifference, generatedTokens } from '../verify/equality.ts';
import { compareDocuments } from './check/documents.ts';
import type { SessionTrace, StoredRun } from './reader.ts';

/** A token's likeliest alternatives where it was emitted, likeliest first; null where the run has none on record. */
export type Alternatives = readonly (readonly [token: number, logprob: number])[] | null;

export interface TokenDifference {
  readonly session: string;
  readonly position: number;
  readonly a: number | null;
  readonly b: number | null;
  readonly context: readonly number[];
  readonly text: string;
  readonly top5: { readonly a: Alternatives; readonly b: Alternatives };
}

export interface FigureDifference {
  readonly figure: string;
  readonly a: string;
  readonly b: string;
  /** Whether the intervals overlap; null where a side has none. */
  readonly overlap: boolean | null;
}

export interface RunDiff {
  readonly a: string;
  readonly b: string;
  /** What they were run with; how long it took and on which day is left out. */
  readonly conditions: readonly string[];
  readonly tokens: {
    readonly sessions: number;
    readonly onlyA: number;
    readonly onlyB: number;
    /** Sessions whose tokens differ, first in the order of the plan first; at most 100. */
    readonly differing: number;
    readonly first: readonly TokenDifference[];
    /** Sessions with the same tokens, but in other rounds or after other drafts. */
    readonly otherRounds: number;
  };
  readonly verdicts: readonly string[];
  readonly figures: readonly FigureDifference[];
  /** Tokens and verdicts are the same. */
  readonly same: boolean;
}

const MOST = 100;

export function diffRuns(a: StoredRun, b: StoredRun): RunDiff {
  const [reportA, reportB] = [buildReport(a), buildReport(b)];
  const tokens = diffTokens(a, b);
  const verdicts = diffVerdicts(reportA, reportB);
  return {
    a: a.manifest.id,
    b: b.manifest.id,
    conditions: diffConditions(a, b),
    tokens,
    verdicts,
    figures: diffFigures(reportA, reportB),
    same: tokens.differing === 0 && tokens.onlyA === 0 && tokens.onlyB === 0 && verdicts.length === 0,
  };
}

function diffConditions(a: StoredRun, b: StoredRun): string[] {
  const conditions = ({ manifest }: StoredRun): unknown => {
    const { commit, dirty, machine, model, engines, suites, tokenizer, planDigest, promptsDigest, provenance, schema } =
      manifest;
    return JSON.parse(
      JSON.stringify({
        schema,
        commit,
        dirty,
        machine,
        model,
        engines,
        suites,
        tokenizer,
        planDigest,
        promptsDigest,
        provenance,
      }),
    );
  };
  return compareDocuments(conditions(a), conditions(b)).map(
    (difference) => `${difference.path}: A has ${difference.stored}, B has ${difference.computed}`,
  );
}

function diffTokens(a: StoredRun, b: StoredRun): RunDiff['tokens'] {
  let sessions = 0;
  let differing = 0;
  let otherRounds = 0;
  const first: TokenDifference[] = [];
  for (const [name, one] of a.sessions) {
    const other = b.sessions.get(name);
    if (other === undefined) continue;
    sessions += 1;
    const [x, y] = [generatedTokens(one), generatedTokens(other)];
    const at = firstDifference(x, y);
    if (at === null) {
      if (!sameRounds(one, other)) otherRounds += 1;
      continue;
    }
    differing += 1;
    if (first.length === MOST) continue;
    const difference = {
      prompt: one.row.prompt,
      position: at,
      plain: x[at] ?? null,
      speculative: y[at] ?? null,
      context: x.slice(Math.max(0, at - 8), at),
    };
    first.push({
      session: name,
      position: at,
      a: difference.plain,
      b: difference.speculative,
      context: difference.context,
      text: describeDifference(difference).replace('plain gives', 'A gives').replace('speculation', 'B'),
      top5: { a: alternatives(one, at), b: alternatives(other, at) },
    });
  }
  return {
    sessions,
    onlyA: a.sessions.size - sessions,
    onlyB: b.sessions.size - sessions,
    differing,
    first,
    otherRounds,
  };
}

function sameRounds(one: SessionTrace, other: SessionTrace): boolean {
  if (one.rounds.length !== other.rounds.length) return false;
  return one.rounds.every((round, i) => {
    const twin = other.rounds[i]!;
    return (
      round.accepted === twin.accepted &&
      round.drafted.length === twin.drafted.length &&
      round.drafted.every((id, k) => id === twin.drafted[k])
    );
  });
}

/** What the run recorded of the row behind the token at `position`. */
function alternatives(trace: SessionTrace, position: number): Alternatives {
  let offset = 0;
  for (const round of trace.rounds) {
    if (position < offset + round.committed.length) return round.top5?.[position - offset] ?? null;
    offset += round.committed.length;
  }
  return null;
}

function diffVerdicts(a: Report, b: Report): string[] {
  const outcomes = (report: Report): Map<string, string> =>
    new Map(report.verdicts.map(({ id, outcome }) => [id, outcome]));
  const [one, other] = [outcomes(a), outcomes(b)];
  return [...new Set([...one.keys(), ...other.keys()])]
    .filter((id) => one.get(id) !== other.get(id))
    .map((id) => `${id}: A is ${one.get(id) ?? 'not judged'}, B is ${other.get(id) ?? 'not judged'}`);
}

/** Every measured figure of a report, by the path to it and the names of the rows on the way. */
function figuresOf(value: unknown, path: string, into: Map<string, Measured>): void {
  if (Array.isArray(value)) {
    for (const [i, entry] of value.entries()) figuresOf(entry, `${path} ${rowName(entry) ?? `[${i}]`}`, into);
    return;
  }
  if (typeof value !== 'object' || value === null) return;
  if ((value as { state?: unknown }).state === 'measured') into.set(path.trim(), value as Measured);
  else for (const [key, member] of Object.entries(value)) figuresOf(member, `${path} ${key}`, into);
}

function rowName(entry: unknown): string | null {
  if (typeof entry !== 'object' || entry === null) return null;
  const row = entry as Record<string, unknown>;
  const parts = ['id', 'engine', 'scenario', 'decoding', 'facet', 'value', 'speculation', 'concurrency']
    .map((key) => row[key])
    .filter((part) => ['string', 'number', 'boolean'].includes(typeof part));
  return parts.length === 0 ? null : `(${parts.join(', ')})`;
}

function diffFigures(a: Report, b: Report): FigureDifference[] {
  const [one, other] = [new Map<string, Measured>(), new Map<string, Measured>()];
  for (const [report, into] of [
    [a, one],
    [b, other],
  ] as const) {
    const { acceptance, speed, ...rest } = report;
    figuresOf({ acceptance, speed, measurement: (rest as { measurement?: unknown }).measurement }, '', into);
  }
  return [...new Set([...one.keys(), ...other.keys()])].flatMap((figure) => {
    const [x, y] = [one.get(figure), other.get(figure)];
    if (x?.state === 'measured' && y?.state === 'measured' && x.value === y.value) return [];
    return [{ figure, a: shown(x), b: shown(y), overlap: overlap(x, y) }];
  });
}

function shown(figure: Measured | undefined): string {
  if (figure?.state !== 'measured') return 'not measured';
  const { value, unit, interval } = figure;
  const ends = interval === null ? '' : ` [${interval.low.toPrecision(4)}, ${interval.high.toPrecision(4)}]`;
  return `${value.toPrecision(5)} ${unit}${ends}`;
}

function overlap(x: Measured | undefined, y: Measured | undefined): boolean | null {
  if (x?.state !== 'measured' || y?.state !== 'measured' || x.interval === null || y.interval === null) return null;
  return x.interval.low <= y.interval.high && y.interval.low <= x.interval.high;
}
