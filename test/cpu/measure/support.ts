/** A small speed plan and a timed run of it over scripted engines and a manual clock. */
import type { Engine } from '../../../harness/engine.ts';
import { ManualClock, scriptedEngine } from '../../../harness/engines/scripted.ts';
import { runCampaign, segmentsHere } from '../../../harness/measure/campaign.ts';
import { makeSpeedPlan, QUICK_SPEED } from '../../../harness/measure/plan.ts';
import type { SpeedArm, SpeedPlan, TimedSession, TimingRow } from '../../../harness/measure/rows.ts';
import type { BooksInput } from '../../../harness/measure/timed-books.ts';

export const ACCEPT = [0.9, 0.8, 0.7];
export const STEP = { prefill: 10e6, plain: 2e6, speculative: 3e6 };
export const SEED = '7';

export const PROMPTS = new Map(
  Array.from({ length: 10 }, (_, i) => [`p${i}`, { ids: Array.from({ length: 5 + i }, (_, k) => (i + 3 * k) % 16) }]),
);

export function smallPlan(change: Partial<SpeedPlan> = {}): SpeedPlan {
  const prompts = [...PROMPTS.keys()].map((id) => ({ id, scenario: 'coding' }));
  const plan = makeSpeedPlan(
    prompts,
    { plain: 'plain', speculative: 'speculative' },
    { ...QUICK_SPEED, promptsPerScenario: 3, tokens: 24, segmentSeconds: 0 },
  );
  return { ...plan, warmup: { windowSeconds: 0.01, windows: 2, tolerance: 0.5, mostSeconds: 0 }, ...change };
}

export function scriptedArm(arm: SpeedArm, clock: ManualClock): Engine {
  const acceptance = arm === 'plain' ? [] : ACCEPT;
  return scriptedEngine({
    weights: '1',
    vocabSize: 16,
    rule: 'match',
    clock,
    acceptance,
    blockSize: acceptance.length + 1,
    stepNs: (kind) => (kind === 'prefill' ? STEP.prefill : STEP[arm]),
  });
}

export interface TimedRun {
  readonly plan: SpeedPlan;
  readonly rows: TimingRow[];
  readonly books: BooksInput;
}

/** `change` may make an engine lie; `stopIds` empty: every session runs to its limit. */
export async function timedRun(
  plan: SpeedPlan = smallPlan(),
  change: (engine: Engine, arm: SpeedArm) => Engine = (engine) => engine,
  stepTimeoutSeconds = 5,
): Promise<TimedRun> {
  const clock = new ManualClock();
  const rows: TimingRow[] = [];
  const engines: Record<string, Engine> = {
    plain: change(scriptedArm('plain', clock), 'plain'),
    speculative: change(scriptedArm('speculative', clock), 'speculative'),
  };
  await runCampaign({
    plan,
    seed: SEED,
    stopIds: [],
    cells: plan.cells.map((cell) => cell.id),
    prompts: PROMPTS,
    stepTimeoutSeconds,
    runner: segmentsHere((name) => engines[name]!),
    host: { now: clock.now, origin: 0n, signal: new AbortController().signal, sink: (row) => rows.push(row) },
    progress: () => {},
  });
  const books: BooksInput = {
    plan,
    seed: SEED,
    stopIds: [],
    cards: { plain: engines.plain!.card, speculative: engines.speculative!.card },
    promptTokens: new Map([...PROMPTS].map(([id, { ids }]) => [id, ids.length])),
  };
  return { plan, rows, books };
}

export const sessionsOf = (rows: readonly TimingRow[]): TimedSession[] =>
  rows.filter((row): row is TimedSession => row.kind === 'session');

/** A measured session made by hand: rounds end `stepNs` apart. */
export function session(change: Partial<TimedSession> & { readonly kept: number[] }): TimedSession {
  const n = change.kept.length;
  const stepNs = change.stepNs ?? new Array<number>(n).fill(1e6);
  let at = 0;
  return {
    kind: 'session',
    segment: 0,
    cell: 'coding/c1',
    role: 'measured',
    ordinal: 0,
    lane: 0,
    prompt: 'p0',
    pass: 0,
    seed: '1',
    promptTokens: 5,
    startNs: 0,
    atNs: stepNs.map((ns) => {
      at += ns;
      return at;
    }),
    stepNs,
    engineNs: stepNs,
    draftNs: new Array<number>(n).fill(0),
    verifyNs: stepNs,
    deviceNs: null,
    accepted: change.kept.map((kept) => kept - 1),
    drafted: new Array<number>(n).fill(3),
    tokens: new Array<number>(change.kept.reduce((a, b) => a + b, 0)).fill(1),
    finish: 'length',
    fault: null,
    ...change,
  };
}
