/** How rows are brought together and named, for tables and charts alike. */
import type { AcceptanceRow, SpeedRow } from '../../../harness/report/schema.ts';

/** Rows of one decoding, rule, block size and engine: what varies inside a group is the scenario. */
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
