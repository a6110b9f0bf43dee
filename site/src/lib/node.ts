/**
 * Node benchmarks as the page shows them: each bundle's report.json, checked a second time, and its cells as tables. A label (synthetic
 * weights, assumed acceptance, N of 8 GPUs) is what a warning is elsewhere: it stands beside every number it touches.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type {
  NodeCellRow,
  NodeCollectiveRow,
  NodeCollectives,
  NodeComparison,
  NodeFigure,
  NodeLayerOp,
  NodeLayerRow,
  NodeReport,
  NodeTarget,
} from '../../../harness/bench/node/report.ts';
import type { Measured } from '../../../harness/report/schema.ts';
import { fixed } from './format.ts';
import { distinct } from './groups.ts';
import { type Stand, sizeText, targetsOf } from './parts.ts';
import { measured, ReportError, verdict } from './report.ts';
import { flag, integer, listOf, nullable, number, object, oneOf, optional, text } from './shape.ts';
import { type DraftCell, finish, Legend, measuredCell, plainCell, type Table, wordCell } from './table.ts';

const SCHEMA = 'kilotoken/node-report@1' satisfies NodeReport['schema'];

const figure = object<NodeFigure>({ id: text, name: text, formula: text, figure: measured });
const comparison = object<NodeComparison>({
  id: text,
  name: text,
  formula: text,
  labels: listOf(text),
  figure: measured,
});

const cell = object<NodeCellRow>({
  id: text,
  group: text,
  engine: text,
  experts: text,
  layers: integer,
  gpus: integer,
  sharedRouting: number,
  mode: text,
  speculation: flag,
  block: integer,
  profile: nullable(object({ name: text, target: number, expected: number })),
  context: integer,
  repeats: integer,
  labels: listOf(text),
  figures: listOf(figure),
});

const layerRow = object<NodeLayerRow>({
  id: text,
  layers: integer,
  gpus: integer,
  speculation: flag,
  repeats: integer,
  labels: listOf(text),
  totalUs: number,
  waitUs: number,
  ops: listOf(
    object<NodeLayerOp>({
      op: text,
      count: integer,
      totalUs: number,
      mathUs: number,
      busyUs: number,
      slowestUs: number,
      waitUs: number,
    }),
  ),
});

const collectiveRow = object<NodeCollectiveRow>({
  id: text,
  gpus: integer,
  how: text,
  arrangement: text,
  rows: integer,
  launches: integer,
  samples: integer,
  medianUs: number,
  p5Us: number,
  p95Us: number,
  meanUs: number,
  slowestUs: nullable(number),
  rankMediansUs: listOf(number),
  clockMhz: listOf(number),
});

const collectives = object<NodeCollectives>({
  rows: listOf(collectiveRow),
  exposed: listOf(comparison),
  lacks: listOf(object({ gpus: integer, what: text, reason: text })),
});

const target = object<NodeTarget>({
  id: text,
  name: text,
  unit: text,
  must: number,
  aim: number,
  better: oneOf('higher', 'lower'),
  outcome: oneOf('aim reached', 'must reached', 'missed', 'not yet measured'),
  figure: measured,
});

const report = object<NodeReport>({
  $schema: text,
  schema: oneOf(SCHEMA),
  run: object({
    id: text,
    title: text,
    startedAt: text,
    status: text,
    seconds: number,
    command: text,
    commit: text,
    dirty: flag,
    seed: text,
  }),
  machine: object({ gpus: integer, used: integer, gpu: text, cpu: text, os: text }),
  labels: listOf(text),
  warnings: listOf(text),
  verdicts: listOf(verdict),
  profiles: listOf(object({ name: text, target: number, chances: listOf(number), source: text })),
  floors: listOf(figure),
  models: listOf(
    object({
      id: text,
      layers: integer,
      gpus: integer,
      loadSeconds: number,
      weightBytes: nullable(number),
      estimatedGpuBytes: number,
      lack: nullable(text),
    }),
  ),
  cells: listOf(cell),
  layers: listOf(layerRow),
  notMeasured: listOf(object({ cell: text, group: text, reason: text })),
  comparisons: listOf(comparison),
  projections: listOf(comparison),
  targets: listOf(target),
  collectives: optional(collectives),
  telemetry: listOf(
    object({
      gpu: text,
      readings: integer,
      powerW: nullable(object({ mean: number, most: number })),
      smClockMhz: nullable(object({ median: number, least: number })),
      temperatureC: nullable(number),
      throttled: listOf(text),
    }),
  ),
});

/** Checks the text of a node benchmark's report.json. Throws ReportError. */
export function parseNodeReport(json: string, name: string): NodeReport {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw new ReportError(`${name} is not JSON: ${(error as Error).message}`);
  }
  try {
    return report(value, 'report');
  } catch (error) {
    throw new ReportError(`${name} cannot be shown: ${(error as Error).message}`);
  }
}

