/**
 * The page's charts: Vega-Lite specifications rendered to SVG text while the page is built. Colours are CSS variables of
 * styles/tokens.css, so one drawing reads on light and dark; text takes the page's own font. Every chart is drawn twice,
 * for a wide and a narrow column, because scaled-down text cannot be read on a phone.
 *
 * LIMIT: text widths are estimated without a browser, so margins are fixed rather than fitted.
 */
import { parse, resetSVGDefIds, View } from 'vega';
import { compile, type TopLevelSpec } from 'vega-lite';
import type { NodeCellRow } from '../../../harness/bench/node/report.ts';
import type { AcceptanceRow, Measured, SpeedRow } from '../../../harness/report/schema.ts';
import { fixed } from './format.ts';
import { acceptanceGroups, distinct, speedLabels } from './groups.ts';
import { cellName } from './node.ts';

export interface Drawing {
  readonly wide: string;
  readonly narrow: string;
}

interface Room {
  /** Width of the whole drawing, px. */
  readonly width: number;
  /** Most width of the column of row labels, px, and whether a label is set on two lines. */
  readonly labels: number;
  readonly broken: boolean;
  /** Height of a row, px. */
  readonly step: number;
  /** Panels side by side in small multiples. */
  readonly columns: number;
}

const WIDE: Room = { width: 720, labels: 230, broken: false, step: 22, columns: 4 };
const NARROW: Room = { width: 343, labels: 120, broken: true, step: 34, columns: 2 };

const FONT = 12;
/** Mean width of a character over the font size, for the sans fonts of the page. */
const GLYPH = 0.52;
/** Vega's estimate of a text's width over the true one: a limit given in px must be raised by it. */
const OVERESTIMATE = 1.5;

/** Colour, point shape and dash tell series apart three times over. Must match `.key-*` in components/Series.astro. */
const SERIES = [
  { colour: 'var(--series-1)', shape: 'circle', dash: [1, 0] },
  { colour: 'var(--series-2)', shape: 'square', dash: [6, 3] },
  { colour: 'var(--series-3)', shape: 'triangle-up', dash: [2, 2] },
  { colour: 'var(--series-4)', shape: 'diamond', dash: [8, 2, 2, 2] },
  { colour: 'var(--series-5)', shape: 'triangle-down', dash: [4, 4] },
  { colour: 'var(--series-6)', shape: 'cross', dash: [1, 3] },
] as const;

const CONFIG = {
  aria: false,
  background: 'transparent',
  font: 'sans-serif',
  padding: 2,
  view: { stroke: null },
  axis: {
    labelColor: 'var(--ink)',
    titleColor: 'var(--soft)',
    titleFontWeight: 'normal',
    labelFontSize: FONT,
    titleFontSize: FONT,
    domainColor: 'var(--line)',
    tickColor: 'var(--line)',
    gridColor: 'var(--grid)',
    labelFlush: false,
    titlePadding: 8,
  },
  axisY: { domain: false, ticks: false, labelPadding: 8 },
  header: {
    labelColor: 'var(--ink)',
    labelFontSize: FONT + 1,
    labelFontWeight: 'bold',
    labelPadding: 2,
    title: null,
  },
  facet: { spacing: 16 },
} as const;

/** Measured value with its interval as `[low, high]`; null where nothing was measured. */
function point(m: Measured): { value: number; low: number; high: number } | null {
  if (m.state !== 'measured') return null;
  return { value: m.value, low: m.interval?.low ?? m.value, high: m.interval?.high ?? m.value };
}

interface Spec {
  readonly spec: unknown;
  /** Width that the labels left of the panels really take, px. */
  readonly left: number;
}

async function draw(spec: (room: Room) => Spec): Promise<Drawing> {
  return { wide: await svg(spec(WIDE)), narrow: await svg(spec(NARROW)) };
}

async function svg({ spec, left }: Spec): Promise<string> {
  resetSVGDefIds();
  const compiled = compile({ ...(spec as TopLevelSpec), config: CONFIG } as TopLevelSpec).spec;
  const view = new View(parse(compiled), { renderer: 'none' });
  const text = await view.toSVG();
  view.finalize();
  // The figure names the drawing for assistive technology; inside it there is nothing to walk through.
  return crop(text, left)
    .replace('<svg ', '<svg aria-hidden="true" focusable="false" ')
    .replace(/ xmlns:xlink="[^"]*"/, '');
}

/** Cuts the empty strip that overestimated labels leave on the left, so that the drawing keeps to its column. */
function crop(text: string, left: number): string {
  const size = /width="(\d+)" height="(\d+)" viewBox="[^"]*"/;
  const [, width = '0', height = '0'] = size.exec(text) ?? [];
  const [, origin = '0'] = /translate\((\d+)/.exec(text) ?? [];
  const start = Math.max(0, Number(origin) - left);
  const kept = Number(width) - start;
  return text.replace(size, `width="${kept}" height="${height}" viewBox="${start} 0 ${kept} ${height}"`);
}

