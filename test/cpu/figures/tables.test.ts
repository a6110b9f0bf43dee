/** Tables of defects and calibrations: the published ones follow from their own counts, and one number changed in any of them is told. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { NoFigure, Sources } from '../../../harness/figures/sources.ts';
import { isTable, readTable } from '../../../harness/figures/tables.ts';

const RECORD = fileURLToPath(new URL('../../../results/', import.meta.url));
const NAMES = ['calibration', 'mutants'].flatMap((folder) =>
  readdirSync(join(RECORD, folder)).flatMap((name) => (name.endsWith('.json') ? [`${folder}/${name}`] : [])),
);
const scratch = mkdtempSync(join(tmpdir(), 'kilotoken-tables-'));
for (const folder of ['calibration', 'mutants']) mkdirSync(join(scratch, folder));
afterAll(() => rmSync(scratch, { recursive: true }));

/** What is told of a published table with something changed. */
function told(name: string, change: (table: Record<string, never>) => void): string[] {
  const table = JSON.parse(readFileSync(join(RECORD, name), 'utf8'));
  change(table);
  writeFileSync(join(scratch, name), JSON.stringify(table));
  const differences: string[] = [];
  readTable(join(scratch, name), name, (text) => void differences.push(text));
  return differences;
}

/** Sets what a path of members leads to. */
const set =
  (path: readonly (string | number)[], value: unknown) =>
  (table: object): void => {
    const [last, ...before] = [...path].reverse();
    const node = before.reverse().reduce((one, step) => (one as Record<string, object>)[step]!, table);
    expect((node as Record<string, unknown>)[last!]).not.toBe(value);
    (node as Record<string, unknown>)[last!] = value;
  };

it.each(NAMES)('%s follows from its own counts', (name) => {
  expect(isTable(name)).toBe(true);
  expect(told(name, () => {})).toEqual([]);
});

it('a run, a kernel bench and a log are no tables', () => {
  for (const name of [
    '20261121T050214Z-9345d47',
    'bench/a.json',
    'node/b',
    'mutants/README.md',
    'calibration/c/d.json',
  ])
    expect(isTable(name), name).toBe(false);
});

const GATE = 'calibration/gate-2.json';
const CAMPAIGNS = 'calibration/measurement.json';
const TABLE = 'mutants/table-3.json';
const FIRST = 'mutants/table.json';

describe('one number changed', () => {
  it.each<[string, string, (table: object) => void, RegExp]>([
    ['alarms', GATE, set(['loose', 'alarms'], 16), /^loose > rate is 0\.0085, its counts give 0\.008$/],
    ['a rate', GATE, set(['loose', 'rate'], 0.008), /^loose > rate is 0\.008, its counts give 0\.0085$/],
    ['an end of an interval', GATE, set(['strict', 'interval', 'high'], 0.001), /^strict > interval > high is 0\.001/],
    ['runs', GATE, set(['options', 'runs'], 20_000), /^strict > runs is 2000, its counts give 20000$/],
    [
      'a true value',
      CAMPAIGNS,
      set(['figures', 0, 'truth'], 501),
      /^off decode-tps > truth is 501, its counts give 500/,
    ],
    ['campaigns', CAMPAIGNS, set(['options', 'campaigns'], 5_000), /^off decode-tps > campaigns is 500/],
    ['how often a figure held', CAMPAIGNS, set(['figures', 0, 'held'], 480), /^off decode-tps > low is /],
    ['the bound of a wrong one', CAMPAIGNS, set(['wrong', 0, 'high'], 0.99), /^ttft-inside tpot > high is 0\.99/],
    [
      'what the gate saw',
      TABLE,
      set(['defects', 0, 'gate'], 'killed'),
      /^swiglu: gate is killed, its rows give not seen$/,
    ],
    ['an outcome', TABLE, set(['defects', 0, 'outcome'], 'survived'), /^swiglu: outcome is survived, .* give killed$/],
    ['whether all passed', TABLE, set(['passed'], false), /^the table: passed is false, its rows give true$/],
    ['a clean row', TABLE, set(['clean', 0, 'holds'], false), /^the table: passed is true, its rows give false$/],
    ['a kill of the first version', FIRST, set(['defects', 0, 'found'], null), /^M01: outcome is killed, .* survived$/],
  ])('%s', (_, name, change, text) => {
    expect(told(name, change)[0]).toMatch(text);
  });
});

it('a table with a change is a finding of whoever quotes it, and one that is malformed gives no figure', async () => {
  told(GATE, set(['loose', 'alarms'], 16));
  told(TABLE, () => {});
  const sources = new Sources(scratch);
  expect(await sources.value('gate > loose > alarms', { gate: GATE })).toBe(16);
  expect(sources.differences.map(({ run }) => run)).toContain(GATE);
  expect(await sources.value({ sum: [`${TABLE} > outcomes > *`] }, {})).toBe(72);
  expect(await sources.value(`${TABLE} > outcomes > survived`, {})).toBe(0);
  writeFileSync(join(scratch, CAMPAIGNS), '{"wrong": 7}');
  await expect(sources.value('m > uncalibrated', { m: CAMPAIGNS })).rejects.toThrow(NoFigure);
  writeFileSync(join(scratch, FIRST), '{"schema": "kilotoken/mutants@9"}');
  await expect(sources.value(`${FIRST} > outcomes > killed`, {})).rejects.toThrow(NoFigure);
});

it('tells figures that hold too seldom, and wrong estimators that pass', () => {
  const table = JSON.parse(readFileSync(join(RECORD, CAMPAIGNS), 'utf8'));
  table.figures[0].high = 0.9;
  table.wrong[0].high = 0.96;
  writeFileSync(join(scratch, CAMPAIGNS), JSON.stringify(table));
  expect(readTable(join(scratch, CAMPAIGNS), CAMPAIGNS, () => {})).toMatchObject({ uncalibrated: 1, passing: 1 });
});