/** All node benchmarks of a folder with one bundle a subfolder, the newest first. Empty where there is no such folder. */
export function readNodeReports(folder: string): NodeReport[] {
  if (folder === '' || !existsSync(folder)) return [];
  return readdirSync(folder)
    .map((entry) => join(folder, entry, 'report.json'))
    .filter((path) => existsSync(path))
    .map((path) => parseNodeReport(readFileSync(path, 'utf8'), path))
    .sort((a, b) => (a.run.startedAt < b.run.startedAt ? 1 : a.run.startedAt > b.run.startedAt ? -1 : 0));
}

/** Columns of the tables of cells: figure, and how it is headed. */
const COLUMNS: readonly (readonly [string, string])[] = [
  ['tokens-per-second', 'tokens/s'],
  ['step', 'step, ms'],
  ['step-p50', 'median step, ms'],
  ['acceptance', 'accepted, realised'],
  ['distinct-experts', 'experts a layer'],
  ['step-bytes', 'GB a step'],
  ['ceiling-share', 'share of read ceiling'],
  ['energy', 'J a token'],
];

const LAUNCHES: Readonly<Record<string, string>> = {
  ops: 'single launches',
  graph: 'CUDA graph',
  resident: 'resident kernel',
};

/** What a cell is, without its group. */
export function cellName(row: NodeCellRow): string {
  const speculation = row.speculation ? `block ${row.block}` : 'no speculation';
  if (row.group === 'headline' || row.group === 'lossless') return row.profile?.name ?? row.id;
  if (row.group === 'ablation')
    return `${row.speculation ? 'speculation on' : 'speculation off'}, ${LAUNCHES[row.mode] ?? row.mode}`;
  if (row.group === 'context') return `${row.context.toLocaleString('en')} positions`;
  if (row.group === 'block') return speculation;
  if (row.group === 'gpus') return `${row.gpus} GPU${row.gpus === 1 ? '' : 's'}, ${speculation}`;
  if (row.group === 'routing') return `shared by ${row.sharedRouting}`;
  return `${row.engine}, ${LAUNCHES[row.mode] ?? row.mode}, ${speculation}`;
}

const FORMATS: Readonly<Record<string, string>> = { mxfp4: 'MXFP4 experts', fp8: 'FP8 experts' };

