/** The page of the record as it is: every published run can be shown, and each part of the node benchmark stands somewhere. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { auditsOf } from '../../../site/src/lib/audits.ts';
import {
  floorTable,
  kernelLayerTable,
  kernelTargetTable,
  operationTable,
  peerTable,
  readKernels,
} from '../../../site/src/lib/kernels.ts';
import {
  cellTable,
  collectiveTable,
  comparisonTable,
  layerTable,
  readNodeReports,
  targetTable,
} from '../../../site/src/lib/node.ts';
import { comparisonsOf, measuredParts, PARTS, partsOf } from '../../../site/src/lib/parts.ts';
import { readReports } from '../../../site/src/lib/report.ts';

const RECORD = fileURLToPath(new URL('../../../results', import.meta.url));
const bundles = (folder: string): string[] =>
  existsSync(folder) ? readdirSync(folder).filter((name) => existsSync(join(folder, name, 'manifest.json'))) : [];

test('every published audit has a line, the newest first', () => {
  const lines = auditsOf(readReports(RECORD).map(({ report }) => report));
  expect(lines.map(({ id }) => id).sort()).toEqual(bundles(RECORD).sort());
  expect(lines.map(({ startedAt }) => startedAt)).toEqual(
    [...lines.map(({ startedAt }) => startedAt)].sort().reverse(),
  );
  for (const line of lines) expect(line.engines).not.toContain('/');
});

test('every published node benchmark is shown, and what it has stands among the parts', () => {
  const reports = readNodeReports(join(RECORD, 'node'));
  expect(reports.map(({ run }) => run.id).sort()).toEqual(bundles(join(RECORD, 'node')).sort());
  const parts = partsOf(reports);
  expect(parts.map(({ id }) => id)).toEqual(
    PARTS.filter((id) => reports.some((report) => measuredParts(report).includes(id))),
  );
  for (const { id, report, others } of parts) {
    expect(new Set([report, ...others]).size).toBe(reports.filter((each) => measuredParts(each).includes(id)).length);
    const numbers = cellTable(report, id).groups.flatMap(({ rows }) => rows.flatMap(({ cells }) => cells));
    for (const { value } of numbers) expect(value === null || Number.isFinite(value)).toBe(true);
    // No comparison is lost between the parts.
    for (const { id: name } of report.comparisons)
      expect(
        PARTS.some((part) => comparisonsOf(report, part).some((row) => row.id === name)),
        name,
      ).toBe(true);
  }
  const eight = reports.some(({ machine }) => machine.used === 8);
  if (!eight && reports.length > 0)
    for (const row of targetTable(reports).groups[0]!.rows) expect(row.cells[2]!.text).toBe('not yet measured');
});

test('no column of a published table is without a name, and no two of its lines are called alike', () => {
  const nodes = readNodeReports(join(RECORD, 'node')).flatMap((report) => [
    ...measuredParts(report).map((id) => cellTable(report, id)),
    layerTable(report),
    comparisonTable(report.comparisons, 'ratio'),
    comparisonTable(report.projections, 'projection'),
    ...(report.collectives === undefined ? [] : [collectiveTable(report.collectives)]),
  ]);
  const kernels = readKernels(join(RECORD, 'bench')).flatMap((bench) =>
    [kernelTargetTable, operationTable, kernelLayerTable, floorTable, peerTable].map((table) => table(bench)),
  );
  for (const { corner, columns, groups } of [...nodes, ...kernels]) {
    for (const head of [corner, ...columns]) expect(head).not.toBe('');
    for (const { title, rows } of groups) {
      const lines = rows.map(({ head, sub }) => `${title}: ${head} (${sub})`);
      expect([...new Set(lines)]).toEqual(lines);
    }
  }
});
