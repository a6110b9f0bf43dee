/**
 * Runs the segments of a speed plan one after another, each by whatever runs segments here: this very process, or a fresh child. A
 * segment that dies leaves a row that says so, and the others still run.
 */
import type { Engine } from '../engine.ts';
import { gpuProcesses, startForeignLoad } from './load.ts';
import type { SpeedPlan, TimedSegment, TimingRow } from './rows.ts';
import { acceptanceSwitches } from './switches.ts';
import { runSegment, type SegmentJob } from './timed.ts';

export interface SegmentHost {
  readonly now: () => bigint;
  /** The start of the run on that clock. */
  readonly origin: bigint;
  readonly signal: AbortSignal;
  readonly sink: (row: TimingRow) => void;
}

/** Runs one segment to its end; its last row is the segment's own. */
export type SegmentRunner = (job: SegmentJob, host: SegmentHost) => Promise<void>;

export interface CampaignInput {
  readonly plan: SpeedPlan;
  readonly seed: string;
  readonly stopIds: readonly number[];
  /** Ids of the cells to run. */
  readonly cells: readonly string[];
  readonly prompts: ReadonlyMap<string, { readonly ids: readonly number[] }>;
  readonly stepTimeoutSeconds: number;
  readonly runner: SegmentRunner;
  readonly host: SegmentHost;
  readonly progress: (line: string) => void;
}

export async function runCampaign(input: CampaignInput): Promise<void> {
  const { plan, host } = input;
  if (input.cells.length === 0) return;
  const names = new Set(
    plan.cells
      .filter((cell) => input.cells.includes(cell.id))
      .flatMap((cell) => [...cell.prompts, ...cell.warmupPrompts, ...cell.probePrompts]),
  );
  const prompts = Object.fromEntries([...names].map((id) => [id, input.prompts.get(id)!.ids]));
  const started = performance.now();
  for (const [segment, arm] of plan.order.entries()) {
    if (host.signal.aborted) return;
    let rounds = 0;
    let ended = false;
    const job: SegmentJob = {
      plan,
      seed: input.seed,
      stopIds: input.stopIds,
      segment,
      cells: input.cells,
      prompts,
      stepTimeoutSeconds: input.stepTimeoutSeconds,
    };
    const startNs = Number(host.now() - host.origin);
    const sink = (row: TimingRow): void => {
      if (row.kind === 'segment') ended = true;
      else rounds += row.atNs.length;
      host.sink(row);
    };
    let fault: string | null = null;
    try {
      await input.runner(job, { ...host, sink });
    } catch (error) {
      if ((error as Error).name === 'EnvironmentError' || (error as Error).name === 'InputError') throw error;
      fault = (error as Error).message;
    }
    if (!ended) {
      const row: TimedSegment = {
        kind: 'segment',
        segment,
        arm,
        engine: plan[arm],
        freshProcess: false,
        startNs,
        endNs: Number(host.now() - host.origin),
        switches: [],
        foreignCores: null,
        gpuProcesses: null,
        fault: fault ?? (host.signal.aborted ? 'interrupted' : 'it ended without saying so'),
      };
      host.sink(row);
    }
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    const word = arm === 'plain' ? 'off' : 'on';
    input.progress(
      `speed: segment ${segment + 1}/${plan.order.length}, speculation ${word}, ${rounds} rounds, ${seconds} s`,
    );
  }
}

/** Segments in this process: for tests, and for engines that cannot be started a second time. */
export function segmentsHere(engineOf: (name: string) => Engine): SegmentRunner {
  return async (job, host) => {
    const load = startForeignLoad();
    await runSegment(job, {
      ...host,
      engine: engineOf(job.plan[job.plan.order[job.segment]!]),
      freshProcess: false,
      surroundings: () => surroundings(load),
    });
  };
}

export function surroundings(load: () => number): Pick<TimedSegment, 'switches' | 'foreignCores' | 'gpuProcesses'> {
  return { switches: acceptanceSwitches(process.env), foreignCores: load(), gpuProcesses: gpuProcesses() };
}
