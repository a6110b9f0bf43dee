/**
 * Runs one segment of a speed plan: one arm, every cell, in the process it is called in. Between two readings of the clock
 * nothing happens but the engine's step; numbers are pushed onto arrays, and rows are checked and handed over when their
 * session has ended.
 */
import { derivedSeed } from '../bundle/digests.ts';
import type { Engine, Round, Session } from '../engine.ts';
import { type SpeedCellPlan, type SpeedPlan, type TimedSegment, TimedSession, type TimingRow } from './rows.ts';
import { Steadiness } from './warmup.ts';

/** After so many failed sessions a segment is given up. */
const MOST_FAULTS = 3;

export interface SegmentJob {
  readonly plan: SpeedPlan;
  /** The seed of the whole plan. */
  readonly seed: string;
  readonly stopIds: readonly number[];
  /** Index into plan.order. */
  readonly segment: number;
  /** The cells to run: all of the plan, or a shard's. */
  readonly cells: readonly string[];
  /** Token ids of every prompt the cells name. */
  readonly prompts: Readonly<Record<string, readonly number[]>>;
  readonly stepTimeoutSeconds: number;
}

export interface SegmentContext {
  readonly engine: Engine;
  /** Monotonic nanoseconds. */
  readonly now: () => bigint;
  /** The start of the run on that clock. */
  readonly origin: bigint;
  readonly freshProcess: boolean;
  readonly signal: AbortSignal;
  readonly sink: (row: TimingRow) => void;
  /** What the machine did meanwhile; asked once the segment has ended. */
  readonly surroundings: () => Pick<TimedSegment, 'switches' | 'foreignCores' | 'gpuProcesses'>;
}

/** Seeds depend on cell, prompt and pass only, so that both arms decode the same. */
export function timedSeed(seed: string, cell: string, prompt: string, pass: number): string {
  return derivedSeed(seed, `speed/${cell}/${prompt}/${pass}`);
}

export async function runSegment(job: SegmentJob, context: SegmentContext): Promise<TimedSegment> {
  const startNs = Number(context.now() - context.origin);
  const faults: string[] = [];
  for (const cell of job.plan.cells) {
    if (!job.cells.includes(cell.id) || faults.length >= MOST_FAULTS || context.signal.aborted) continue;
    await runCell(job, context, cell, faults);
  }
  const interrupted = context.signal.aborted ? 'interrupted' : null;
  const failed = faults.length >= MOST_FAULTS ? `given up after ${faults.length} failed sessions: ${faults[0]}` : null;
  const row: TimedSegment = {
    kind: 'segment',
    segment: job.segment,
    arm: job.plan.order[job.segment]!,
    engine: job.plan[job.plan.order[job.segment]!],
    freshProcess: context.freshProcess,
    startNs,
    endNs: Number(context.now() - context.origin),
    ...context.surroundings(),
    fault: interrupted ?? failed,
  };
  context.sink(row);
  return row;
}

async function runCell(job: SegmentJob, context: SegmentContext, cell: SpeedCellPlan, faults: string[]): Promise<void> {
  const { plan } = job;
  const seconds = (from: bigint): number => Number(context.now() - from) / 1e9;
  const stopped = (): boolean => context.signal.aborted || faults.length >= MOST_FAULTS;
  const decode = async (role: TimedSession['role'], prompts: readonly string[], ordinal: number, lane: number) => {
    const row = await timeSession(job, context, { cell: cell.id, role, prompts, ordinal, lane });
    context.sink(row);
    if (row.fault !== null && row.fault !== 'interrupted') faults.push(row.fault);
    return row;
  };
  /** `more` is asked before each session, once for each, in order. */
  const inLanes = async (lane: (index: number) => Promise<void>): Promise<void> => {
    await Promise.all(Array.from({ length: cell.concurrency }, (_, index) => lane(index)));
  };

  const warm = new Steadiness(plan.warmup);
  const warmStarted = context.now();
  let warmed = 0;
  await inLanes(async (lane) => {
    do {
      const row = await decode('warm-up', cell.warmupPrompts, warmed++, lane);
      for (let i = 1; i < row.atNs.length; i++) warm.add(row.startNs + row.atNs[i]!, row.stepNs[i]!);
    } while (!stopped() && !warm.steady && seconds(warmStarted) < plan.warmup.mostSeconds);
  });

  const started = context.now();
  let next = 0;
  const due = (): boolean => next % cell.prompts.length !== 0 || next === 0 || seconds(started) < plan.segmentSeconds;
  await inLanes(async (lane) => {
    while (!stopped() && due()) await decode('measured', cell.prompts, next++, lane);
  });

  let probed = 0;
  for (const prompt of cell.probePrompts) {
    for (let pass = 0; pass < plan.probeTimes && !stopped(); pass++) {
      const row = await timeSession(job, context, {
        cell: cell.id,
        role: 'probe',
        prompts: [prompt],
        ordinal: probed++,
        lane: 0,
        pass,
      });
      context.sink(row);
    }
  }
}

