/** The speed part of a report, from timings, telemetry and the verdicts on the output that was timed. */
import type { StoredRun } from '../bundle/reader.ts';
import type { PhasePlan, Plan, TelemetryRow } from '../bundle/rows.ts';
import { type CellData, cellData, isSegment } from '../measure/cells.ts';
import { LEAST_PROCESSES } from '../measure/interval.ts';
import { clockRatio, throttling } from '../measure/power.ts';
import type { SpeedPlan, TimedSession, TimingRow } from '../measure/rows.ts';
import { compareTimed, timedBooks } from '../measure/timed-books.ts';
import { criterionText, Steadiness } from '../measure/warmup.ts';
import { percent } from '../percent.ts';
import { shardOfSpeedCell } from '../plan.ts';
import { total } from '../stats/averages.ts';
import type { BootstrapOptions } from '../stats/bootstrap.ts';
import { honestyChecks } from './checks.ts';
import { facetRows } from './facets.ts';
import { decodingName } from './figures.ts';
import type { Measured, Measurement, SpeedCell, SpeedComparison, SpeedRow, Verdict, Warning } from './schema.ts';
import {
  absentFigure,
  aggregateFigure,
  comparisonFigures,
  DECODE,
  definitionFigures,
  economicsFigures,
  type FigureContext,
  latencyFigures,
  PREFILL,
  peakFigure,
  ratioFigure,
  STEP,
} from './speed-cells.ts';
import { distinct, engineWarnings, foreignWarnings, lengthWarnings, promptWarnings } from './warnings.ts';

const LEVEL = 0.95;
/** Reasons of the driver that make a window unusable; the others are how the product runs, and are shown. */
const HARDWARE_SLOWDOWN = ['hw_slowdown', 'hw_thermal_slowdown', 'hw_power_brake_slowdown'];

/** What a cell may not carry and be quoted as a headline. */
const DISTURBED: readonly Warning['code'][] = ['foreign-load', 'not-steady', 'cached', 'few-processes'];

export interface MeasurementInput {
  readonly run: StoredRun;
  readonly plan: Plan & { readonly speed: SpeedPlan };
  /** All verdicts but those of this file. */
  readonly verdicts: readonly Verdict[];
}

