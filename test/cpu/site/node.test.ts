/** Node benchmarks on the page: what is refused, what the tables hold, what the chart draws. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import type { NodeReport } from '../../../harness/bench/node/report.ts';
import { cellChart } from '../../../site/src/lib/charts.ts';
import {
  cellTable,
  comparisonTable,
  layerTable,
  parseNodeReport,
  readNodeReports,
  reasonsOf,
  targetTable,
} from '../../../site/src/lib/node.ts';
import {
  comparisonsOf,
  labelsOf,
  measuredParts,
  PARTS,
  type PartId,
  partsOf,
  verdictsOf,
} from '../../../site/src/lib/parts.ts';
import { all, parseHtml, textOf } from '../../support/html.ts';
import { fakeBench, withFolder } from '../node/support.ts';

let json: string;
let report: NodeReport;

beforeAll(async () => {
  await withFolder(async (folder) => {
    await fakeBench({ directory: join(folder, 'run') });
    json = readFileSync(join(folder, 'run', 'report.json'), 'utf8');
  });
  report = parseNodeReport(json, 'report.json');
});

const changed = (change: (value: Record<string, never>) => void): string => {
  const value = JSON.parse(json);
  change(value);
  return JSON.stringify(value);
};

describe('a report', () => {
  test('is refused with the place of what is wrong', () => {
    expect(() => parseNodeReport('{', 'x.json')).toThrow(/^x\.json is not JSON/);
    expect(() => parseNodeReport('{}', 'x.json')).toThrow(/report\.\$schema: expected a text/);
    const other = changed((value) => Object.assign(value, { schema: 'kilotoken/node-report@9' }));
    expect(() => parseNodeReport(other, 'x.json')).toThrow(
      /report\.schema: expected one of "kilotoken\/node-report@1"/,
    );
    const broken = JSON.parse(json);
    broken.cells[2].figures[0].figure.value = 'fast';
    expect(() => parseNodeReport(JSON.stringify(broken), 'x.json')).toThrow(
      /report\.cells\[2\]\.figures\[0\]\.figure\.value/,
    );
  });

  test('the newest of a folder stands first; no folder, none', async () => {
    await withFolder(async (folder) => {
      for (const [name, time] of [
        ['a', '2026-01-01'],
        ['b', '2026-03-01'],
        ['c', '2026-02-01'],
      ] as const) {
        mkdirSync(join(folder, name));
        const text = changed((value) =>
          Object.assign((value as unknown as NodeReport).run, { id: name, startedAt: time }),
        );
        writeFileSync(join(folder, name, 'report.json'), text);
      }
      expect(readNodeReports(folder).map(({ run }) => run.id)).toEqual(['b', 'c', 'a']);
    });
    expect(readNodeReports('/nowhere')).toEqual([]);
    expect(readNodeReports('')).toEqual([]);
  });
});

describe('tables', () => {
  test('hold the number of every cell, and its labels where all share them', () => {
    const table = cellTable(report, 'headline');
    expect(table.everywhere).toEqual(['synthetic weights', 'assumed acceptance', 'synthetic cache', '4 of 8 GPUs']);
    const speeds = table.groups[0]!.rows.map((row) => row.cells[0]!.value);
    const due = report.cells
      .filter((cell) => cell.group === 'headline')
      .map((cell) => (cell.figures.find(({ id }) => id === 'tokens-per-second')!.figure as { value: number }).value);
    expect(speeds).toEqual(due);
    // How intervals were made, and of how many observations.
    expect(table.legend.join(' ')).toMatch(/Intervals: 95\u00a0%, .* tokens\/s.*: n = 3 repeats/);
    // The fake has no sensor of power: a column of nothing is not shown.
    expect(table.columns).not.toContain('J a token');
  });

  test('a plain cell is not said to assume an acceptance', () => {
    const table = cellTable(report, 'ablation');
    expect(table.everywhere).not.toContain('assumed acceptance');
    const marked = JSON.stringify(table.groups.flatMap((group) => group.rows.map((row) => [row.head, row.marks])));
    expect(table.notes.some((note) => note.text === 'assumed acceptance')).toBe(true);
    expect(marked).toMatch(/speculation on, resident kernel",\["[a-z]/);
    expect(marked).toMatch(/speculation off, resident kernel",\[\]/);
  });

  test('the time of a layer is parted by operation', () => {
    const table = layerTable(report);
    expect(table.everywhere).toContain('traced');
    expect(table.groups.map(({ title }) => title)).toEqual([
      'Speculation on, 70 layers on 4 GPUs',
      'Speculation off, 70 layers on 4 GPUs',
    ]);
    expect(table.groups[0]!.rows.map((row) => [row.head, row.cells[0]!.value])).toEqual([
      ['linear', 1],
      ['experts up', 2],
      ['experts down', 3],
      ['all operations', 6],
    ]);
  });

  test('all operations of a layer are added up in a row of their own', () => {
    const rows = layerTable(report).groups[0]!.rows;
    expect(rows.at(-1)).toMatchObject({
      head: 'all operations',
      cells: [{ value: 6 }, {}, {}, {}, { value: expect.closeTo(1.8) }, { value: null }],
    });
  });

  test('what an operation overlaps with its neighbours is no waiting', () => {
    const text = changed((value) => {
      (value as unknown as { layers: { ops: { waitUs: number }[] }[] }).layers[0]!.ops[1]!.waitUs = -2.5;
    });
    const cells = layerTable(parseNodeReport(text, 'report.json')).groups[0]!.rows.map((row) => row.cells.slice(4));
    expect(cells[0]).toMatchObject([{ value: expect.closeTo(0.3) }, { value: null }]);
    expect(cells[1]).toMatchObject([{ value: null }, { value: 2.5, text: '2.50' }]);
  });

  test('times and ratios in one table have their units', () => {
    const texts = comparisonTable(report.collectives!.exposed, 'all-reduce').groups[0]!.rows.map((row) => [
      row.head,
      row.cells[0]!.text,
    ]);
    for (const [head, text] of texts) expect(text).toMatch(head!.startsWith('Exposed') ? / us$/ : / x$/);
    expect(comparisonTable(report.projections, 'x').groups[0]!.rows[0]!.cells[0]!.text).toMatch(/^[\d,.]+$/);
  });

  test('projections say that they are, and by which formula', () => {
    const table = comparisonTable(report.projections, 'x');
    expect(table.everywhere).toEqual([
      'projection; synthetic weights; assumed acceptance; synthetic cache; 4 of 8 GPUs',
    ]);
    for (const row of table.groups[0]!.rows) expect(row.sub).toMatch(/^tokens a round \//);
  });

  test('targets: 8 GPUs not yet measured, fewer beside them with their bundle, and no outcome', () => {
    const targets = targetTable([report]);
    expect(targets.groups[0]!.rows).toHaveLength(8);
    expect(targets.columns).not.toContain('outcome');
    for (const row of targets.groups[0]!.rows) {
      expect(row.cells[2]).toMatchObject({ text: 'not yet measured', value: null });
      const [mark] = row.cells[3]!.marks;
      const note = targets.notes.find((each) => each.mark === mark)!.text;
      expect(note).toMatch(/^4 x Fake GPU.*4 of 8 GPUs.*bundle test, commit unknown$/);
    }
    const speed = report.cells.find(({ id }) => id === 'headline/coding')!.figures[0]!.figure as { value: number };
    expect(targets.groups[0]!.rows[0]!.cells[3]!.value).toBe(speed.value);
    expect(reasonsOf(report)).toEqual([
      { reason: 'not yet measured on 8 GPUs: this run has 4', cells: ['gpus/8/on', 'gpus/8/off', 'collectives/8'] },
    ]);
    expect(reasonsOf(report, 'gpus')[0]!.cells).toEqual(['gpus/8/on', 'gpus/8/off']);
  });
});

/** A report that says that it ran later, with only some parts, on so many GPUs. */
function later(id: string, startedAt: string, parts: readonly PartId[], gpus = 4): NodeReport {
  const copy = structuredClone(report);
  Object.assign(copy.run, { id, startedAt, commit: id.repeat(8) });
  copy.cells = copy.cells
    .filter(({ group }) => parts.includes(group as PartId))
    .map((cell) => ({ ...cell, gpus: Math.min(gpus, cell.gpus) }));
  if (!parts.includes('layers')) copy.layers = [];
  if (!parts.includes('collectives')) delete copy.collectives;
  copy.notMeasured = [];
  return copy;
}

