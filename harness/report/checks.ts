/** What would make the measurement of a run dishonest, question by question. A question that could not be asked is listed too. */
import type { StoredRun } from '../bundle/reader.ts';
import { type CellData, isSegment } from '../measure/cells.ts';
import { forcedAcceptance, repeatedRequests } from '../measure/honesty.ts';
import { OVERHEAD_EVENT, OVERHEAD_LIMIT, overheadAllowed } from '../measure/overhead.ts';
import { clockRatio, throttling } from '../measure/power.ts';
import type { SpeedPlan } from '../measure/rows.ts';
import { tracesOf } from './figures.ts';
import type { HonestyCheck } from './schema.ts';
import { FOREIGN_CORES } from './warnings.ts';

export function honestyChecks(run: StoredRun, plan: SpeedPlan, cells: readonly CellData[]): HonestyCheck[] {
  const segments = run.timings.filter(isSegment);
  const windows = cells.flatMap((cell) => cell.windows);
  return [
    declared(
      run,
      segments.flatMap((row) => row.switches),
    ),
    forced(run),
    defects(run),
    foreignCores(segments.map((row) => row.foreignCores)),
    foreignGpu(segments.map((row) => row.gpuProcesses)),
    {
      id: 'repeated-requests',
      question: 'Is a request that was just answered answered faster?',
      ...repeatedRequests(cells.flatMap((cell) => cell.probes)),
    },
    throttled(run, windows),
    overhead(run, cells),
    processes(
      plan,
      segments.length,
      segments.every((row) => row.freshProcess),
    ),
  ];
}

function declared(run: StoredRun, switches: readonly string[]): HonestyCheck {
  const cards = Object.values(run.manifest.engines).flatMap((card) =>
    card.syntheticAcceptance === null ? [] : [`${card.name}: ${card.syntheticAcceptance}`],
  );
  const found = [...new Set([...cards, ...switches.map((name) => `${name} is set`)])];
  return {
    id: 'synthetic-acceptance',
    question: 'Does an engine or a set variable say that acceptance is forced or assumed?',
    outcome: found.length > 0 ? 'found' : 'clear',
    evidence:
      found.length > 0 ? found.join('; ') : 'no card of an engine says so, and no variable that is known for it is set',
  };
}

function forced(run: StoredRun): HonestyCheck {
  const phase = run.manifest.plan.phases.find((other) => other.test === 'equality');
  const finding =
    phase === undefined
      ? { outcome: 'not checked' as const, evidence: 'this run has no phase with acceptance' }
      : forcedAcceptance(
          tracesOf(run, phase, 'speculative').map((trace) => ({
            prompt: trace.row.prompt,
            accepted: trace.rounds.filter((round) => round.kind === 'decode').map((round) => round.accepted),
          })),
        );
  return {
    id: 'forced-acceptance',
    question: 'Does acceptance look as if it were drawn without regard to the text?',
    ...finding,
  };
}

function defects(run: StoredRun): HonestyCheck {
  const found = Object.values(run.manifest.engines).flatMap((card) => card.defects);
  return {
    id: 'defects',
    question: 'Is an engine built or switched to be wrong?',
    outcome: found.length > 0 ? 'found' : 'clear',
    evidence: found.length > 0 ? [...new Set(found)].join(', ') : 'no card of an engine names a defect',
  };
}

function foreignCores(cores: readonly (number | null)[]): HonestyCheck {
  const known = cores.filter((value) => value !== null);
  const most = Math.max(0, ...known);
  return {
    id: 'foreign-load',
    question: 'Did other processes use the processor while it was timed?',
    outcome: known.length === 0 ? 'not checked' : most > FOREIGN_CORES ? 'found' : 'clear',
    evidence:
      known.length === 0
        ? 'this machine does not tell'
        : `at most ${most.toFixed(2)} cores were busy with others in any of ${known.length} segments; ${FOREIGN_CORES} are allowed`,
  };
}

function foreignGpu(lists: readonly (readonly string[] | null)[]): HonestyCheck {
  const known = lists.filter((list) => list !== null);
  const found = [...new Set(known.flat())];
  return {
    id: 'foreign-gpu',
    question: 'Did another program hold a GPU?',
    outcome: known.length === 0 ? 'not checked' : found.length > 0 ? 'found' : 'clear',
    evidence:
      known.length === 0 ? 'no GPU, or no tool that tells' : found.length > 0 ? found.join(', ') : 'no other program',
  };
}

function throttled(run: StoredRun, windows: CellData['windows']): HonestyCheck {
  const { readings, reasons } = throttling(run.telemetry, windows);
  const ratio = clockRatio(run.telemetry, windows);
  if (readings === 0 && ratio === null) {
    return {
      id: 'throttling',
      question: 'Were clocks lowered while it was timed?',
      outcome: 'not checked',
      evidence: 'no sensor of this machine tells clocks or reasons for lowering them',
    };
  }
  const named = [...reasons].map(([reason, share]) => `${reason} in ${(100 * share).toFixed(1)} % of readings`);
  const slow = ratio !== null && ratio < 0.95;
  return {
    id: 'throttling',
    question: 'Were clocks lowered while it was timed?',
    outcome: named.length > 0 || slow ? 'found' : 'clear',
    evidence: [
      ...(readings > 0 ? [named.length > 0 ? named.join(', ') : `${readings} readings name no reason`] : []),
      ...(ratio === null ? [] : [`lowest clock over highest of a device ${ratio.toFixed(3)}`]),
    ].join('; '),
  };
}

function overhead(run: StoredRun, cells: readonly CellData[]): HonestyCheck {
  const event = run.events.find((entry) => entry.kind === OVERHEAD_EVENT);
  const meanUs = typeof event?.meanUs === 'number' ? event.meanUs : null;
  const steps = cells
    .filter((cell) => cell.total.rounds > 0)
    .map((cell) => cell.total.stepNs / cell.total.rounds / 1e6);
  const shortest = Math.min(...steps);
  const limit = `${OVERHEAD_LIMIT.microseconds} us or ${100 * OVERHEAD_LIMIT.share} % of a step`;
  const known = meanUs !== null && steps.length > 0;
  return {
    id: 'harness-overhead',
    question: `Does the harness itself cost a round more than ${limit}?`,
    outcome: !known ? 'not checked' : overheadAllowed(meanUs, shortest) ? 'clear' : 'found',
    evidence: known
      ? `${meanUs.toFixed(2)} us a round on an engine that does nothing, ${String(event?.rounds)} rounds; the shortest step of a cell is ${(1000 * shortest).toFixed(0)} us`
      : 'this run did not measure it',
  };
}

function processes(plan: SpeedPlan, seen: number, fresh: boolean): HonestyCheck {
  const order = plan.order.map((arm) => (arm === 'plain' ? 'off' : 'on')).join(', ');
  const turns = plan.order.length >= 4 && plan.order[0] !== plan.order[1] && plan.order[1] === plan.order[2];
  return {
    id: 'order',
    question: 'Did both arms run by turns, each in a process of its own?',
    outcome: seen === 0 ? 'not checked' : fresh && turns ? 'clear' : 'found',
    evidence: `${seen} of ${plan.order.length} segments, ${fresh ? 'each a fresh process' : 'not in processes of their own'}: ${order}`,
  };
}