/** Whether rows, tokens and clocks of the timed sessions agree with themselves, and both arms with each other. */
export function timedVerdicts(run: StoredRun, plan: SpeedPlan): Verdict[] {
  const { manifest } = run;
  const rows = run.timings;
  const sessions = rows.filter((row): row is TimedSession => row.kind === 'session');
  const cards = manifest.engines;
  const engines = [...new Set([plan.plain, plan.speculative])];
  const shared = {
    engines,
    scenarios: [...new Set(plan.cells.map((cell) => cell.scenario))],
    warnings: distinct(engines.flatMap((name) => engineWarnings(cards[name]!, manifest.model))),
  };
  const contradictions = timedBooks(rows, {
    plan,
    seed: manifest.plan.seed,
    stopIds: manifest.plan.stopIds,
    cards,
    promptTokens: new Map([...run.prompts.values()].map((prompt) => [prompt.id, prompt.ids.length])),
  });
  const cells = cellData(plan, rows).map((cell) => ({
    name: `${cell.cell}, ${cell.arm}`,
    ...identitiesOf(cell, plan, cards[cell.engine]!.blockSize),
  }));
  // More than a block in a window cannot be. Time between steps can: it spoils a cell, and says nothing against the rows.
  const impossible = cells.flatMap(({ name, peak }) =>
    peak !== null && !peak.holds
      ? [`${name}: the peak is ${peak.ratio.toFixed(2)} times the mean; the block allows ${peak.most.toFixed(2)}`]
      : [],
  );
  const spoilt = cells.flatMap(({ name, identity }) =>
    identity !== null && !identity.holds ? [`${name}: ${residualText(identity)}`] : [],
  );
  const found = [...contradictions, ...impossible];
  const rounds = sessions.reduce((sum, row) => sum + row.atNs.length, 0);
  const failed = sessions.filter((row) => row.fault !== null && row.fault !== 'interrupted');
  const due = plan.order.length;
  const ended = rows.filter((row) => isSegment(row) && row.fault === null).length;
  const books: Verdict = {
    id: 'timings',
    question: 'Do the counts, tokens, ends and clocks of every timed round add up, and the figures made from them?',
    outcome:
      found.length > 0 ? 'internally inconsistent' : rounds === 0 || spoilt.length > 0 ? 'inconclusive' : 'consistent',
    evidence:
      found.length > 0
        ? `${found.length} contradictions; first: ${found[0]}.`
        : spoilt.length > 0
          ? `${spoilt.length} of ${cells.length} cells are invalid and not printed; first: ${spoilt[0]}.`
          : `${rounds} timed rounds of ${sessions.length} sessions checked; tokens per second equals acceptance length over step time within ${percent(plan.identityTolerance)} in every cell, and no peak exceeds what the block allows.`,
    wouldHaveCaught: `a clock or count that changes a cell's tokens per second by more than ${percent(plan.identityTolerance)}, any round that keeps more than it accepted, any session that is not the plan's`,
    n: rounds,
    of: 'timed rounds',
    ...shared,
  };
  const comparison = compareTimed(plan, rows);
  const first = comparison.differences[0];
  const complete = failed.length === 0 && ended >= due;
  const comparable = plan.temperature === 0 || plan.rule !== 'reject';
  const output: Verdict = {
    id: 'timed-output',
    question: 'Is the output that was timed the output of plain decoding?',
    outcome: !comparable
      ? 'not testable here'
      : first !== undefined || failed.length > 0
        ? 'refuted'
        : comparison.compared === 0 || !complete
          ? 'inconclusive'
          : 'consistent',
    evidence: !comparable
      ? 'Under rule reject the two arms emit different tokens of the same law.'
      : first !== undefined
        ? `${comparison.differences.length} timed outputs differ; first ${first.cell}, prompt ${first.prompt}, token ${first.position}.`
        : failed.length > 0
          ? `${failed.length} timed sessions failed; first: ${failed[0]!.fault}.`
          : `${comparison.compared} requests were timed in both arms, ${comparison.tokens} tokens, no difference; ${ended} of ${due} segments ended.`,
    wouldHaveCaught: 'any token that speculation changed in what was timed, any session that failed',
    n: comparison.compared,
    of: 'requests',
    ...shared,
  };
  return [books, output];
}

function residualText(identity: NonNullable<SpeedCell['identity']>): string {
  return `tokens per second ${identity.tokensPerSecond.toFixed(1)}, but acceptance length ${identity.acceptanceLength.toFixed(3)} over step time ${identity.stepMs.toFixed(3)} ms differs by ${percent(identity.residual)}; at most ${percent(identity.tolerance)} may`;
}

function identitiesOf(
  cell: CellData,
  plan: SpeedPlan,
  blockSize: number,
): { identity: SpeedCell['identity']; peak: SpeedCell['peak'] } {
  if (cell.total.rounds === 0) return { identity: null, peak: null };
  const tokensPerSecond = DECODE.of(cell.total);
  const acceptanceLength = cell.total.decodeTokens / cell.total.rounds;
  const stepMs = STEP.of(cell.total);
  const residual = Math.abs((tokensPerSecond * stepMs) / 1000 / acceptanceLength - 1);
  const identity = {
    tokensPerSecond,
    acceptanceLength,
    stepMs,
    residual,
    tolerance: plan.identityTolerance,
    holds: residual <= plan.identityTolerance,
  };
  const { check } = peakFigure(cell, plan, blockSize, { bootstrap: NO_BOOTSTRAP, warnings: [], invalid: null });
  return { identity, peak: check };
}

const NO_BOOTSTRAP: BootstrapOptions = { resamples: 0, level: LEVEL, seed: '0' };

