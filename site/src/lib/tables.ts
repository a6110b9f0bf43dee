/**
 * Turns report rows into tables of ready texts. Nothing is computed: cells are rounded for display, carry their full value
 * for the title, and collect the notes (warnings, reasons, sources) that must stand under the table.
 */
import type { AcceptanceRow, Measured, SpeedRow, Warning } from '../../../harness/report/schema.ts';
import { count, decimalsFor, fixed, percent, range, rounded } from './format.ts';
import { WARNINGS } from './words.ts';

export interface Cell {
  readonly text: string;
  /** Machine-readable value; null for a word such as "not yet measured". */
  readonly value: number | null;
  readonly title: string;
  readonly interval: string | null;
  /** Letters of the notes that touch this number. */
  readonly marks: readonly string[];
}

export interface TableRow {
  readonly head: string;
  readonly marks: readonly string[];
  readonly cells: readonly Cell[];
}

export interface Table {
  readonly corner: string;
  readonly columns: readonly string[];
  readonly groups: readonly { readonly title: string; readonly rows: readonly TableRow[] }[];
  /** Said once under the table: what the intervals are and how many observations stand behind each measure. */
  readonly legend: readonly string[];
  readonly notes: readonly { readonly mark: string; readonly text: string }[];
}

/** Rows of one engine, decoding, rule and block size: what varies inside a group is the scenario. */
export interface Group<Row> {
  readonly label: string;
  readonly rows: readonly Row[];
}

/** A row's name before it is known whether the engine must be told apart too. */
type Named = { readonly row: { readonly engine: string; readonly scenario: string }; readonly name: string };

/** Distinct values in order of first appearance. */
export const distinct = <T>(values: readonly T[]): T[] => [...new Set(values)];

/** The engine joins the name only where two engines would otherwise share it within a scenario. */
function unambiguous(named: readonly Named[]): string[] {
  const clash = ({ row, name }: Named): boolean =>
    named.some(
      (other) => other.name === name && other.row.scenario === row.scenario && other.row.engine !== row.engine,
    );
  const clashing = distinct(named.filter(clash).map(({ name }) => name));
  return named.map(({ row, name }) => (clashing.includes(name) ? `${name}, ${row.engine}` : name));
}

export function acceptanceGroups(rows: readonly AcceptanceRow[]): Group<AcceptanceRow>[] {
  const blocks = distinct(rows.map((row) => row.blockSize)).length > 1;
  const labels = unambiguous(
    rows.map((row) => ({ row, name: `${row.decoding}, ${row.rule}${blocks ? `, block ${row.blockSize}` : ''}` })),
  );
  return distinct(labels).map((label) => ({ label, rows: rows.filter((_, i) => labels[i] === label) }));
}

/** The decoding, and either `off` or the rule and block size that speculation ran with; one label a row. */
export function speedLabels(rows: readonly SpeedRow[]): string[] {
  return unambiguous(
    rows.map((row) => ({
      row,
      name: `${row.decoding}, ${row.speculation ? `${row.rule}, block ${row.blockSize}` : 'off'}`,
    })),
  );
}

/** Letters for notes, each distinct text once, in order of use. */
class Notes {
  readonly list: { mark: string; text: string }[] = [];

  mark(text: string): string {
    const known = this.list.find((note) => note.text === text);
    if (known) return known.mark;
    const i = this.list.length;
    const mark = (i >= 26 ? letter(Math.floor(i / 26) - 1) : '') + letter(i % 26);
    this.list.push({ mark, text });
    return mark;
  }

  warnings(list: readonly Warning[]): string[] {
    return list.map((w) => this.mark(`${WARNINGS[w.code]}: ${w.text}`));
  }
}

const letter = (i: number): string => String.fromCharCode(97 + i);

/** Collects, per measure, the intervals' methods and the observations, to be said once under the table. */
class Legend {
  readonly #methods: string[] = [];
  readonly #observations = new Map<string, { n: number; of: string }[]>();

  add(measure: string, m: Measured): void {
    if (m.state !== 'measured') return;
    if (m.interval) this.#methods.push(`${percent(m.interval.level)}, ${m.interval.method}`);
    this.#observations.set(measure, [...(this.#observations.get(measure) ?? []), { n: m.n, of: m.of }]);
  }

