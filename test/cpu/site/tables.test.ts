/** Tables: rows are named apart, notes stand under them once, gaps are words. */
import { describe, expect, test } from 'vitest';
import type { AcceptanceRow, SpeedRow } from '../../../harness/report/schema.ts';
import {
  acceptanceDetailTable,
  acceptanceGroups,
  acceptanceTable,
  speedLabels,
  speedTable,
} from '../../../site/src/lib/tables.ts';
import { sampleReport } from '../../support/sample-report.ts';

const { acceptance, speed } = sampleReport();
const [row] = acceptance as [AcceptanceRow];

describe('names of rows', () => {
  test('tell decoding and rule, and the engine only where two would share a name', () => {
    expect(acceptanceGroups(acceptance).map((g) => g.label)).toEqual([
      'greedy, match',
      'temperature 1, match',
      'temperature 1, coupled',
      'temperature 1, reject',
    ]);
    const two = [row, { ...row, engine: 'other' }];
    expect(acceptanceGroups(two).map((g) => g.label)).toEqual([`greedy, match, ${row.engine}`, 'greedy, match, other']);
  });

  test('tell the block size where it varies', () => {
    const two = [row, { ...row, blockSize: 4 }];
    expect(acceptanceGroups(two).map((g) => g.label)).toEqual(['greedy, match, block 8', 'greedy, match, block 4']);
  });

  test('no row is lost or shown twice by the grouping', () => {
    expect(
      acceptanceGroups(acceptance)
        .flatMap((g) => g.rows)
        .sort(),
    ).toEqual([...acceptance].sort());
    const labels = speedLabels(speed);
    const keys = speed.map((r, i) => `${r.scenario} / ${labels[i]}`);
    expect(new Set(keys).size).toBe(speed.length);
  });
});

describe('notes', () => {
  test('one letter a text, and every letter used is explained', () => {
    for (const table of [acceptanceTable(acceptance), acceptanceDetailTable(acceptance), speedTable(speed)]) {
      const used = new Set(
        table.groups.flatMap((g) => g.rows.flatMap((r) => [...r.marks, ...r.cells.flatMap((c) => c.marks)])),
      );
      expect([...used].sort()).toEqual(table.notes.map((n) => n.mark).sort());
      expect(new Set(table.notes.map((n) => n.text)).size).toBe(table.notes.length);
    }
  });

  test('go on after z', () => {
    const rows = Array.from(
      { length: 30 },
      (_, i): AcceptanceRow => ({
        ...row,
        scenario: `s${i}`,
        published: { value: 1, source: `source ${i}` },
      }),
    );
    const marks = acceptanceTable(rows).notes.map((n) => n.mark);
    expect(marks.slice(24, 28)).toEqual(['y', 'z', 'aa', 'ab']);
    expect(new Set(marks).size).toBe(30);
  });
});

test('a gap is a word with its reason, never a number', () => {
  const table = acceptanceDetailTable(acceptance);
  const cells = table.groups.flatMap((g) => g.rows.filter((r) => r.head.startsWith('n-gram')).flatMap((r) => r.cells));
  const gaps = cells.filter((c) => c.value === null);
  expect(gaps).toHaveLength(4);
  expect(gaps.every((c) => c.text === 'not yet measured' && c.title === 'outputs too short for a lookup')).toBe(true);
});

test('a scenario that a decoding did not run says so', () => {
  const table = acceptanceTable(acceptance.filter((r) => !(r.rule === 'reject' && r.scenario === 'math')));
  expect(table.groups[1]?.rows.at(-1)?.cells.map((c) => c.text)[1]).toBe('not run');
});

test('the legend tells each interval once, and n by measure', () => {
  const rows = speed.map(
    (r, i): SpeedRow =>
      r.stepMs.state === 'measured' ? { ...r, stepMs: { ...r.stepMs, n: 100 + i, of: 'rounds' } } : r,
  );
  const { legend } = speedTable(rows);
  expect(legend).toEqual([
    'Intervals: 95\u00a0%, BCa bootstrap by prompt, 2000 resamples, seed 1.',
    'decode, prefill, speed-up: n = 64 prompts a cell.',
    'step time: n = 100 to 115 rounds a cell.',
  ]);
});
