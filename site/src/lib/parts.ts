/**
 * The parts of the node benchmark over all bundles. A run may take any of them (`--only`), so each part is shown from a bundle of its
 * own: of those on the most GPUs with the most layers the newest. Nothing is computed here: figures are those of the reports.
 */
import type { NodeCellRow, NodeComparison, NodeReport, NodeTarget } from '../../../harness/bench/node/report.ts';
import type { Measured } from '../../../harness/report/schema.ts';
import { distinct } from './groups.ts';

/** In the order in which a reader asks. */
export const PARTS = [
  'headline',
  'lossless',
  'ablation',
  'reference',
  'context',
  'block',
  'gpus',
  'routing',
  'layers',
  'collectives',
] as const;
export type PartId = (typeof PARTS)[number];

export const PART_TITLES: Readonly<Record<PartId, string>> = {
  headline: 'Headline: the whole step at each assumed acceptance',
  lossless: 'The long output that speculation must not change',
  ablation: 'Ablation: format of the experts, speculation, launches',
  reference: 'The plain FP8 reference, and the stack with its layers',
  context: 'Context length',
  block: 'Block size',
  gpus: 'Number of GPUs, the same layers on each',
  routing: 'Routing, from independent to shared',
  layers: "Where a layer's time goes",
  collectives: 'The all-reduce alone',
};

/** Said once beside a part. */
export const PART_NOTES: Readonly<Partial<Record<PartId, string>>> = {
  headline: 'A step reads one block of tokens. Its bytes count every weight of the node once, in its stored format.',
  ablation: 'Fewer layers take less time: compare cells of equal layers alone.',
  routing: 'Shared by: how far tokens at neighbouring positions choose experts alike; 0 is independent.',
  layers: 'With clocks of every operation, which cost time themselves: these add up to more than a step without them.',
  collectives: "Sums of all GPUs inside the kernel, each call made of the one before; beside it NCCL's.",
};

/** Comparisons between cells of one part. */
const COMPARED: Readonly<Partial<Record<PartId, RegExp>>> = {
  ablation: /^(speculation$|persistent-|graph-ops-|formats-)/,
  reference: /^reference/,
  context: /^long-context$/,
  gpus: /^gpus-/,
  routing: /^routing-/,
};

/** Verdicts that are about one part. */
const JUDGED: Readonly<Partial<Record<PartId, readonly string[]>>> = {
  lossless: ['lossless', 'same-bits'],
  ablation: ['launches'],
  collectives: ['sums'],
};

export interface Part {
  readonly id: PartId;
  readonly report: NodeReport;
  readonly size: Size;
  /** Others that have it, those on more GPUs with more layers first, then the newer. */
  readonly others: readonly NodeReport[];
}

/** What a part ran on; no layers where it needs no model. */
export interface Size {
  readonly gpus: number;
  readonly layers: number | null;
}

/** Null where the run has nothing of the part. */
function sizeOf(report: NodeReport, part: PartId): Size | null {
  if (part === 'collectives') {
    const rows = report.collectives?.rows ?? [];
    return rows.length === 0 ? null : { gpus: Math.max(...rows.map(({ gpus }) => gpus)), layers: null };
  }
  const rows = part === 'layers' ? report.layers : report.cells.filter(({ group }) => group === part);
  return rows.length === 0
    ? null
    : { gpus: Math.max(...rows.map(({ gpus }) => gpus)), layers: Math.max(...rows.map(({ layers }) => layers)) };
}

/** More GPUs first, then more layers, then the newer. */
function order(a: { size: Size; report: NodeReport }, b: { size: Size; report: NodeReport }): number {
  const newer = a.report.run.startedAt < b.report.run.startedAt ? 1 : -1;
  return b.size.gpus - a.size.gpus || (b.size.layers ?? 0) - (a.size.layers ?? 0) || newer;
}

/** Every part that any of the reports has. */
export function partsOf(reports: readonly NodeReport[]): Part[] {
  return PARTS.flatMap((id) => {
    const [first, ...others] = reports
      .flatMap((report) => {
        const size = sizeOf(report, id);
        return size === null ? [] : [{ size, report }];
      })
      .sort(order);
    return first === undefined ? [] : [{ id, ...first, others: others.map(({ report }) => report) }];
  });
}

/** Parts that a run has numbers of. */
export function measuredParts(report: NodeReport): PartId[] {
  return PARTS.filter((id) => sizeOf(report, id) !== null);
}

