/**
 * A table of ready texts and the notes that belong to its numbers. A warning stands as near to its numbers as it can
 * without being said twice: at the cell, at the row or group if all cells there share it, at the head of the table if all
 * numbers do. Reasons and sources stay at their cell.
 */
import type { Measured, Warning } from '../../../harness/report/schema.ts';
import { count, decimalsFor, fixed, percent, range } from './format.ts';
import { distinct } from './groups.ts';
import { WARNINGS } from './words.ts';

interface Printed {
  readonly text: string;
  /** Machine-readable value; null for a word such as "not yet measured". */
  readonly value: number | null;
  /** The full value, its unit, interval and n. */
  readonly title: string;
  readonly interval: string | null;
}

/** A cell before its notes have letters. `warnings` may move up to row, group or table; `notes` may not. */
export interface DraftCell extends Printed {
  readonly warnings: readonly string[];
  readonly notes: readonly string[];
}

export interface DraftGroup {
  readonly title: string;
  /** `sub`: said under the head in small type, for instance a formula. */
  readonly rows: readonly { readonly head: string; readonly sub?: string; readonly cells: readonly DraftCell[] }[];
}

export interface Cell extends Printed {
  /** Letters of the notes that touch this number alone. */
  readonly marks: readonly string[];
}

export interface Table {
  readonly corner: string;
  readonly columns: readonly string[];
  readonly groups: readonly {
    readonly title: string;
    readonly marks: readonly string[];
    readonly rows: readonly {
      readonly head: string;
      readonly sub: string | null;
      readonly marks: readonly string[];
      readonly cells: readonly Cell[];
    }[];
  }[];
  /** Warnings that touch every number of the table. */
  readonly everywhere: readonly string[];
  /** Said once under the table: what the intervals are and how many observations stand behind each measure. */
  readonly legend: readonly string[];
  readonly notes: readonly { readonly mark: string; readonly text: string }[];
}

export const warningTexts = (list: readonly Warning[]): string[] => list.map((w) => `${WARNINGS[w.code]}: ${w.text}`);

/** A word in place of a number. */
export const wordCell = (text: string, title = text): DraftCell => ({
  text,
  value: null,
  title,
  interval: null,
  warnings: [],
  notes: [],
});

export const plainCell = (value: number, text: string, warnings: readonly string[] = []): DraftCell => ({
  text,
  value,
  title: String(value),
  interval: null,
  warnings,
  notes: [],
});

export function measuredCell(m: Measured): DraftCell {
  if (m.state !== 'measured') return { ...wordCell('not yet measured', m.reason), notes: [m.reason] };
  // Whole things are counted, not measured.
  const decimals = m.unit === 'tries' ? 0 : decimalsFor(m.value);
  const spelled = m.interval
    ? `; ${percent(m.interval.level)} interval ${m.interval.low} to ${m.interval.high} (${m.interval.method})`
    : '; no interval';
  return {
    text: fixed(m.value, decimals),
    value: m.value,
    title: `${m.value} ${m.unit}${spelled}; n = ${m.n} ${m.of}`,
    interval: m.interval ? range(m.interval.low, m.interval.high, decimals) : null,
    warnings: warningTexts(m.warnings),
    notes: [],
  };
}

/** Collects, per measure, the intervals' methods and the observations, to be said once under the table. */
export class Legend {
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

/** Letters for notes, each distinct text once, in order of use: a .. z, aa .. */
class Letters {
  readonly list: { mark: string; text: string }[] = [];

  of(texts: readonly string[]): string[] {
    return texts.map((text) => {
      const known = this.list.find((note) => note.text === text);
      if (known) return known.mark;
      const i = this.list.length;
      const mark = (i >= 26 ? letter(Math.floor(i / 26) - 1) : '') + letter(i % 26);
      this.list.push({ mark, text });
      return mark;
    });
  }
}

const letter = (i: number): string => String.fromCharCode(97 + i);

/** Warnings that two or more numbers, and all of them, share. */
function shared(cells: readonly DraftCell[]): string[] {
  const numbers = cells.filter((cell) => cell.value !== null);
  const [first] = numbers;
  if (!first || numbers.length < 2) return [];
  return first.warnings.filter((text) => numbers.every((cell) => cell.warnings.includes(text)));
}

/** Moves warnings up and gives the rest their letters. `apart`: titles of groups whose numbers are not of this run. */
export function finish(
  draft: Pick<Table, 'corner' | 'columns' | 'legend'> & { readonly groups: readonly DraftGroup[] },
  apart: readonly string[] = [],
): Table {
  const letters = new Letters();
  const cellsOf = (group: DraftGroup): DraftCell[] => group.rows.flatMap((row) => row.cells);
  const everywhere = shared(draft.groups.filter((group) => !apart.includes(group.title)).flatMap(cellsOf));
  const without = (texts: readonly string[], ...said: readonly string[][]): string[] =>
    texts.filter((text) => !said.some((list) => list.includes(text)));
  const groups = draft.groups.map((group) => {
    const ofGroup = without(shared(cellsOf(group)), everywhere);
    return {
      title: group.title,
      marks: letters.of(ofGroup),
      rows: group.rows.map((row) => {
        const ofRow = without(shared(row.cells), everywhere, ofGroup);
        return {
          head: row.head,
          sub: row.sub ?? null,
          marks: letters.of(ofRow),
          cells: row.cells.map(({ warnings, notes, ...printed }) => ({
            ...printed,
            marks: letters.of([...without(warnings, everywhere, ofGroup, ofRow), ...notes]),
          })),
        };
      }),
    };
  });
  return {
    corner: draft.corner,
    columns: draft.columns,
    legend: draft.legend,
    groups,
    everywhere,
    notes: letters.list,
  };
}