interface SessionPlace {
  readonly cell: string;
  readonly role: TimedSession['role'];
  readonly prompts: readonly string[];
  readonly ordinal: number;
  readonly lane: number;
  /** Default: passes over `prompts` by ordinal. */
  readonly pass?: number;
}

async function timeSession(job: SegmentJob, context: SegmentContext, place: SessionPlace): Promise<TimedSession> {
  const { plan } = job;
  const prompt = place.prompts[place.ordinal % place.prompts.length]!;
  const pass = place.pass ?? Math.floor(place.ordinal / place.prompts.length);
  const ids = job.prompts[prompt]!;
  // Every sending of a probe is the very same request.
  const seed = timedSeed(job.seed, place.cell, prompt, place.role === 'probe' ? 0 : pass);
  const row = {
    kind: 'session' as const,
    segment: job.segment,
    cell: place.cell,
    role: place.role,
    ordinal: place.ordinal,
    lane: place.lane,
    prompt,
    pass,
    seed,
    promptTokens: ids.length,
    startNs: 0,
  };
  const decoding = {
    seed,
    temperature: plan.temperature,
    topP: plan.topP,
    topK: plan.topK,
    maxTokens: plan.maxTokens,
    stopIds: job.stopIds,
  };
  const times: bigint[] = [];
  const rounds: Round[] = [];
  const { now } = context;
  const watch = new Watchdog(job.stepTimeoutSeconds * 1000);
  let session: Session | null = null;
  let fault: string | null = null;
  let emitted = 0;
  const start = now();
  try {
    session = await watch.over('open', context.engine.open(ids, decoding));
    for (;;) {
      if (context.signal.aborted) {
        fault = 'interrupted';
        break;
      }
      const before = now();
      const round = await watch.over('a step', session.step());
      const after = now();
      times.push(before, after);
      rounds.push(round);
      emitted += round.committed.length;
      if (round.finish !== null) break;
      if (!(emitted <= plan.maxTokens && rounds.length <= plan.maxTokens)) {
        fault = `overran: ${emitted} tokens in ${rounds.length} rounds, the limit is ${plan.maxTokens}`;
        break;
      }
    }
  } catch (error) {
    if ((error as Error)?.name === 'EnvironmentError') throw error;
    fault = (error as Error)?.message ?? String(error);
  } finally {
    if (session !== null) await watch.over('close', session.close()).catch(() => {});
    watch.end();
  }
  const startNs = Number(start - context.origin);
  const full = { ...row, startNs, ...columns(rounds, times, start), finish: rounds.at(-1)?.finish ?? null, fault };
  const checked = TimedSession.safeParse(full);
  if (checked.success) return checked.data;
  const issue = checked.error.issues[0]!;
  const empty = { ...columns([], [], start), finish: null };
  return { ...row, startNs, ...empty, fault: `malformed: ${issue.path.join('.')}: ${issue.message}` };
}

function columns(rounds: readonly Round[], times: readonly bigint[], start: bigint) {
  return {
    atNs: rounds.map((_, i) => Number(times[2 * i + 1]! - start)),
    stepNs: rounds.map((_, i) => Number(times[2 * i + 1]! - times[2 * i]!)),
    engineNs: rounds.map((round) => round.hostNs.total),
    draftNs: rounds.map((round) => round.hostNs.draft),
    verifyNs: rounds.map((round) => round.hostNs.verify),
    deviceNs: rounds.every((round) => round.deviceNs !== null) ? rounds.map((round) => round.deviceNs!.total) : null,
    kept: rounds.map((round) => round.committed.length),
    accepted: rounds.map((round) => round.accepted),
    drafted: rounds.map((round) => round.drafted.length),
    tokens: rounds.flatMap((round) => Array.from(round.committed)),
  };
}

/** One timer a session, not one a step: it looks now and then whether the promise being waited for is overdue. */
class Watchdog {
  readonly #limit: number;
  readonly #timer: NodeJS.Timeout;
  #since = 0;
  #what = '';
  #reject: ((error: Error) => void) | null = null;

  constructor(limitMs: number) {
    this.#limit = limitMs;
    this.#timer = setInterval(() => this.#look(), Math.max(10, limitMs / 4));
  }

  over<T>(what: string, promise: Promise<T>): Promise<T> {
    this.#since = performance.now();
    this.#what = what;
    return new Promise<T>((resolve, reject) => {
      this.#reject = reject;
      promise.then(resolve, reject);
    });
  }

  end(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    if (performance.now() - this.#since < this.#limit) return;
    this.#reject?.(new Error(`hung: no answer to ${this.#what} within ${this.#limit} ms`));
  }
}