  lines(): string[] {
    const methods = distinct(this.#methods).map((text) => `Intervals: ${text}.`);
    const observations = new Map<string, string[]>();
    for (const [measure, list] of this.#observations) {
      const text = distinct(list.map((o) => o.of))
        .map((of) => `${spread(list.filter((o) => o.of === of).map((o) => o.n))} ${of}`)
        .join(', ');
      observations.set(text, [...(observations.get(text) ?? []), measure]);
    }
    const whole = [...observations].map(([text, measures]) => `${measures.join(', ')}: n = ${text} a cell.`);
    return [...methods, ...whole];
  }
}

/** `64`, or `812 to 1,090` where cells differ. */
function spread(values: readonly number[]): string {
  const sorted = distinct(values).sort((a, b) => a - b);
  const [low = 0] = sorted;
  const high = sorted.at(-1) ?? low;
  return low === high ? count(low) : `${count(low)} to ${count(high)}`;
}

function measuredCell(m: Measured, notes: Notes): Cell {
  if (m.state !== 'measured') {
    return { text: 'not yet measured', value: null, title: m.reason, interval: null, marks: [notes.mark(m.reason)] };
  }
  const decimals = decimalsFor(m.value);
  const interval = m.interval ? range(m.interval.low, m.interval.high, decimals) : null;
  const spelled = m.interval
    ? `; ${percent(m.interval.level)} interval ${m.interval.low} to ${m.interval.high} (${m.interval.method})`
    : '; no interval';
  return {
    text: fixed(m.value, decimals),
    value: m.value,
    title: `${m.value} ${m.unit}${spelled}; n = ${m.n} ${m.of}`,
    interval,
    marks: notes.warnings(m.warnings),
  };
}

const plainCell = (value: number, text: string, title = String(value)): Cell => ({
  text,
  value,
  title,
  interval: null,
  marks: [],
});

const wordCell = (text: string, title = text): Cell => ({ text, value: null, title, interval: null, marks: [] });

/** Where a group has no row for a column. */
const emptyCell = wordCell('not run');

/** The unit that measured cells carry; empty where none was measured. */
const unitOf = (cells: readonly Measured[]): string =>
  distinct(cells.flatMap((m) => (m.state === 'measured' ? [m.unit] : []))).join(' or ');

function withUnit(name: string, cells: readonly Measured[]): string {
  const unit = unitOf(cells);
  return unit === '' ? name : `${name} (${unit})`;
}

/** Published against measured: one column a scenario, the published figure first. */
export function acceptanceTable(rows: readonly AcceptanceRow[]): Table {
  const notes = new Notes();
  const legend = new Legend();
  const scenarios = distinct(rows.map((row) => row.scenario));
  const published = scenarios.map((scenario) => {
    const figures = rows.flatMap((row) => (row.scenario === scenario && row.published ? [row.published] : []));
    const [figure] = figures;
    if (!figure) return wordCell('none', 'no figure was published for this scenario');
    return {
      ...plainCell(figure.value, fixed(figure.value, 2), `${figure.value}, ${figure.source}`),
      marks: [notes.mark(`published: ${figure.source}`)],
    };
  });
  const measured = acceptanceGroups(rows).map((group) => ({
    head: group.label,
    marks: [],
    cells: scenarios.map((scenario) => {
      const row = group.rows.find((r) => r.scenario === scenario);
      if (!row) return emptyCell;
      legend.add('raw, micro', row.rawMicro);
      return measuredCell(row.rawMicro, notes);
    }),
  }));
  return {
    corner: unitOf(rows.map((row) => row.rawMicro)) || 'acceptance length',
    columns: scenarios,
    groups: [
      { title: 'Published, another model', rows: [{ head: '1.02 T model', marks: [], cells: published }] },
      { title: 'Measured here: raw, micro', rows: measured },
    ],
    legend: legend.lines(),
    notes: notes.list,
  };
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
  const notes = new Notes();
  const legend = new Legend();
  const scenarios = distinct(rows.map((row) => row.scenario));
  const groups = acceptanceGroups(rows).map((group) => {
    const at = (scenario: string): AcceptanceRow | undefined => group.rows.find((r) => r.scenario === scenario);
    const measures = MEASURES.map(([name, key]) => ({
      head: withUnit(
        name,
        group.rows.map((row) => row[key]),
      ),
      marks: [],
      cells: scenarios.map((scenario) => {
        const row = at(scenario);
        if (!row) return emptyCell;
        legend.add(name, row[key]);
        return measuredCell(row[key], notes);
      }),
    }));
    const counts = (['prompts', 'rounds'] as const).map((key) => ({
      head: key,
      marks: [],
      cells: scenarios.map((scenario) => {
        const row = at(scenario);
        return row ? plainCell(row[key], count(row[key])) : emptyCell;
      }),
    }));
    return { title: group.label, rows: [...measures, ...counts] };
  });
  return { corner: 'measure', columns: scenarios, groups, legend: legend.lines(), notes: notes.list };
}

/** A table of plain numbers per scenario; a row's own warnings stand at its head. */
function profileTable(
  rows: readonly AcceptanceRow[],
  values: (row: AcceptanceRow) => readonly number[],
  header: { corner: string; first: number; print: (value: number) => string },
): Table {
  const notes = new Notes();
  const width = Math.max(0, ...rows.map((row) => values(row).length));
  return {
    corner: header.corner,
    columns: Array.from({ length: width }, (_, i) => String(i + header.first)),
    groups: acceptanceGroups(rows).map((group) => ({
      title: group.label,
      rows: group.rows.map((row) => ({
        head: row.scenario,
        marks: row.rawMicro.state === 'measured' ? notes.warnings(row.rawMicro.warnings) : [],
        cells: Array.from({ length: width }, (_, i) => {
          const value = values(row)[i];
          return value === undefined ? wordCell('') : plainCell(value, header.print(value));
        }),
      })),
    })),
    legend: [],
    notes: notes.list,
  };
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
  const notes = new Notes();
  const legend = new Legend();
  return {
    corner: 'decoding',
    columns: SPEED_MEASURES.map(([name, key]) =>
      withUnit(
        name,
        rows.map((row) => row[key]),
      ),
    ),
    groups: distinct(rows.map((row) => row.scenario)).map((scenario) => ({
      title: scenario,
      rows: rows
        .map((row, i) => ({ row, label: labels[i] ?? '' }))
        .filter(({ row }) => row.scenario === scenario)
        .map(({ row, label }) => ({
          head: label,
          marks: [],
          cells: SPEED_MEASURES.map(([name, key]) => {
            // A row without speculation is what others are compared with: it has no speed-up of its own.
            if (key === 'speedup' && !row.speculation) return wordCell('baseline');
            legend.add(name, row[key]);
            return measuredCell(row[key], notes);
          }),
        })),
    })),
    legend: legend.lines(),
    notes: notes.list,
  };
}