/** Row panels by scenario, one line per label, a shared quantitative axis below. */
function rowPanels(
  room: Room,
  values: readonly Record<string, unknown>[],
  order: { scenarios: readonly string[]; labels: readonly string[] },
  layer: readonly unknown[],
): Spec {
  const lines = (label: string): string => (room.broken ? label.replace(', ', '\n') : label);
  const longest = Math.max(0, ...order.labels.flatMap((label) => lines(label).split('\n')).map((line) => line.length));
  const labels = Math.min(room.labels, Math.ceil(longest * FONT * GLYPH) + 12);
  const spec = {
    data: { values: values.map((row) => ({ ...row, label: lines(String(row.label)) })) },
    facet: {
      row: {
        field: 'scenario',
        type: 'nominal',
        sort: order.scenarios,
        header: { labelAngle: 0, labelOrient: 'top', labelAnchor: 'start', labelAlign: 'left' },
      },
    },
    spec: {
      width: room.width - labels - 16,
      height: { step: room.step },
      encoding: {
        y: {
          field: 'label',
          type: 'nominal',
          sort: order.labels.map(lines),
          title: null,
          axis: {
            minExtent: labels,
            maxExtent: labels,
            labelLimit: labels * OVERESTIMATE,
            ...(room.broken
              ? { labelExpr: "split(datum.label, '\\n')", labelLineHeight: FONT + 1, labelOffset: -(FONT + 1) / 2 }
              : {}),
          },
        },
      },
      layer,
    },
  };
  return { spec, left: labels + 4 };
}

/** Panels side by side, one a scenario, as many in a row as the room allows. */
function smallMultiples(
  room: Room,
  values: readonly Record<string, unknown>[],
  scenarios: readonly string[],
  panel: Record<string, unknown>,
): Spec {
  const left = 34;
  const spec = {
    data: { values },
    facet: { field: 'scenario', type: 'nominal', sort: scenarios, header: { labelAnchor: 'start' } },
    columns: room.columns,
    spec: { width: (room.width - left - 8) / room.columns - 18, ...panel },
  };
  return { spec, left };
}

/** Acceptance length per scenario: measured with interval, n-gram baseline, published figure. */
export function acceptanceChart(rows: readonly AcceptanceRow[]): Promise<Drawing> {
  const groups = acceptanceGroups(rows);
  const most = Math.max(2, ...rows.map((row) => row.blockSize));
  const values = groups.flatMap((group) =>
    group.rows.map((row) => ({
      scenario: row.scenario,
      label: group.label,
      ...point(row.rawMicro),
      ngram: point(row.ngramBaseline)?.value ?? null,
      published: row.published?.value ?? null,
    })),
  );
  const order = { scenarios: distinct(rows.map((row) => row.scenario)), labels: groups.map((g) => g.label) };
  const x = {
    type: 'quantitative',
    scale: { domain: [1, most], zero: false, nice: false },
    axis: { values: range(1, most), format: 'd', title: 'tokens per verify step' },
  };
  return draw((room) =>
    rowPanels(room, values, order, [
      {
        mark: { type: 'tick', thickness: 3, size: room.step, color: 'var(--published)', opacity: 1 },
        encoding: { x: { ...x, field: 'published' } },
      },
      {
        mark: {
          type: 'point',
          shape: 'diamond',
          size: 60,
          strokeWidth: 1.5,
          color: 'var(--soft)',
          filled: false,
          opacity: 1,
        },
        encoding: { x: { ...x, field: 'ngram' } },
      },
      {
        mark: { type: 'rule', strokeWidth: 2, color: 'var(--series-1)' },
        encoding: { x: { ...x, field: 'low' }, x2: { field: 'high' } },
      },
      {
        mark: { type: 'point', size: 60, filled: true, color: 'var(--series-1)', opacity: 1 },
        encoding: { x: { ...x, field: 'value' } },
      },
    ]),
  );
}

/** Share of rounds that accepted at least i drafts, one panel a scenario, one line a group. */
export function survivalChart(rows: readonly AcceptanceRow[]): Promise<Drawing> {
  const groups = acceptanceGroups(rows);
  const labels = groups.map((g) => g.label);
  const values = groups.flatMap((group) =>
    group.rows.flatMap((row) =>
      row.survival.map((share, i) => ({ scenario: row.scenario, label: group.label, position: i + 1, share })),
    ),
  );
  const last = Math.max(2, ...rows.map((row) => row.survival.length));
  const pick = <K extends keyof (typeof SERIES)[number]>(key: K) =>
    labels.map((_, i) => SERIES[i % SERIES.length]?.[key]);
  const scenarios = distinct(rows.map((row) => row.scenario));
  return draw((room) =>
    smallMultiples(room, values, scenarios, {
      height: 130,
      mark: { type: 'line', point: { size: 34, filled: true, opacity: 1 }, strokeWidth: 1.5 },
      encoding: {
        x: {
          field: 'position',
          type: 'quantitative',
          scale: { domain: [1, last], zero: false, nice: false },
          axis: { values: range(1, last), format: 'd', title: 'draft position', grid: false },
        },
        y: {
          field: 'share',
          type: 'quantitative',
          scale: { domain: [0, 1] },
          axis: { values: [0, 0.5, 1], title: null },
        },
        color: { field: 'label', type: 'nominal', legend: null, scale: { domain: labels, range: pick('colour') } },
        shape: { field: 'label', type: 'nominal', legend: null, scale: { domain: labels, range: pick('shape') } },
        strokeDash: { field: 'label', type: 'nominal', legend: null, scale: { domain: labels, range: pick('dash') } },
      },
    }),
  );
}

