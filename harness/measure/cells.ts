/**
 * Timed sessions brought together: sums by prompt (the unit of the bootstrap) and by process (the unit of what drifts between
 * processes), and the sorted latencies of a cell. Notation of a session: sent at t_s, round j ends at t_j and keeps n_j tokens,
 * the first round is the prefill; N tokens and m rounds in all.
 */
import type { SpeedArm, SpeedPlan, TimedSegment, TimedSession, TimingRow } from './rows.ts';

export interface TimeSums {
  sessions: number;
  promptTokens: number;
  /** Sum of N. */
  tokens: number;
  /** Sum of N - n_1. */
  decodeTokens: number;
  /** Decode rounds, m - 1 a session. */
  rounds: number;
  /** Accepted drafts + 1, over decode rounds: no cut. */
  raw: number;
  /** Sum of t_1 - t_s. */
  firstNs: number;
  /** Sum of t_2 - t_1, and over how many sessions: one with the prefill alone has no second round. */
  secondNs: number;
  seconds: number;
  /** Sum of t_m - t_1. */
  spanNs: number;
  /** Sum of t_m - t_s. */
  wholeNs: number;
  /** Harness clock around the prefill step, and around the decode steps. */
  prefillNs: number;
  stepNs: number;
  /** Engine's clock over the decode steps. */
  engineNs: number;
  draftNs: number;
  verifyNs: number;
  /** Device's clock over the decode steps; NaN as soon as one session has none. */
  deviceNs: number;
}

export function emptySums(): TimeSums {
  return {
    sessions: 0,
    promptTokens: 0,
    tokens: 0,
    decodeTokens: 0,
    rounds: 0,
    raw: 0,
    firstNs: 0,
    secondNs: 0,
    seconds: 0,
    spanNs: 0,
    wholeNs: 0,
    prefillNs: 0,
    stepNs: 0,
    engineNs: 0,
    draftNs: 0,
    verifyNs: 0,
    deviceNs: 0,
  };
}

/** Adds one session that ended properly. */
function addSession(sums: TimeSums, row: TimedSession): void {
  const last = row.atNs.length - 1;
  sums.sessions += 1;
  sums.promptTokens += row.promptTokens;
  sums.tokens += row.tokens.length;
  sums.decodeTokens += row.tokens.length - row.kept[0]!;
  sums.rounds += last;
  sums.firstNs += row.atNs[0]!;
  sums.prefillNs += row.stepNs[0]!;
  if (last >= 1) {
    sums.secondNs += row.atNs[1]! - row.atNs[0]!;
    sums.seconds += 1;
  }
  sums.spanNs += row.atNs[last]! - row.atNs[0]!;
  sums.wholeNs += row.atNs[last]!;
  for (let i = 1; i <= last; i++) {
    sums.raw += row.accepted[i]! + 1;
    sums.stepNs += row.stepNs[i]!;
    sums.engineNs += row.engineNs[i]!;
    sums.draftNs += row.draftNs[i]!;
    sums.verifyNs += row.verifyNs[i]!;
    sums.deviceNs += row.deviceNs?.[i] ?? Number.NaN;
  }
}

export interface CellData {
  readonly cell: string;
  readonly scenario: string;
  readonly concurrency: number;
  readonly arm: SpeedArm;
  readonly engine: string;
  /** Sessions that count: measured, ended properly. In the order they were started. */
  readonly sessions: readonly TimedSession[];
  /** Measured sessions that went wrong. */
  readonly faults: readonly TimedSession[];
  /** By prompt, in the plan's order; only prompts with a decode round. */
  readonly byPrompt: ReadonlyMap<string, TimeSums>;
  /** By segment, that is by process. */
  readonly bySegment: ReadonlyMap<number, TimeSums>;
  readonly total: TimeSums;
  /** First start to last end of the measured sessions, by segment, seconds. */
  readonly windows: readonly { readonly segment: number; readonly startNs: number; readonly endNs: number }[];
  readonly warmups: readonly TimedSession[];
  readonly probes: readonly TimedSession[];
}

