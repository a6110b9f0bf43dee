/**
 * Runs the sessions of a plan and writes down what happened. An engine is not trusted to return, to return the right
 * shape or to end: whatever it does becomes a row, and a session that went wrong becomes a fault, never silence.
 */
import { type FaultRow, type PhasePlan, type Plan, type PromptRow, RoundRow } from './bundle/rows.ts';
import { cellName } from './bundle/shards.ts';
import { top5 } from './bundle/top5.ts';
import type { RunWriter } from './bundle/writer.ts';
import type { Engine, Round, Session } from './engine.ts';
import { type SessionTask, tasksOf } from './plan.ts';

/** After so many failed sessions of one engine the rest of its sessions are not opened. */
const FAULTS_PER_ENGINE = 3;

export interface RunContext {
  readonly plan: Plan;
  /** Cells to run, as bundle/shards.ts names them: all of the plan's, or a shard's. */
  readonly cells: ReadonlySet<string>;
  readonly prompts: ReadonlyMap<string, PromptRow>;
  readonly engines: Readonly<Record<string, Engine>>;
  readonly writer: RunWriter;
  readonly signal: AbortSignal;
  /** Monotonic nanoseconds. */
  readonly now: () => bigint;
  /** One line about a phase; called at its start, now and then, and at its end. */
  readonly progress: (line: string) => void;
}

/** Runs the phases; the speed part of a plan is run by measure/campaign.ts. */
export async function runPlan(context: RunContext): Promise<void> {
  const faults = new Map<string, number>();
  for (const phase of context.plan.phases) {
    if (context.signal.aborted) break;
    await runPhase(context, phase, faults);
  }
}

async function runPhase(context: RunContext, phase: PhasePlan, faults: Map<string, number>): Promise<void> {
  const tasks = tasksOf(context.plan, phase).filter((task) => context.cells.has(cellName(phase.id, task.prompt)));
  const started = performance.now();
  let next = 0;
  let done = 0;
  let tokens = 0;
  let spoken = started;
  let broken = false;
  const say = (): void => {
    context.writer.flush();
    const seconds = (performance.now() - started) / 1000;
    context.progress(`${phase.id}: ${done}/${tasks.length} sessions, ${tokens} tokens, ${seconds.toFixed(0)} s`);
    spoken = performance.now();
  };
  const lane = async (): Promise<void> => {
    while (next < tasks.length && !context.signal.aborted && !broken) {
      const task = tasks[next++]!;
      const emitted = await runSession(context, task, faults);
      tokens += emitted;
      done += 1;
      if (performance.now() - spoken > 5_000) say();
    }
  };
  const event = (kind: 'phase-start' | 'phase-end'): void =>
    context.writer.event({ t_ns: context.writer.t(), kind, phase: phase.id });
  event('phase-start');
  say();
  // A lane that fails (the disk is full) stops the others; all are awaited, so none writes into a closed file.
  const lanes = Array.from({ length: Math.min(phase.concurrency, tasks.length) }, () =>
    lane().catch((error: unknown) => {
      broken = true;
      throw error;
    }),
  );
  const results = await Promise.allSettled(lanes);
  const failure = results.find((result) => result.status === 'rejected');
  if (failure !== undefined) throw failure.reason;
  event('phase-end');
  say();
}

/** Returns the number of tokens emitted. */
async function runSession(context: RunContext, task: SessionTask, faults: Map<string, number>): Promise<number> {
  const { writer, plan } = context;
  const prompt = context.prompts.get(task.prompt)!;
  const engine = context.engines[task.engine]!;
  const timeout = plan.stepTimeoutSeconds * 1000;
  writer.session({
    session: task.session,
    phase: task.phase.id,
    arm: task.arm,
    engine: task.engine,
    prompt: prompt.id,
    scenario: prompt.scenario,
    repeat: task.repeat,
    decoding: { ...task.decoding, stopIds: [...task.decoding.stopIds] },
    promptTokens: prompt.ids.length,
    promptDigest: prompt.digest,
    ...(plan.engines === undefined ? {} : { engineDigest: plan.engines[task.engine]! }),
  });
  const fail = (kind: FaultRow['kind'], message: string): void => {
    writer.fault({ session: task.session, kind, message });
    if (kind !== 'interrupted') faults.set(task.engine, (faults.get(task.engine) ?? 0) + 1);
  };

  let session: Session | null = null;
  let emitted = 0;
  try {
    if ((faults.get(task.engine) ?? 0) >= FAULTS_PER_ENGINE) {
      fail('not run', `${task.engine} had already failed ${FAULTS_PER_ENGINE} times`);
      return 0;
    }
    session = await within(timeout, 'open', engine.open(prompt.ids, task.decoding));
    for (let index = 0; ; index++) {
      if (context.signal.aborted) {
        fail('interrupted', `interrupted before round ${index}`);
        break;
      }
      const before = context.now();
      const round = await within(timeout, `round ${index}`, session.step());
      const wallNs = Number(context.now() - before);
      const row = roundRow(task.session, index, round, {
        wallNs,
        t_ns: writer.t(before),
        ...(index === 0 && session.decoding !== undefined ? { echoed: session.decoding } : {}),
      });
      if (typeof row === 'string') {
        fail('malformed', `round ${index}: ${row}`);
        break;
      }
      writer.round(row);
      emitted += row.committed.length;
      if (row.finish !== null) break;
      // A session that commits nothing never ends by itself either.
      if (emitted > task.decoding.maxTokens || index > task.decoding.maxTokens) {
        fail('overran', `${emitted} tokens in ${index + 1} rounds, the limit is ${task.decoding.maxTokens}`);
        break;
      }
    }
  } catch (error) {
    if ((error as Error).name === 'EnvironmentError') throw error;
    if (error instanceof TimeoutError) fail('hung', error.message);
    else fail('threw', (error as Error)?.message ?? String(error));
  } finally {
    if (session !== null) await within(timeout, 'close', session.close()).catch(() => {});
  }
  return emitted;
}

/** The row of a round, or in words what is wrong with its shape. */
function roundRow(session: string, index: number, round: Round, seen: Record<string, unknown>): RoundRow | string {
  const result = RoundRow.safeParse({
    session,
    index,
    kind: round?.kind,
    committed: listed(round?.committed),
    drafted: listed(round?.drafted),
    accepted: round?.accepted,
    finish: round?.finish,
    ns: round?.hostNs,
    deviceNs: round?.deviceNs,
    ...(round?.replay === undefined ? {} : { top5: round.replay.p.slice(0, round.committed?.length).map(top5) }),
    ...seen,
  });
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  return `${issue.path.join('.')}: ${issue.message}`;
}

/** Engines may return typed arrays; anything else goes to the schema as it is. */
function listed(ids: unknown): unknown {
  return ArrayBuffer.isView(ids) ? Array.from(ids as unknown as ArrayLike<number>) : ids;
}

class TimeoutError extends Error {}

async function within<T>(milliseconds: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new TimeoutError(`no answer to ${what} within ${milliseconds} ms`)), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
