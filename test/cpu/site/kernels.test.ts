/** Kernel benches on the page: the published ones can be shown, what is no such document is refused, losses stand as plainly as gains. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import type { BenchKernels } from '../../../harness/bench/kernels-schema.ts';
import {
  floorTable,
  kernelLayerTable,
  kernelTargetTable,
  leftOutOf,
  operationTable,
  parseKernels,
  peerTable,
  readKernels,
} from '../../../site/src/lib/kernels.ts';
import { sampleBench } from '../../support/bench-kernels.ts';

const RECORD = fileURLToPath(new URL('../../../results/bench', import.meta.url));

const parsed = (document: unknown) => parseKernels(JSON.stringify(document), 'x.json', 'x');

test('every published one is shown, number for number', () => {
  const shown = readKernels(RECORD);
  expect(shown.length).toBe(readdirSync(RECORD).filter((name) => name.endsWith('.json')).length);
  for (const bench of shown) {
    const { figures } = JSON.parse(readFileSync(join(RECORD, `${bench.id}.json`), 'utf8')) as BenchKernels;
    const rows = operationTable(bench).groups.flatMap((group) => group.rows);
    expect(rows.map((row) => row.cells[0]!.value).sort()).toEqual(figures.operations.map(({ us }) => us.median).sort());
    expect(peerTable(bench).groups.flatMap((group) => group.rows)).toHaveLength(figures.peers.length);
    expect(kernelLayerTable(bench).groups[0]!.rows).toHaveLength(figures.layers.length);
    expect(floorTable(bench).groups[0]!.rows[0]!.cells[0]!.value).toBe(figures.barrierUs.median);
  }
});

test('an operation stands beside its peer; targets are missed, reached, or not yet measured', () => {
  const bench = parsed(sampleBench());
  const [group] = operationTable(bench).groups;
  expect(group!.title).toBe('QKV, FP8');
  expect(group!.rows[0]).toMatchObject({ head: '8 rows, stream', sub: 'peer: two, graph' });
  expect(group!.rows[0]!.cells.map(({ value }) => value)).toEqual([5, 0.8, 8, 1.6]);
  const told = structuredClone(bench);
  told.figures.operations[0]!.choice = 'before';
  expect(operationTable(told).groups[0]!.rows[0]!.head).toBe('8 rows, stream, choice before');
  const outcomes = (found: typeof bench): unknown[] =>
    kernelTargetTable(found).groups[0]!.rows.map((row) => [row.head, row.cells[2]!.value, row.cells[3]!.text]);
  expect(outcomes(bench)).toEqual([
    ['expert pair, 60 experts', null, 'not yet measured'],
    ['QKV, FP8', 0.8, 'missed'],
    ['O', null, 'not yet measured'],
    ['a layer, times its bytes', 1.25, 'must reached'],
  ]);
  bench.figures.operations[0]!.share = 0.93;
  bench.figures.layers[0]!.timesItsBytes = 1.31;
  expect(outcomes(bench)).toMatchObject([{}, ['QKV, FP8', 0.93, 'aim reached'], {}, [{}, 1.31, 'missed']]);
  const leftOut = [
    { why: 'no time left', peer: 'two', matrix: 'qkv', m: 8, experts: null, mode: 'graph', shape: { k: 1 } },
    { why: 'no time left', peer: 'two', matrix: 'o', m: 1, experts: null, mode: 'graph' },
    { why: 'no folder was named', peer: 'Humming' },
  ];
  expect(leftOutOf({ ...bench, leftOut })).toEqual([
    { why: 'no time left', what: ['two on QKV 8 rows graph', 'two on O 1 row graph'] },
    { why: 'no folder was named', what: ['Humming'] },
  ]);
});

test('what cannot be shown is refused with its place; the newest stands first; no folder, none', () => {
  expect(() => parseKernels('{', 'x.json', 'x')).toThrow(/^x\.json cannot be shown/);
  expect(() => parsed({})).toThrow(/document\.schema: expected one of "kilotoken\/bench-kernels@1"/);
  const broken = JSON.parse(JSON.stringify(sampleBench()));
  broken.figures.operations[0].us.median = 'fast';
  expect(() => parsed(broken)).toThrow(/document\.figures\.operations\[0\]\.us\.median/);
  expect(readKernels('')).toEqual([]);
  expect(readKernels('/nowhere')).toEqual([]);
  const folder = mkdtempSync(join(tmpdir(), 'kilotoken-kernels-'));
  try {
    writeFileSync(join(folder, 'a.json'), JSON.stringify(sampleBench()));
    writeFileSync(join(folder, 'b.json'), JSON.stringify({ ...sampleBench(), made: '2026-02-01T00:00:00.000Z' }));
    expect(readKernels(folder).map(({ id }) => id)).toEqual(['b', 'a']);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