/** The cells of one group of a report. */
export function cellTable(found: NodeReport, group: string): Table {
  const cells = found.cells.filter((row) => row.group === group);
  const legend = new Legend();
  const figureOf = (row: NodeCellRow, id: string): Measured | undefined =>
    row.figures.find((entry) => entry.id === id)?.figure;
  // A column without a single number is left out; why is said in report.json.
  const columns = COLUMNS.filter(([id]) => cells.some((row) => figureOf(row, id)?.state === 'measured'));
  const model = (row: NodeCellRow): string => {
    const format = FORMATS[row.experts] ?? row.experts;
    return `${format}, ${row.layers} layers on ${row.gpus} GPU${row.gpus === 1 ? '' : 's'}`;
  };
  const rowOf = (row: NodeCellRow) => ({
    head: cellName(row),
    ...(row.profile === null ? {} : { sub: `assumed: ${row.profile.expected.toFixed(2)} tokens a step` }),
    cells: columns.map(([id, name]): DraftCell => {
      const one = figureOf(row, id);
      if (one === undefined) return wordCell('\u2013', 'not defined for this cell');
      legend.add(name, one);
      return { ...measuredCell(one), ...(one.state === 'measured' ? { warnings: row.labels } : {}) };
    }),
  });
  // Before the legend's lines: rows say what it must explain.
  const groups = distinct(cells.map(model)).map((title) => ({
    title,
    rows: cells.filter((row) => model(row) === title).map(rowOf),
  }));
  return finish({ corner: 'cell', columns: columns.map(([, name]) => name), legend: legend.lines(), groups });
}

/** Microseconds of a layer by kind of operation. What a report gives as less than no waiting is overlap, and stands in a column of its own. */
export function layerTable(found: NodeReport): Table {
  const cellsOf = (us: readonly number[], labels: readonly string[]): DraftCell[] =>
    us.map((value) => plainCell(value, fixed(value, 2), labels));
  const restOf = (us: number, labels: readonly string[]): DraftCell[] =>
    us < 0
      ? [wordCell('\u2013', 'none shows'), ...cellsOf([-us], labels)]
      : [...cellsOf([us], labels), wordCell('\u2013', 'none shows')];
  return finish({
    corner: 'operation',
    columns: ['in all', 'products', 'busy', 'slowest block', 'waiting, at least', 'overlap, at least'],
    legend: [
      "Microseconds a layer, medians over the traced repeats, on the first GPU. In all: from when the last block could begin to the same moment of the next operation. Busy: from a block's own beginning until its results are stored, mean over its blocks. What in all has beyond busy was spent waiting for other blocks or GPUs; what busy has beyond in all is overlap: blocks that began early worked while the operation before still ran. Both may be larger, since one hides the other. All operations: waiting less overlap.",
    ],
    groups: found.layers.map((row) => ({
      title: `${row.speculation ? 'Speculation on' : 'Speculation off'}, ${row.layers} layers on ${row.gpus} GPU${row.gpus === 1 ? '' : 's'}`,
      rows: [
        ...row.ops.map((op) => ({
          head: op.op,
          sub: `${op.count} in a round`,
          cells: [
            ...cellsOf([op.totalUs, op.mathUs, op.busyUs, op.slowestUs], row.labels),
            ...restOf(op.waitUs, row.labels),
          ],
        })),
        {
          head: 'all operations',
          cells: [
            ...cellsOf([row.totalUs], row.labels),
            ...[1, 2, 3].map(() => wordCell('\u2013', 'not added up')),
            ...restOf(row.waitUs, row.labels),
          ],
        },
      ],
    })),
  });
}

/** The all-reduce alone: times of a call by number of GPUs. */
export function collectiveTable(found: NodeCollectives): Table {
  const counts = distinct(found.rows.map(({ gpus }) => gpus));
  return finish({
    corner: 'a call, microseconds',
    columns: ['median', '5th percentile', '95th', 'mean', 'slowest block, mean'],
    legend: [
      'Rows of 6144 binary32 values, one launch for all calls, of the rank with the longest median. The stack adds in two hops, eight rows at a time.',
    ],
    groups: counts.map((gpus) => ({
      title: `${gpus} GPUs`,
      rows: found.rows
        .filter((row) => row.gpus === gpus)
        .map((row) => ({
          head: `${row.how}, ${row.rows} ${row.rows === 1 ? 'row' : 'rows'}`,
          sub: row.arrangement,
          cells: [row.medianUs, row.p5Us, row.p95Us, row.meanUs, row.slowestUs].map((us) =>
            us === null
              ? wordCell('\u2013', 'not defined for a library')
              : plainCell(us, fixed(us, 2), gpus < 8 ? [`${gpus} of 8 GPUs`] : []),
          ),
        })),
    })),
  });
}

