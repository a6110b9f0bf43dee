/**
 * What the harness itself adds to a round, measured on an engine that does nothing. Two costs: inside the clock (reading it,
 * awaiting the step) and between rounds (bookkeeping that delays the next one). Both count, since both make an engine look slower.
 */
import { cellData, chunkLatencies } from './cells.ts';
import { nullEngine } from './null-engine.ts';
import { percentile } from './percentile.ts';
import type { SpeedPlan, TimingRow } from './rows.ts';
import { runSegment } from './timed.ts';

/** A round may cost this much, microseconds, or this share of the step, whichever is more. */
export const OVERHEAD_LIMIT = { microseconds: 10, share: 0.01 };

/** The event by which a run records it. */
export const OVERHEAD_EVENT = 'harness-overhead';

export interface Overhead {
  readonly rounds: number;
  readonly sessions: number;
  readonly blockSize: number;
  /** Wall time of a round of the null engine, microseconds: mean, and percentiles with 95 % intervals. */
  readonly meanUs: number;
  readonly percentilesUs: readonly {
    readonly p: number;
    readonly value: number;
    readonly low: number;
    readonly high: number;
  }[];
  readonly limitUs: number;
  /** The mean is at most the limit. */
  readonly withinLimit: boolean;
}

export interface OverheadOptions {
  readonly sessions: number;
  /** Tokens a session. */
  readonly tokens: number;
  readonly blockSize: number;
}

/** Drives the null engine through the very loop that times an engine. Rows are not kept: recording happens after a session. */
export async function measureOverhead(options: OverheadOptions): Promise<Overhead> {
  const plan: SpeedPlan = {
    mode: 'short',
    rule: 'match',
    plain: 'null',
    speculative: 'null',
    temperature: 0,
    topP: 1,
    topK: 0,
    maxTokens: options.tokens,
    cells: [
      {
        id: 'null',
        scenario: 'null',
        prompts: Array.from({ length: options.sessions }, (_, i) => `p${i}`),
        warmupPrompts: ['p0'],
        probePrompts: [],
        concurrency: 1,
      },
    ],
    order: ['speculative'],
    segmentSeconds: 0,
    leastSeconds: 0,
    warmup: { windowSeconds: 0.05, windows: 5, tolerance: 0.05, mostSeconds: 2 },
    peakSeconds: 1,
    probeTimes: 2,
    identityTolerance: 0.02,
    economics: { taskTokens: [], price: null, machineHour: null },
  };
  const rows: TimingRow[] = [];
  const clock = process.hrtime.bigint;
  await runSegment(
    {
      plan,
      seed: '1',
      stopIds: [],
      segment: 0,
      cells: ['null'],
      prompts: Object.fromEntries(plan.cells[0]!.prompts.map((id) => [id, [1]])),
      stepTimeoutSeconds: 60,
    },
    {
      engine: nullEngine({ blockSize: options.blockSize }),
      now: clock,
      origin: clock(),
      freshProcess: false,
      signal: new AbortController().signal,
      sink: (row) => rows.push(row),
      surroundings: () => ({ switches: [], foreignCores: null, gpuProcesses: null }),
    },
  );
  const { sessions, total } = cellData(plan, rows).find((cell) => cell.arm === 'speculative')!;
  const sorted = chunkLatencies(sessions);
  const meanUs = total.spanNs / total.rounds / 1000;
  return {
    rounds: total.rounds,
    sessions: total.sessions,
    blockSize: options.blockSize,
    meanUs,
    percentilesUs: [0.5, 0.9, 0.99].flatMap((p) => {
      const found = percentile(sorted, p, 0.95);
      return found === null ? [] : [{ p, value: found.value / 1000, low: found.low / 1000, high: found.high / 1000 }];
    }),
    limitUs: OVERHEAD_LIMIT.microseconds,
    withinLimit: meanUs <= OVERHEAD_LIMIT.microseconds,
  };
}

/** Of a step of `stepMs`: within the limit in microseconds or in share. */
export function overheadAllowed(meanUs: number, stepMs: number): boolean {
  return meanUs <= Math.max(OVERHEAD_LIMIT.microseconds, OVERHEAD_LIMIT.share * stepMs * 1000);
}
