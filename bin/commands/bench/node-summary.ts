/** A node benchmark as a person reads it in a terminal: what was left out and what is doubtful first, the headline last. */
import { estimateSeconds, type NodePlan } from '../../../harness/bench/node/plan.ts';
import type { NodeCellRow, NodeCollectives, NodeComparison, NodeReport } from '../../../harness/bench/node/report.ts';
import type { Measured } from '../../../harness/report/schema.ts';
import { paint, print, table } from '../../support/output.ts';

export function printNodeReport(report: NodeReport): void {
  print(paint('bold', report.run.title));
  for (const { id, layers, gpus, loadSeconds, weightBytes, lack } of report.models) {
    const bytes = weightBytes === null ? '' : `, ${(weightBytes / 1e9).toFixed(1)} GB of weights on the first GPU`;
    print(
      lack === null
        ? `${id}: ${layers} layers on ${gpus} GPU${gpus === 1 ? '' : 's'}, made in ${loadSeconds.toFixed(1)} s${bytes}`
        : `${id}: ${lack}`,
    );
  }
  for (const floor of report.floors) print(`${floor.name}: ${text(floor.figure, 2)} (${floor.formula})`);
  for (const use of report.telemetry) {
    const power = use.powerW === null ? '-' : `${use.powerW.mean.toFixed(0)} W (most ${use.powerW.most.toFixed(0)})`;
    const clock =
      use.smClockMhz === null
        ? '-'
        : `${use.smClockMhz.median.toFixed(0)} MHz (least ${use.smClockMhz.least.toFixed(0)})`;
    print(`GPU ${use.gpu} while decoding: ${power}, ${clock}`);
  }
  const groups = [...new Set(report.cells.map((cell) => cell.group))].filter((group) => group !== 'headline');
  for (const group of groups) {
    print('');
    print(paint('bold', group));
    print(cellTable(report.cells.filter((cell) => cell.group === group)));
  }
  for (const row of report.layers) {
    print('');
    print(
      paint(
        'bold',
        `${row.id}: ${row.totalUs.toFixed(1)} us a layer while traced, at least ${Math.max(0, row.waitUs).toFixed(1)} of them waiting`,
      ),
    );
    print(
      table(
        [
          ['operation', 'in a round', 'us a layer', 'math', 'busy', 'slowest block', 'waiting', 'overlap'],
          ...row.ops.map((op) => [
            op.op,
            String(op.count),
            ...[op.totalUs, op.mathUs, op.busyUs, op.slowestUs].map((us) => us.toFixed(2)),
            // Operations overlap: a block that begins early is busy in the time of the operation before. Both are the least there was.
            op.waitUs < 0 ? '-' : op.waitUs.toFixed(2),
            op.waitUs < 0 ? (-op.waitUs).toFixed(2) : '-',
          ]),
        ],
        [1, 2, 3, 4, 5, 6, 7],
      ),
    );
  }
  if (report.collectives !== undefined) printCollectives(report.collectives);
  // A ratio with a cell that this run has not stands in report.json.
  const compared = report.comparisons.filter(
    ({ figure }) => figure.state === 'measured' || !figure.reason.endsWith('was not measured'),
  );
  if (compared.length > 0) {
    print('');
    print(paint('bold', 'Compared'));
    print(comparisonTable(compared));
  }
  if (report.projections.length > 0) {
    print('');
    print(paint('bold', 'Projections, not measured'));
    for (const row of report.projections) print(`${row.name}: ${text(row.figure, 0)}. ${row.formula}`);
  }
  const absent = groupedReasons(report);
  if (absent.length > 0) {
    print('');
    for (const line of absent) print(line);
  }
  print('');
  for (const { outcome, question, evidence } of report.verdicts) {
    const style = outcome === 'consistent' ? 'green' : /refuted|inconsistent/.test(outcome) ? 'red' : 'yellow';
    print(`${paint(style, outcome.padEnd(12))}  ${question} ${evidence}`);
  }
  for (const warning of report.warnings) print(`${paint('yellow', 'warning')}: ${warning}`);
  print('');
  print(`Labels, each where it applies: ${report.labels.join('; ') || 'none, for no cell was measured'}.`);
  print(targetTable(report));
  const headline = report.cells.filter((cell) => cell.group === 'headline');
  if (headline.length > 0) {
    print('');
    print(cellTable(headline));
  }
}

function cellTable(cells: readonly NodeCellRow[]): string {
  const head = [
    'cell',
    'layers',
    'GPUs',
    'tokens/s',
    '95 % interval',
    'step ms',
    'accepted',
    'assumed',
    'experts',
    'GB a step',
    'of ceiling',
  ];
  const rows = cells.map((cell) => [
    cell.id,
    String(cell.layers),
    String(cell.gpus),
    number(cell, 'tokens-per-second', 1),
    range(cell, 'tokens-per-second', 1),
    number(cell, 'step', 3),
    number(cell, 'acceptance', 2),
    cell.profile === null ? '-' : cell.profile.expected.toFixed(2),
    number(cell, 'distinct-experts', 1),
    number(cell, 'step-bytes', 1),
    percent(cell, 'ceiling-share'),
  ]);
  return table([head, ...rows], [1, 2, 3, 5, 6, 7, 8, 9, 10]);
}

