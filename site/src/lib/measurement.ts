/** Tables of the measurement part: every definition of speed with its formula, both arms beside each other, conditions, facets. */
import type { FacetRow, Figure, Measured, Measurement, SpeedCell } from '../../../harness/report/schema.ts';
import { count, fixed, percent, rounded } from './format.ts';
import { distinct } from './groups.ts';
import { type DraftCell, finish, Legend, measuredCell, plainCell, type Table, wordCell } from './table.ts';

/** Figures by what a reader looks for; a figure in no group stands in the last. */
const GROUPS: readonly (readonly [string, RegExp])[] = [
  ['Rates', /^(decode|e2e|server|aggregate|prefill)-tps$|^peak$/],
  ['Latency', /^(ttft|ttfr|ttfa|ttst|tpot|icl|itl)/],
  ['Inside a step', /step$|share$|^transport$/],
  ['Tokens a step', /-al$/],
  ['What it buys', /./],
];

export interface Named {
  readonly label: string;
  readonly table: Table;
}

/** One table a scenario and concurrency. */
export function speedTables({ cells }: Measurement): Named[] {
  const keys = distinct(cells.map(keyOf));
  const several = distinct(cells.map((cell) => cell.concurrency)).length > 1;
  return keys.map((key) => {
    const own = cells.filter((cell) => keyOf(cell) === key);
    const off = own.find((cell) => !cell.speculation);
    const on = own.find((cell) => cell.speculation);
    const first = on ?? off;
    const label = `${first?.scenario ?? key}${several ? `, ${first?.concurrency} at once` : ''}`;
    return { label, table: armsTable(off, on) };
  });
}

const keyOf = (cell: SpeedCell): string => `${cell.scenario} ${cell.concurrency}`;

const unitsOf = (figures: readonly (Figure | undefined)[]): string =>
  distinct(figures.flatMap((f) => (f?.figure.state === 'measured' ? [f.figure.unit] : []))).join(' or ');

function armsTable(off: SpeedCell | undefined, on: SpeedCell | undefined): Table {
  const legend = new Legend();
  const ids = distinct([...(off?.figures ?? []), ...(on?.figures ?? [])].map((figure) => figure.id));
  const rows = ids.map((id) => {
    const pair = [off, on].map((cell) => cell?.figures.find((figure) => figure.id === id));
    const known = pair.find((figure) => figure !== undefined);
    const unit = unitsOf(pair);
    return {
      id,
      head: `${known?.name ?? id}${unit === '' ? '' : ` (${unit})`}`,
      sub: `${known?.formula ?? ''}; ${known?.source ?? ''}`,
      cells: pair.map((figure) => figureCell(figure, legend)),
    };
  });
  const groups = GROUPS.map(([title], at) => ({
    title,
    rows: rows.filter((row) => GROUPS.findIndex(([, pattern]) => pattern.test(row.id)) === at),
  })).filter((group) => group.rows.length > 0);
  return finish({ corner: 'figure', columns: ['speculation off', 'speculation on'], groups, legend: legend.lines() });
}

function figureCell(figure: Figure | undefined, legend: Legend): DraftCell {
  if (figure === undefined) return wordCell('');
  legend.add(figure.name, figure.figure);
  return measuredCell(figure.figure);
}

/** On against off, one column a scenario. */
export function comparisonTable({ comparisons }: Measurement): Table {
  const legend = new Legend();
  const several = distinct(comparisons.map((row) => row.concurrency)).length > 1;
  const ids = distinct(comparisons.flatMap((row) => row.figures.map((figure) => figure.id)));
  const rows = ids.map((id) => {
    const across = comparisons.map((row) => row.figures.find((figure) => figure.id === id));
    const known = across.find((figure) => figure !== undefined);
    const unit = unitsOf(across);
    return {
      head: `${known?.name ?? id}${unit === '' ? '' : ` (${unit})`}`,
      sub: `${known?.formula ?? ''}; ${known?.source ?? ''}`,
      cells: across.map((figure) => figureCell(figure, legend)),
    };
  });
  const columns = comparisons.map((row) => `${row.scenario}${several ? `, ${row.concurrency} at once` : ''}`);
  return finish({
    corner: 'figure',
    columns,
    groups: [{ title: 'Speculation on against off', rows }],
    legend: legend.lines(),
  });
}