export const isSession = (row: TimingRow): row is TimedSession => row.kind === 'session';
export const isSegment = (row: TimingRow): row is TimedSegment => row.kind === 'segment';

/** When a session's last round ended, on the run's clock; its start if it had none. */
export const endOf = (row: TimedSession): number => row.startNs + (row.atNs.at(-1) ?? 0);

/** Every cell of the plan and both arms of it, in the plan's order, whether or not it was reached. */
export function cellData(plan: SpeedPlan, rows: readonly TimingRow[]): CellData[] {
  const sessions = rows.filter(isSession);
  return plan.cells.flatMap((cell) =>
    (['plain', 'speculative'] as const).map((arm): CellData => {
      const own = sessions.filter((row) => row.cell === cell.id && plan.order[row.segment] === arm);
      const measured = own.filter((row) => row.role === 'measured');
      const good = measured
        .filter((row) => row.fault === null && row.atNs.length > 1)
        .sort((a, b) => a.startNs - b.startNs);
      const byPrompt = new Map<string, TimeSums>();
      for (const prompt of cell.prompts) byPrompt.set(prompt, emptySums());
      const bySegment = new Map<number, TimeSums>();
      const total = emptySums();
      for (const row of good) {
        const prompt = byPrompt.get(row.prompt);
        if (prompt === undefined) continue;
        if (!bySegment.has(row.segment)) bySegment.set(row.segment, emptySums());
        for (const sums of [prompt, bySegment.get(row.segment)!, total]) addSession(sums, row);
      }
      for (const [prompt, sums] of byPrompt) if (sums.rounds === 0) byPrompt.delete(prompt);
      const windows = [...bySegment.keys()].map((segment) => {
        const inside = good.filter((row) => row.segment === segment);
        return {
          segment,
          startNs: Math.min(...inside.map((row) => row.startNs)),
          endNs: Math.max(...inside.map(endOf)),
        };
      });
      return {
        cell: cell.id,
        scenario: cell.scenario,
        concurrency: cell.concurrency,
        arm,
        engine: plan[arm],
        sessions: good,
        faults: measured.filter((row) => row.fault !== null && row.fault !== 'interrupted'),
        byPrompt,
        bySegment,
        total,
        windows,
        warmups: own.filter((row) => row.role === 'warm-up'),
        probes: own.filter((row) => row.role === 'probe'),
      };
    }),
  );
}

/** Times between chunks: t_(j+1) - t_j of every decode round, sorted, nanoseconds. */
export function chunkLatencies(sessions: readonly TimedSession[]): Float64Array {
  const values: number[] = [];
  for (const row of sessions) for (let i = 1; i < row.atNs.length; i++) values.push(row.atNs[i]! - row.atNs[i - 1]!);
  return Float64Array.from(values).sort();
}

/** (t_(j+1) - t_j) / n_(j+1), once for each token of the chunk, sorted: latency as if a chunk's tokens came evenly. */
export function amortisedLatencies(sessions: readonly TimedSession[]): Float64Array {
  const values: number[] = [];
  for (const row of sessions) {
    for (let i = 1; i < row.atNs.length; i++) {
      const share = (row.atNs[i]! - row.atNs[i - 1]!) / row.kept[i]!;
      for (let k = 0; k < row.kept[i]!; k++) values.push(share);
    }
  }
  return Float64Array.from(values).sort();
}

/** Time between tokens as a reader sees them: 0 inside a chunk, the whole step before it. Sorted. */
export function tokenLatencies(sessions: readonly TimedSession[]): Float64Array {
  const values: number[] = [];
  for (const row of sessions) {
    for (let i = 1; i < row.atNs.length; i++) {
      if (row.kept[i]! > 0) values.push(row.atNs[i]! - row.atNs[i - 1]!);
      for (let k = 1; k < row.kept[i]!; k++) values.push(0);
    }
  }
  return Float64Array.from(values).sort();
}