function printCollectives({ rows, exposed, lacks }: NodeCollectives): void {
  print('');
  print(paint('bold', 'The all-reduce alone, rows of 6144: us a call of the slowest rank'));
  print(
    table(
      [
        ['GPUs', 'rows', 'how', '', 'median', 'p5', 'p95', 'slowest block'],
        ...rows.map((row) => [
          String(row.gpus),
          String(row.rows),
          row.how,
          row.arrangement,
          ...[row.medianUs, row.p5Us, row.p95Us].map((us) => us.toFixed(2)),
          row.slowestUs === null ? '-' : row.slowestUs.toFixed(2),
        ]),
      ],
      [0, 1, 4, 5, 6, 7],
    ),
  );
  for (const { name, figure } of exposed) print(`${name}: ${text(figure, 2)}`);
  for (const { gpus, what, reason } of lacks) print(`not measured on ${gpus} GPUs (${what}): ${reason}`);
}

function comparisonTable(rows: readonly NodeComparison[]): string {
  return table(
    rows.map(({ name, figure }) => [
      name,
      figure.state === 'measured' ? `${figure.value.toFixed(2)}x` : '-',
      figure.state !== 'measured'
        ? figure.reason
        : figure.interval === null
          ? ''
          : `${figure.interval.low.toFixed(2)} to ${figure.interval.high.toFixed(2)}`,
    ]),
    [1],
  );
}

function targetTable(report: NodeReport): string {
  const first = report.targets[0];
  if (report.targets.every((target) => target.outcome === 'not yet measured'))
    return `Targets: ${first?.figure.state === 'measured' ? '' : first?.figure.reason}.`;
  return table(
    [
      ['target', 'must', 'aim', 'here', ''],
      ...report.targets.map((target) => [
        target.name,
        String(target.must),
        String(target.aim),
        target.figure.state === 'measured' ? target.figure.value.toPrecision(4) : '-',
        target.outcome,
      ]),
    ],
    [1, 2, 3],
  );
}

/** One line a reason, with the cells that share it. */
function groupedReasons(report: NodeReport): string[] {
  const reasons = new Map<string, string[]>();
  for (const { cell, reason } of report.notMeasured) reasons.set(reason, [...(reasons.get(reason) ?? []), cell]);
  return [...reasons].map(([reason, cells]) => `not measured: ${cells.join(', ')}: ${reason}`);
}

export function printNodePlan(plan: NodePlan): void {
  for (const model of plan.models)
    print(`${model.id}: about ${(model.estimatedGpuBytes / 2 ** 30).toFixed(1)} GiB a GPU`);
  print('');
  print(
    table(
      [
        ['stage', 'model', 'generations', 'about s'],
        ...plan.stages.map((stage) => [
          stage.id,
          stage.model,
          String(stage.tasks.length),
          stage.estimateSeconds.toFixed(0),
        ]),
      ],
      [2, 3],
    ),
  );
  if (plan.collectives !== undefined)
    print(
      `the all-reduce alone on ${plan.collectives.gpus.join(', ')} GPUs: about ${plan.collectives.estimateSeconds} s`,
    );
  print(
    `about ${estimateSeconds(plan).toFixed(0)} s in all, the making of models included; of ${plan.input.budgetSeconds} s`,
  );
  for (const { cell, reason } of plan.notMeasured) print(`not measured: ${cell}: ${reason}`);
}

function figureOf(cell: NodeCellRow, id: string): Measured | undefined {
  return cell.figures.find((figure) => figure.id === id)?.figure;
}

function number(cell: NodeCellRow, id: string, digits: number): string {
  const figure = figureOf(cell, id);
  return figure?.state === 'measured' ? figure.value.toFixed(digits) : '-';
}

function percent(cell: NodeCellRow, id: string): string {
  const figure = figureOf(cell, id);
  return figure?.state === 'measured' ? `${(100 * figure.value).toFixed(1)} %` : '-';
}

function range(cell: NodeCellRow, id: string, digits: number): string {
  const figure = figureOf(cell, id);
  if (figure?.state !== 'measured' || figure.interval === null) return '-';
  return `${figure.interval.low.toFixed(digits)} to ${figure.interval.high.toFixed(digits)}`;
}

function text(figure: Measured, digits: number): string {
  return figure.state === 'measured' ? `${figure.value.toFixed(digits)} ${figure.unit}` : figure.reason;
}