/** How each cell was timed, and whether it holds together. */
export function conditionsTable({ cells }: Measurement): Table {
  const keys = distinct(cells.map(keyOf));
  const several = distinct(cells.map((cell) => cell.concurrency)).length > 1;
  const columns = keys.map((key) => {
    const cell = cells.find((other) => keyOf(other) === key);
    return `${cell?.scenario ?? key}${several ? `, ${cell?.concurrency} at once` : ''}`;
  });
  const groups = [false, true].map((speculation) => {
    const own = keys.map((key) => cells.find((cell) => keyOf(cell) === key && cell.speculation === speculation));
    const row = (head: string, of: (cell: SpeedCell) => DraftCell, sub?: string) => ({
      head,
      ...(sub === undefined ? {} : { sub }),
      cells: own.map((cell) => (cell === undefined ? wordCell('not run') : of(cell))),
    });
    return {
      title: speculation ? 'Speculation on' : 'Speculation off',
      rows: [
        row('headline', (cell) => wordCell(cell.headline ? 'yes' : 'no')),
        row('seconds timed', (cell) => plainCell(cell.window.seconds, fixed(cell.window.seconds, 1))),
        row('longest in one process (s)', (cell) =>
          plainCell(cell.window.longestSeconds, fixed(cell.window.longestSeconds, 1)),
        ),
        row('processes', (cell) => plainCell(cell.window.processes, count(cell.window.processes))),
        row('requests', (cell) => plainCell(cell.window.sessions, count(cell.window.sessions))),
        row('verify steps', (cell) => plainCell(cell.window.rounds, count(cell.window.rounds))),
        row('tokens', (cell) => plainCell(cell.window.tokens, count(cell.window.tokens))),
        row('processes that were steady', (cell) => wordCell(`${cell.warmup.steady} of ${cell.warmup.of}`)),
        row('output', (cell) => wordCell(cell.correctness.outcome, cell.correctness.evidence)),
        row(
          'residual of the identity',
          (cell) =>
            cell.identity === null
              ? wordCell('none')
              : plainCell(cell.identity.residual, percent(Number(cell.identity.residual.toPrecision(2)))),
          'tokens per second × step time / acceptance length − 1',
        ),
        row('peak over mean, and the most a block allows', (cell) =>
          cell.peak === null
            ? wordCell('too short')
            : wordCell(`${rounded(cell.peak.ratio)} of ${rounded(cell.peak.most)}`, `over ${cell.peak.seconds} s`),
        ),
      ],
    };
  });
  return finish({ corner: 'condition', columns, groups, legend: [] });
}

const FACET_NAMES: Readonly<Record<FacetRow['facet'], string>> = {
  language: 'Language of the prompt',
  thinking: 'Thinking mode',
  context: 'Length of the prompt',
  temperature: 'Temperature',
};

/** Acceptance by facet; columns are decodings and rules. */
export function facetTable({ facets }: Measurement): Table {
  const legend = new Legend();
  const name = (row: FacetRow): string => `${row.decoding}, ${row.rule}`;
  const columns = distinct(facets.filter((row) => row.facet !== 'temperature').map(name));
  const groups = distinct(facets.map((row) => row.facet))
    .filter((facet) => facet !== 'temperature')
    .map((facet) => ({
      title: FACET_NAMES[facet],
      rows: distinct(facets.filter((row) => row.facet === facet).map((row) => row.value)).map((value) => ({
        head: value,
        cells: columns.map((column) => {
          const row = facets.find((r) => r.facet === facet && r.value === value && name(r) === column);
          if (row === undefined) return wordCell('none');
          legend.add('acceptance length, raw, micro', row.rawMicro);
          return withCount(row.rawMicro);
        }),
      })),
    }));
  return finish({ corner: unitOf(facets.map((row) => row.rawMicro)), columns, groups, legend: legend.lines() });
}

/** Facets differ in how many prompts stand behind a number, so each number says it. */
function withCount(m: Measured): DraftCell {
  const cell = measuredCell(m);
  if (m.state !== 'measured') return cell;
  const prompts = `n = ${count(m.n)}`;
  return { ...cell, interval: cell.interval === null ? prompts : `${cell.interval}, ${prompts}` };
}

const unitOf = (cells: readonly Measured[]): string =>
  distinct(cells.flatMap((m) => (m.state === 'measured' ? [m.unit] : []))).join(' or ') || 'acceptance length';
