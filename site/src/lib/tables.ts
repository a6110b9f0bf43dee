/** The page's tables of numbers, from report rows. Nothing is computed: values are rounded for display and carried whole. */
import type { AcceptanceRow, Measured, SpeedRow } from '../../../harness/report/schema.ts';
import { count, fixed, rounded } from './format.ts';
import { acceptanceGroups, distinct, speedLabels } from './groups.ts';
import {
  type DraftCell,
  finish,
  Legend,
  measuredCell,
  plainCell,
  type Table,
  warningTexts,
  wordCell,
} from './table.ts';

/** Where a group has no row for a column. */
const absent = wordCell('not run');

/** The unit that measured cells carry; empty where none was measured. */
const unitOf = (cells: readonly Measured[]): string =>
  distinct(cells.flatMap((m) => (m.state === 'measured' ? [m.unit] : []))).join(' or ');

function withUnit(name: string, cells: readonly Measured[]): string {
  const unit = unitOf(cells);
  return unit === '' ? name : `${name} (${unit})`;
}

function publishedCell(rows: readonly AcceptanceRow[]): DraftCell {
  const figure = rows.flatMap((row) => (row.published ? [row.published] : []))[0];
  if (!figure) return wordCell('none', 'no figure was published for this scenario');
  return { ...plainCell(figure.value, fixed(figure.value, 2)), notes: [`published: ${figure.source}`] };
}

const PUBLISHED = 'Published, another model';

/** Published against measured: one column a scenario, the published figure first. */
export function acceptanceTable(rows: readonly AcceptanceRow[]): Table {
  const legend = new Legend();
  const scenarios = distinct(rows.map((row) => row.scenario));
  const published = scenarios.map((scenario) => publishedCell(rows.filter((row) => row.scenario === scenario)));
  const measured = acceptanceGroups(rows).map((group) => ({
    head: group.label,
    cells: scenarios.map((scenario) => {
      const row = group.rows.find((r) => r.scenario === scenario);
      if (!row) return absent;
      legend.add('raw, micro', row.rawMicro);
      return measuredCell(row.rawMicro);
    }),
  }));
  const groups = [
    { title: PUBLISHED, rows: [{ head: '1.02 T model', cells: published }] },
    { title: 'Measured here: raw, micro', rows: measured },
  ];
  const corner = unitOf(rows.map((row) => row.rawMicro)) || 'acceptance length';
  return finish({ corner, columns: scenarios, groups, legend: legend.lines() }, [PUBLISHED]);
}

const MEASURES = [
  ['raw, micro', 'rawMicro'],
  ['raw, macro', 'rawMacro'],
  ['kept, micro', 'keptMicro'],
  ['kept, macro', 'keptMacro'],
  ['n-gram baseline', 'ngramBaseline'],
  ['repetition', 'repetition'],
] as const satisfies readonly (readonly [string, keyof AcceptanceRow])[];

/** Every average, the baseline, the repetition and the counts. */
export function acceptanceDetailTable(rows: readonly AcceptanceRow[]): Table {
  const legend = new Legend();
  const scenarios = distinct(rows.map((row) => row.scenario));
  const groups = acceptanceGroups(rows).map((group) => {
    const across = (cell: (row: AcceptanceRow) => DraftCell): DraftCell[] =>
      scenarios.map((scenario) => {
        const row = group.rows.find((r) => r.scenario === scenario);
        return row ? cell(row) : absent;
      });
    const measures = MEASURES.map(([name, key]) => ({
      head: withUnit(
        name,
        group.rows.map((row) => row[key]),
      ),
      cells: across((row) => {
        legend.add(name, row[key]);
        return measuredCell(row[key]);
      }),
    }));
    // A count is what it is, but it counts what the warnings of the averages are about.
    const counts = (['prompts', 'rounds'] as const).map((key) => ({
      head: key,
      cells: across((row) => plainCell(row[key], count(row[key]), ownWarnings(row))),
    }));
    return { title: group.label, rows: [...measures, ...counts] };
  });
  return finish({ corner: 'measure', columns: scenarios, groups, legend: legend.lines() });
}

const ownWarnings = (row: AcceptanceRow): string[] =>
  row.rawMicro.state === 'measured' ? warningTexts(row.rawMicro.warnings) : [];

/** A table of plain numbers per scenario, which carry the warnings of their row. */
function profileTable(
  rows: readonly AcceptanceRow[],
  values: (row: AcceptanceRow) => readonly number[],
  header: { corner: string; first: number; print: (value: number) => string },
): Table {
  const width = Math.max(0, ...rows.map((row) => values(row).length));
  const groups = acceptanceGroups(rows).map((group) => ({
    title: group.label,
    rows: group.rows.map((row) => ({
      head: row.scenario,
      cells: Array.from({ length: width }, (_, i) => {
        const value = values(row)[i];
        return value === undefined ? wordCell('') : plainCell(value, header.print(value), ownWarnings(row));
      }),
    })),
  }));
  const columns = Array.from({ length: width }, (_, i) => String(i + header.first));
  return finish({ corner: header.corner, columns, groups, legend: [] });
}

export const survivalTable = (rows: readonly AcceptanceRow[]): Table =>
  profileTable(rows, (row) => row.survival, { corner: 'draft position', first: 1, print: rounded });

export const histogramTable = (rows: readonly AcceptanceRow[]): Table =>
  profileTable(rows, (row) => row.histogram, { corner: 'accepted drafts', first: 0, print: count });

const SPEED_MEASURES = [
  ['decode', 'decodeTokensPerSecond'],
  ['step time', 'stepMs'],
  ['prefill', 'prefillTokensPerSecond'],
  ['speed-up', 'speedup'],
] as const satisfies readonly (readonly [string, keyof SpeedRow])[];

export function speedTable(rows: readonly SpeedRow[]): Table {
  const labels = speedLabels(rows);
  const legend = new Legend();
  const groups = distinct(rows.map((row) => row.scenario)).map((scenario) => ({
    title: scenario,
    rows: rows
      .map((row, i) => ({ row, head: labels[i] ?? '' }))
      .filter(({ row }) => row.scenario === scenario)
      .map(({ row, head }) => ({
        head,
        cells: SPEED_MEASURES.map(([name, key]) => {
          // A row without speculation is what others are compared with: it has no speed-up of its own.
          if (key === 'speedup' && !row.speculation) return wordCell('baseline');
          legend.add(name, row[key]);
          return measuredCell(row[key]);
        }),
      })),
  }));
  const columns = SPEED_MEASURES.map(([name, key]) =>
    withUnit(
      name,
      rows.map((row) => row[key]),
    ),
  );
  return finish({ corner: 'decoding', columns, groups, legend: legend.lines() });
}
