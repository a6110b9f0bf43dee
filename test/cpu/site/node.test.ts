/** Node benchmarks on the page: what is refused, what the tables hold, what the chart draws. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import type { NodeReport } from '../../../harness/bench/node/report.ts';
import { ablationChart } from '../../../site/src/lib/charts.ts';
import {
  cellTable,
  comparisonTable,
  layerTable,
  parseNodeReport,
  readNodeReports,
  reasonsOf,
  targetTable,
} from '../../../site/src/lib/node.ts';
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
    ]);
  });

  test('projections say that they are, targets that they are not yet measured', () => {
    expect(comparisonTable(report.projections, 'x').everywhere).toContain('projection');
    const targets = targetTable(report);
    expect(targets.groups[0]!.rows).toHaveLength(8);
    for (const row of targets.groups[0]!.rows) {
      expect(row.cells[2]).toMatchObject({ text: 'not yet measured', value: null });
      expect(row.cells[3]!.text).toBe('not yet measured');
    }
    expect(reasonsOf(report)).toEqual([
      { reason: 'not yet measured on 8 GPUs: this run has 4', cells: ['gpus/8/on', 'gpus/8/off', 'collectives/8'] },
    ]);
  });
});

test('the chart of the ablation names formats and layers, and the share of the ceiling', async () => {
  const cells = report.cells.filter((cell) => cell.group === 'ablation');
  const { wide, narrow } = await ablationChart(cells);
  for (const drawing of [wide, narrow]) {
    const texts = all(parseHtml(drawing), 'text').map(textOf);
    expect(texts).toContain('MXFP4 experts, 70 layers');
    expect(texts).toContain('FP8 experts, 39 layers');
    expect(texts.filter((text) => / %$/.test(text))).toHaveLength(12);
    expect(drawing).not.toMatch(/NaN|undefined|Infinity/);
  }
  const hostile = cells.map((cell) => ({ ...cell, experts: '"><script>alert(1)</script>' }));
  expect(all(parseHtml((await ablationChart(hostile)).wide), 'script')).toEqual([]);
});