describe('parts of several bundles', () => {
  test('each stands in the newest of those on the most GPUs, the others beside it', () => {
    const small = later('s', '2026-12-04', ['headline', 'context'], 2);
    const sweeps = later('b', '2026-12-03', ['context', 'block']);
    const alone = later('a', '2026-12-02', ['collectives']);
    const whole = later('w', '2026-12-01', PARTS);
    const parts = partsOf([small, sweeps, alone, whole]);
    expect(parts.map(({ id, report: { run } }) => `${id} ${run.id}`)).toEqual([
      'headline w',
      'lossless w',
      'ablation w',
      'reference w',
      'context b',
      'block b',
      'gpus w',
      'routing w',
      'layers w',
      'collectives a',
    ]);
    expect(parts[4]!.others.map(({ run }) => run.id)).toEqual(['w', 's']);
    expect(parts.at(-1)!.size).toEqual({ gpus: 4, layers: null });
    expect(measuredParts(sweeps)).toEqual(['context', 'block']);
    expect(labelsOf({ ...alone, labels: [] })).toContain('4 of 8 GPUs');
  });

  test('a target stands where its part does; one that 8 GPUs reached has its outcome and its bundle', () => {
    const alone = later('a', '2026-12-02', ['collectives']);
    const whole = later('w', '2026-12-01', PARTS);
    const eight = later('e', '2026-11-30', ['headline']);
    const speed = eight.targets.find(({ id }) => id === 'step')!;
    Object.assign(speed, {
      outcome: 'must reached',
      figure: { state: 'measured', value: 5.5, unit: 'ms', interval: null, n: 5, of: 'repeats', warnings: [] },
    });
    const table = targetTable([alone, whole, eight]);
    const noteOf = (row: number, cell: number): string =>
      table.notes.find(({ mark }) => mark === table.groups[0]!.rows[row]!.cells[cell]!.marks[0])!.text;
    expect(table.groups[0]!.rows[2]!.cells.map(({ text }) => text).slice(2, 4)).toEqual(['5.50', 'must reached']);
    expect(noteOf(2, 2)).toMatch(/^synthetic weights; assumed acceptance.*; bundle e, commit eeeeeee$/);
    expect(noteOf(2, 4)).toContain('bundle w');
    expect(noteOf(4, 4)).toContain('bundle a');
    expect(table.groups[0]!.rows[0]!.cells[2]!.text).toBe('not yet measured');
  });

  test('comparisons and verdicts stand with their part', () => {
    expect(comparisonsOf(report, 'context').map(({ id }) => id)).toEqual(['long-context']);
    expect(comparisonsOf(report, 'headline')).toEqual([]);
    const placed = PARTS.flatMap((part) => comparisonsOf(report, part)).map(({ id }) => id);
    expect([...placed].sort()).toEqual(report.comparisons.map(({ id }) => id).sort());
    expect(verdictsOf(report, 'lossless').map(({ id }) => id)).toEqual(['lossless', 'same-bits']);
  });
});

test('the chart of the ablation names formats and layers, and the share of the ceiling', async () => {
  const cells = report.cells.filter((cell) => cell.group === 'ablation');
  const { wide, narrow } = await cellChart(cells);
  for (const drawing of [wide, narrow]) {
    const texts = all(parseHtml(drawing), 'text').map(textOf);
    expect(texts).toContain('MXFP4 experts, 70 layers');
    expect(texts).toContain('FP8 experts, 39 layers');
    expect(texts.filter((text) => / %$/.test(text))).toHaveLength(12);
    expect(drawing).not.toMatch(/NaN|undefined|Infinity/);
  }
  const hostile = cells.map((cell) => ({ ...cell, experts: '"><script>alert(1)</script>' }));
  expect(all(parseHtml((await cellChart(hostile)).wide), 'script')).toEqual([]);
});