/** What the verdicts say of what a cell timed: the timed outputs themselves, and the equality phase of the same decoding. */
function correctnessOf(
  plan: SpeedPlan,
  phases: readonly PhasePlan[],
  verdicts: readonly Verdict[],
): SpeedCell['correctness'] {
  const phase = phases.find(
    (other) => other.test === 'equality' && other.rule === plan.rule && other.temperature === plan.temperature,
  );
  const ids = [...(phase === undefined ? [] : [phase.id]), 'timed-output', 'timings'];
  const own = ids.flatMap((id) => verdicts.filter((verdict) => verdict.id === id));
  const worst = (['internally inconsistent', 'refuted', 'inconclusive', 'not testable here'] as const).find((outcome) =>
    own.some((verdict) => verdict.outcome === outcome),
  );
  if (phase === undefined && own.length < 2)
    return { outcome: 'no verdict', evidence: 'no phase of this run judges this decoding' };
  return {
    outcome: worst ?? 'consistent',
    evidence: own.map((verdict) => `${verdict.id}: ${verdict.outcome}`).join('; '),
  };
}

export function measurementOf({ run, plan: whole, verdicts }: MeasurementInput): {
  measurement: Measurement;
  speed: SpeedRow[];
} {
  const { manifest } = run;
  const plan = whole.speed;
  const rows: readonly TimingRow[] = run.timings;
  const bootstrap: BootstrapOptions = { resamples: whole.bootstrapResamples, level: LEVEL, seed: whole.seed };
  const cells = cellData(plan, rows);
  const correctness = correctnessOf(plan, whole.phases, verdicts);
  const decoding = decodingName(plan);
  const checks = honestyChecks(run, plan, cells);
  const assembled = cells.map((cell) => {
    const telemetry = telemetryOf(run, whole, cell.cell);
    const card = manifest.engines[cell.engine]!;
    const { identity, peak } = identitiesOf(cell, plan, card.blockSize);
    const seconds = total(cell.windows.map((window) => (window.endNs - window.startNs) / 1e9));
    const steadiness = steadyOf(cell, plan);
    const segments = rows.filter(isSegment).filter((row) => cell.bySegment.has(row.segment));
    const slowed = throttling(telemetry, cell.windows);
    const hardware = [...slowed.reasons].filter(([reason]) => HARDWARE_SLOWDOWN.includes(reason));
    const invalidBecause = [
      ...(identity !== null && !identity.holds ? [residualText(identity)] : []),
      ...(peak !== null && !peak.holds ? ['the peak exceeds what the block allows'] : []),
      ...hardware.map(
        ([reason, share]) => `the hardware slowed itself down (${reason}) in ${percent(share)} of the readings`,
      ),
      ...(cell.faults.length > 0 ? [`${cell.faults.length} timed sessions failed: ${cell.faults[0]!.fault}`] : []),
    ];
    const clocks = clockRatio(telemetry, cell.windows);
    const soft = [...slowed.reasons].filter(([reason]) => !HARDWARE_SLOWDOWN.includes(reason));
    const warnings: Warning[] = [
      ...engineWarnings(card, manifest.model),
      ...shortWarnings(plan, seconds),
      ...lengthWarnings(plan),
      ...promptWarnings(cell.byPrompt.size),
      ...foreignWarnings(segments.map((row) => row.foreignCores)),
      ...(correctness.outcome === 'consistent'
        ? []
        : [
            {
              code: 'no-correctness-verdict' as const,
              text: `the output these timings belong to is not known to be right (${correctness.evidence})`,
            },
          ]),
      ...(steadiness.steady < steadiness.of
        ? [
            {
              code: 'not-steady' as const,
              text: `${steadiness.of - steadiness.steady} of ${steadiness.of} processes were timed before they were steady`,
            },
          ]
        : []),
      ...(soft.length > 0
        ? [
            {
              code: 'throttled' as const,
              text: soft.map(([reason, share]) => `${reason} in ${percent(share)} of the readings`).join(', '),
            },
          ]
        : []),
      ...(clocks !== null && clocks < 0.95
        ? [{ code: 'throttled' as const, text: `the slowest clock was ${percent(clocks)} of the fastest` }]
        : []),
      ...(cell.bySegment.size > 0 && cell.bySegment.size < LEAST_PROCESSES
        ? [
            {
              code: 'few-processes' as const,
              text: `${cell.bySegment.size} ${cell.bySegment.size === 1 ? 'process' : 'processes'} an arm; an interval asks for ${LEAST_PROCESSES}`,
            },
          ]
        : []),
      ...(segments.some((row) => !row.freshProcess)
        ? [{ code: 'few-processes' as const, text: 'all segments ran in one process' }]
        : []),
      ...segments
        .flatMap((row) => row.switches)
        .map((name) => ({ code: 'synthetic-acceptance' as const, text: `${name} was set` })),
      ...(checks.some((check) => check.id === 'repeated-requests' && check.outcome === 'found')
        ? [{ code: 'cached' as const, text: 'repeated requests were faster than fresh ones' }]
        : []),
    ];
    const invalid = invalidBecause.length > 0 ? `invalid: ${invalidBecause.join('; ')}` : null;
    const context: FigureContext = { bootstrap, warnings: distinct(warnings), invalid };
    const { figure: peakRow } = peakFigure(cell, plan, card.blockSize, context);
    const row: SpeedCell = {
      id: `${cell.cell}/${cell.arm}`,
      engine: cell.engine,
      scenario: cell.scenario,
      concurrency: cell.concurrency,
      decoding,
      speculation: cell.arm === 'speculative',
      rule: card.rule,
      blockSize: card.blockSize,
      headline:
        plan.mode === 'sustained' &&
        seconds >= plan.leastSeconds &&
        invalid === null &&
        correctness.outcome === 'consistent' &&
        segments.every((segment) => segment.freshProcess) &&
        !context.warnings.some((warning) => DISTURBED.includes(warning.code)),
      window: {
        seconds,
        longestSeconds: Math.max(0, ...cell.windows.map((window) => (window.endNs - window.startNs) / 1e9)),
        processes: cell.bySegment.size,
        freshProcesses: segments.length > 0 && segments.every((segment) => segment.freshProcess),
        sessions: cell.total.sessions,
        rounds: cell.total.rounds,
        tokens: cell.total.tokens,
        prompts: cell.byPrompt.size,
      },
      warmup: { criterion: criterionText(plan.warmup), ...steadiness },
      correctness,
      identity,
      peak,
      invalidBecause,
      warnings: [...context.warnings],
      figures: [
        ...definitionFigures(cell, context),
        ...latencyFigures(cell, context),
        peakRow,
        aggregateFigure(cell, context),
        ...economicsFigures(cell, plan, telemetry, context),
      ],
    };
    return { cell, row, context };
  });

  const pairs = plan.cells.map((cell) => ({
    plain: assembled.find((entry) => entry.cell.cell === cell.id && entry.cell.arm === 'plain')!,
    speculative: assembled.find((entry) => entry.cell.cell === cell.id && entry.cell.arm === 'speculative')!,
  }));
  const comparisons = pairs.map(({ plain, speculative }): SpeedComparison => {
    const invalid = plain.context.invalid ?? speculative.context.invalid;
    const warnings = distinct([...plain.context.warnings, ...speculative.context.warnings]);
    return {
      scenario: plain.cell.scenario,
      concurrency: plain.cell.concurrency,
      decoding,
      rule: plan.rule,
      figures: comparisonFigures(plain.cell, speculative.cell, plan, { bootstrap, warnings, invalid }),
    };
  });
  const speed = pairs.flatMap(({ plain, speculative }, i) =>
    plain.cell.concurrency === 1
      ? [plain, speculative].map(({ cell, row, context }) => speedRow(cell, row, context, comparisons[i]!))
      : [],
  );
  const facets = facetRows(run);
  return {
    measurement: {
      mode: plan.mode,
      statement: statementOf(
        plan,
        assembled.map(({ row }) => row),
      ),
      cells: assembled.map(({ row }) => row),
      comparisons,
      facets: facets.rows,
      absentFacets: facets.absent,
      checks,
      telemetry: telemetrySummary(run),
    },
    speed,
  };
}

