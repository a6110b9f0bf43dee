/** Tables: rows are named apart, notes stand under them once, gaps are words. */
import { describe, expect, test } from 'vitest';
import type { AcceptanceRow, Measured, SpeedRow, Warning } from '../../../harness/report/schema.ts';
import { acceptanceGroups, speedLabels } from '../../../site/src/lib/groups.ts';
import { acceptanceDetailTable, acceptanceTable, speedTable } from '../../../site/src/lib/tables.ts';
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
        table.groups.flatMap((g) => [
          ...g.marks,
          ...g.rows.flatMap((r) => [...r.marks, ...r.cells.flatMap((c) => c.marks)]),
        ]),
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

describe('a warning stands as near to its numbers as it can without being said twice', () => {
  const warn = (text: string): Warning => ({ code: 'short-run', text });
  /** The sample with warnings on every measured value of a row, chosen by the row. */
  const warned = (choose: (row: AcceptanceRow) => Warning[]): AcceptanceRow[] =>
    acceptance.map((r) => {
      const put = (m: Measured): Measured => (m.state === 'measured' ? { ...m, warnings: choose(r) } : m);
      return {
        ...r,
        rawMicro: put(r.rawMicro),
        rawMacro: put(r.rawMacro),
        keptMicro: put(r.keptMicro),
        keptMacro: put(r.keptMacro),
        ngramBaseline: put(r.ngramBaseline),
        repetition: put(r.repetition),
      };
    });

  test('at the head of the table if it touches every measured number, published figures aside', () => {
    const table = acceptanceTable(warned(() => [warn('all')]));
    expect(table.everywhere).toEqual(['short run: all']);
    expect(table.notes.map((n) => n.text)).toEqual(['published: vendor announcement, 8 June 2026']);
  });

  test('at the group, at the row, at the cell', () => {
    const rows = warned((r) => [
      ...(r.decoding === 'greedy' ? [warn('greedy')] : []),
      ...(r.rule === 'reject' && r.scenario === 'math' ? [warn('one cell')] : []),
    ]);
    const detail = acceptanceDetailTable(rows);
    expect(detail.everywhere).toEqual([]);
    expect(detail.groups.map((g) => g.marks.length)).toEqual([1, 0, 0, 0]);
    const lengths = acceptanceTable(rows).groups[1];
    expect(lengths?.rows.map((r) => r.marks.length)).toEqual([1, 0, 0, 0]);
    expect(lengths?.rows.at(-1)?.cells.map((c) => c.marks.length)).toEqual([0, 1, 0, 0]);
  });

  test('one number without it keeps it down', () => {
    const rows = warned((r) => (r === acceptance[0] ? [] : [warn('nearly all')]));
    const table = acceptanceTable(rows);
    expect(table.everywhere).toEqual([]);
    const marks = table.groups[1]?.rows.map((r) => [r.marks.length, ...r.cells.map((c) => c.marks.length)]);
    expect(marks).toEqual([
      [0, 0, 1, 1, 1],
      [1, 0, 0, 0, 0],
      [1, 0, 0, 0, 0],
      [1, 0, 0, 0, 0],
    ]);
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