/** One number a row, with its unit where rows differ in it, and its labels in one note. */
/** @param figure heads the column of numbers, and the legend names them so */
export function comparisonTable(rows: readonly NodeComparison[], figure: string): Table {
  const legend = new Legend();
  const units = distinct(rows.flatMap(({ figure: one }) => (one.state === 'measured' ? [one.unit] : [])));
  const cellOf = ({ labels, figure: one }: NodeComparison): DraftCell => {
    legend.add(figure, one);
    const cell = measuredCell(one);
    if (one.state !== 'measured') return { ...cell, warnings: [] };
    const text = units.length > 1 && one.unit !== '' ? `${cell.text} ${one.unit}` : cell.text;
    return { ...cell, text, warnings: labels.length > 0 ? [labels.join('; ')] : [] };
  };
  const groups = [{ title: '', rows: rows.map((row) => ({ head: row.name, sub: row.formula, cells: [cellOf(row)] })) }];
  return finish({ corner: 'what, and by which formula', columns: [figure], legend: legend.lines(), groups });
}

/**
 * Targets over all reports: what 8 GPUs gave, and apart from it what fewer gave, with the bundle that it stands in. Before anything ran
 * on 8 there are no outcomes, and no column for them.
 */
export function targetTable(reports: readonly NodeReport[]): Table {
  const legend = new Legend();
  const rows = targetsOf(reports);
  const decided = rows.some(({ measured: here }) => here !== null);
  const groups = [
    {
      title: '',
      rows: rows.map(({ target, measured: here, elsewhere }) => ({
        head: target.unit === '' || target.unit === 'x' ? target.name : `${target.name}, ${target.unit}`,
        cells: [
          plainCell(target.must, String(target.must)),
          plainCell(target.aim, String(target.aim)),
          here === null
            ? wordCell('not yet measured', 'not yet measured on 8 x H200 with all 70 layers')
            : { ...measuredCell(target.figure), notes: [[...here.labels, placeOf(here.report)].join('; ')] },
          ...(decided ? [wordCell(target.outcome)] : []),
          elsewhere === null ? wordCell('not yet measured') : standCell(target.id, elsewhere, legend),
        ],
      })),
    },
  ];
  return finish({
    corner: 'on 8 H200, batch 1, 4K context, independent routing',
    columns: ['must', 'aim', '8 H200', ...(decided ? ['outcome'] : []), 'on fewer GPUs or layers: no outcome'],
    legend: ['Targets were set before anything was measured.', ...legend.lines()],
    groups,
  });
}

/** What a target asks is cut to the stated acceptance; what stands beside it is not. */
function standCell(id: NodeTarget['id'], { figure, labels, size, report }: Stand, legend: Legend): DraftCell {
  legend.add('on fewer GPUs or layers', figure);
  const cell = measuredCell(figure);
  const speed = figure.state === 'measured' && (figure.unit === 'tokens/s' || id === 'reference');
  const stands = [...labels, ...(speed ? ['at the realised acceptance'] : [])].join('; ');
  return {
    ...cell,
    text: figure.state === 'measured' && figure.unit !== '' ? `${cell.text} ${figure.unit}` : cell.text,
    notes: [`${sizeText(size, report)}: ${stands}; ${placeOf(report)}`],
  };
}

const placeOf = ({ run }: NodeReport): string => `bundle ${run.id}, commit ${run.commit.slice(0, 7)}`;

/** Reasons why cells of a part (default: of any) were not measured, each once, with the cells that share it. */
export function reasonsOf(
  found: NodeReport,
  part?: string,
): { readonly reason: string; readonly cells: readonly string[] }[] {
  const absent = found.notMeasured.filter(({ group }) => part === undefined || group === part);
  return distinct(absent.map(({ reason }) => reason)).map((reason) => ({
    reason,
    cells: absent.filter((row) => row.reason === reason).map((row) => row.cell),
  }));
}