/** Of a merged run, the readings of the machine that timed the cell: the clocks of shards have nothing to do with each other. */
function telemetryOf(run: StoredRun, plan: Plan, cell: string): readonly TelemetryRow[] {
  const of = run.manifest.parts?.[0]?.shard.of;
  if (of === undefined) return run.telemetry;
  const shard = shardOfSpeedCell(plan, plan.speed?.cells.findIndex((entry) => entry.id === cell) ?? 0, of);
  return run.telemetry.filter((row) => row.shard === shard);
}

/** The row of the first kind of report, so that readers of either find the same figures in the same place. */
function speedRow(cell: CellData, row: SpeedCell, context: FigureContext, comparison: SpeedComparison): SpeedRow {
  const baseline: Measured = absentFigure('this row is the baseline');
  return {
    engine: row.engine,
    scenario: row.scenario,
    decoding: row.decoding,
    speculation: row.speculation,
    rule: row.rule,
    blockSize: row.blockSize,
    decodeTokensPerSecond: ratioFigure(cell, DECODE, context),
    stepMs: ratioFigure(cell, STEP, context),
    prefillTokensPerSecond: ratioFigure(cell, PREFILL, context),
    speedup: row.speculation ? comparison.figures.find((figure) => figure.id === 'speedup')!.figure : baseline,
  };
}