/** Parts that a run was asked for, whether or not it came to them. */
export function askedFor(report: NodeReport): PartId[] {
  return PARTS.filter((id) => sizeOf(report, id) !== null || report.notMeasured.some(({ group }) => group === id));
}

export function comparisonsOf(report: NodeReport, part: PartId): NodeComparison[] {
  const pattern = COMPARED[part];
  return pattern === undefined ? [] : report.comparisons.filter(({ id }) => pattern.test(id));
}

export function verdictsOf(report: NodeReport, part: PartId): NodeReport['verdicts'] {
  return report.verdicts.filter(({ id }) => JUDGED[part]?.includes(id));
}

/** What the numbers of a run stand under, those of parts without cells among it. */
export function labelsOf(report: NodeReport): string[] {
  const others = [...report.layers, ...(report.collectives?.exposed ?? [])].flatMap(({ labels }) => labels);
  return distinct([...report.labels, ...others]);
}

/** `4 x NVIDIA H200, 70 layers`. */
export function sizeText({ gpus, layers }: Size, report: NodeReport): string {
  return `${gpus} x ${report.machine.gpu}${layers === null ? '' : `, ${layers} layers`}`;
}

export interface Stand {
  readonly figure: Measured;
  readonly labels: readonly string[];
  readonly size: Size;
  readonly report: NodeReport;
}

const figureOf = (cell: NodeCellRow, id: string): Measured | undefined =>
  cell.figures.find((figure) => figure.id === id)?.figure;

/** The length that the headline of a target assumes, and the figure of its cell. */
const HEADLINE: Readonly<Record<string, { readonly length: number; readonly figure: string }>> = {
  'speed-6.30': { length: 6.3, figure: 'tokens-per-second' },
  'speed-4.29': { length: 4.29, figure: 'tokens-per-second' },
  step: { length: 6.3, figure: 'step' },
  ceiling: { length: 6.3, figure: 'ceiling-share' },
};

const RATIO: Readonly<Record<string, { readonly comparison: string; readonly part: PartId }>> = {
  reference: { comparison: 'reference', part: 'reference' },
  persistent: { comparison: 'persistent-graph-on', part: 'ablation' },
  context: { comparison: 'long-context', part: 'context' },
};

/** Where the quantity of a target stands in one report; null where it was not measured. */
function standIn(target: NodeTarget['id'], report: NodeReport): Stand | null {
  const of = (figure: Measured | undefined, labels: readonly string[], size: Size | null): Stand | null =>
    figure?.state !== 'measured' || size === null ? null : { figure, labels, size, report };
  const headline = HEADLINE[target];
  if (headline !== undefined) {
    const cell = report.cells.find((row) => row.group === 'headline' && row.profile?.target === headline.length);
    return cell === undefined ? null : of(figureOf(cell, headline.figure), cell.labels, cell);
  }
  const ratio = RATIO[target];
  if (ratio !== undefined) {
    const row = report.comparisons.find(({ id }) => id === ratio.comparison);
    return row === undefined ? null : of(row.figure, row.labels, sizeOf(report, ratio.part));
  }
  if (target !== 'all-reduce') return null;
  // In the form in which the stack decodes.
  const size = sizeOf(report, 'collectives');
  const row = report.collectives?.exposed.find(({ id }) => id === `exposed-${size?.gpus}-two-hops`);
  return row === undefined ? null : of(row.figure, row.labels, size);
}

export interface TargetRow {
  /** With the outcome of the run that measured it on 8 GPUs; of the newest run where none did. */
  readonly target: NodeTarget;
  readonly measured: Pick<Stand, 'labels' | 'report'> | null;
  /** The same quantity on fewer GPUs or layers; it reaches and misses nothing. */
  readonly elsewhere: Stand | null;
}

/** `reports`: the newest first. */
export function targetsOf(reports: readonly NodeReport[]): TargetRow[] {
  return (reports[0]?.targets ?? []).map((known) => {
    const found = reports.find(({ targets }) =>
      targets.some(({ id, figure }) => id === known.id && figure.state === 'measured'),
    );
    const stands = reports.flatMap((report) => {
      const measured = report.targets.some(({ id, figure }) => id === known.id && figure.state === 'measured');
      return measured ? [] : (standIn(known.id, report) ?? []);
    });
    return {
      target: found?.targets.find(({ id }) => id === known.id) ?? known,
      measured:
        found === undefined ? null : { report: found, labels: standIn(known.id, found)?.labels ?? labelsOf(found) },
      elsewhere: stands.sort(order)[0] ?? null,
    };
  });
}