/** Whole numbers from `first` to `last`. */
const range = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, i) => first + i);

/** Rounds by accepted drafts for the rows of one group, one panel a scenario; `most` rounds make the tallest bar. */
export function histogramChart(rows: readonly AcceptanceRow[], most: number): Promise<Drawing> {
  const values = rows.flatMap((row) =>
    row.histogram.map((rounds, accepted) => ({ scenario: row.scenario, accepted, rounds })),
  );
  const scenarios = distinct(rows.map((row) => row.scenario));
  return draw((room) =>
    smallMultiples(room, values, scenarios, {
      height: 90,
      mark: { type: 'bar', color: 'var(--series-1)', width: { band: 0.78 } },
      encoding: {
        x: { field: 'accepted', type: 'ordinal', axis: { labelAngle: 0, title: 'accepted drafts', ticks: false } },
        y: {
          field: 'rounds',
          type: 'quantitative',
          scale: { domain: [0, Math.max(1, most)], nice: true },
          axis: { tickCount: 3, title: null, format: ',f' },
        },
      },
    }),
  );
}

/** One bar of `speedBars`; `atEnd` is the text at its end. */
type SpeedBar = {
  readonly scenario: string;
  readonly label: string;
  readonly on: boolean;
  readonly value?: number;
  readonly low?: number;
  readonly high?: number;
  readonly atEnd: string;
};

/** Tokens per second as bars with their intervals, one panel a scenario; with speculation in colour. */
function speedBars(values: readonly SpeedBar[], title: string): Promise<Drawing> {
  const order = {
    scenarios: distinct(values.map((row) => row.scenario)),
    labels: distinct(values.map((row) => row.label)),
  };
  const most = Math.max(1, ...values.map((row) => row.high ?? 0));
  const x = {
    type: 'quantitative',
    // Room to the right of the longest bar for the text at its end.
    scale: { domain: [0, most * 1.15], nice: false },
    axis: { title, tickCount: 5, format: ',f' },
  };
  return draw((room) =>
    rowPanels(room, values, order, [
      {
        mark: { type: 'bar', height: 12 },
        encoding: {
          x: { ...x, field: 'value' },
          color: {
            field: 'on',
            type: 'nominal',
            legend: null,
            scale: { domain: [false, true], range: ['var(--neutral)', 'var(--series-1-soft)'] },
          },
        },
      },
      {
        mark: { type: 'rule', strokeWidth: 2, color: 'var(--ink)' },
        encoding: { x: { ...x, field: 'low' }, x2: { field: 'high' } },
      },
      {
        mark: { type: 'text', align: 'left', dx: 6, fontSize: FONT, color: 'var(--ink)' },
        encoding: { x: { ...x, field: 'high' }, text: { field: 'atEnd' } },
      },
    ]),
  );
}

/** Decode tokens per second with and without speculation; the speed-up, where there is one, stands at the bar's end. */
export function speedChart(rows: readonly SpeedRow[]): Promise<Drawing> {
  const labels = speedLabels(rows);
  const bars = rows.map((row, i): SpeedBar => {
    const speedup = point(row.speedup);
    const speed = point(row.decodeTokensPerSecond);
    return {
      scenario: row.scenario,
      label: labels[i]!,
      on: row.speculation,
      ...speed,
      atEnd: row.speculation && speedup && speed ? `${fixed(speedup.value, 2)}\u00d7` : '',
    };
  });
  return speedBars(bars, 'decode tokens per second');
}

/** Tokens per second of cells of one part, one panel a format of the experts with its layers; the share of the read ceiling at the bar's end. */
export function cellChart(cells: readonly NodeCellRow[]): Promise<Drawing> {
  const figure = (cell: NodeCellRow, id: string) =>
    point(cell.figures.find((each) => each.id === id)?.figure ?? { state: 'not yet measured', reason: '' });
  const bars = cells.map((cell): SpeedBar => {
    const share = figure(cell, 'ceiling-share');
    return {
      scenario: `${cell.experts.toUpperCase()} experts, ${cell.layers} layers`,
      label: cellName(cell),
      on: cell.speculation,
      ...figure(cell, 'tokens-per-second'),
      atEnd: share === null ? '' : `${fixed(share.value * 100, 0)} %`,
    };
  });
  return speedBars(bars, 'tokens per second');
}