function shortWarnings(plan: SpeedPlan, seconds: number): Warning[] {
  if (plan.mode === 'sustained' && seconds >= plan.leastSeconds) return [];
  return [
    {
      code: 'short-run',
      text: `timed for less than the ${plan.leastSeconds} s that a headline asks for`,
    },
  ];
}

/** Of the processes that timed a cell, how many had met the criterion when timing began. Computed again from the warm-up's rows. */
function steadyOf(cell: CellData, plan: SpeedPlan): { steady: number; of: number } {
  const segments = [...new Set(cell.warmups.map((row) => row.segment))];
  const steady = segments.filter((segment) => {
    const warm = new Steadiness(plan.warmup);
    for (const row of cell.warmups) {
      if (row.segment !== segment) continue;
      for (let i = 1; i < row.atNs.length; i++) warm.add(row.startNs + row.atNs[i]!, row.stepNs[i]!);
    }
    return warm.steady;
  });
  return { steady: steady.length, of: segments.length };
}

function statementOf(plan: SpeedPlan, cells: readonly SpeedCell[]): string {
  const seconds = cells.map((cell) => cell.window.seconds);
  const [low, high] = [Math.min(...seconds), Math.max(...seconds)];
  const timed = low === high ? `${low.toFixed(1)} s` : `${low.toFixed(1)} to ${high.toFixed(1)} s`;
  const kind =
    plan.mode === 'sustained'
      ? `Sustained measurement: ${plan.leastSeconds} s a cell are asked for`
      : `Short run: a headline would ask for ${plan.leastSeconds} s a cell`;
  return `${kind}, ${timed} were timed, in ${plan.order.length} processes by turns (${plan.order.map((arm) => (arm === 'plain' ? 'off' : 'on')).join(', ')}).`;
}

function telemetrySummary(run: StoredRun): Measurement['telemetry'] {
  const bySource = new Map<
    string,
    { devices: Set<string>; readings: number; first: number; last: number; keys: Set<string> }
  >();
  for (const row of run.telemetry) {
    const entry = bySource.get(row.source) ?? {
      devices: new Set<string>(),
      readings: 0,
      first: row.t_ns,
      last: row.t_ns,
      keys: new Set<string>(),
    };
    bySource.set(row.source, entry);
    entry.devices.add(row.device ?? '');
    entry.readings += 1;
    entry.last = Math.max(entry.last, row.t_ns);
    for (const key of Object.keys(row)) if (!['t_ns', 'source', 'device', 'shard'].includes(key)) entry.keys.add(key);
  }
  return [...bySource].map(([source, { devices, readings, first, last, keys }]) => ({
    source,
    devices: devices.size,
    readings,
    hz: last > first ? (readings / devices.size - 1) / ((last - first) / 1e9) : 0,
    quantities: [...keys].sort(),
  }));
}
