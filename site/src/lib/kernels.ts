/**
 * Kernel benches as the page shows them: the figures of each stored document, checked for their shape, as tables. That they follow from
 * the samples is checked by `kilotoken check`; nothing is computed here.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BenchKernels, Figures, Layers, Peers, Summary } from '../../../harness/bench/kernels-schema.ts';
import { fixed, range, rounded } from './format.ts';
import { distinct } from './groups.ts';
import { ReportError } from './report.ts';
import { flag, integer, listOf, nullable, number, object, oneOf, optional, text } from './shape.ts';
import { type DraftCell, finish, plainCell, type Table, wordCell } from './table.ts';

/** What the page needs of a document; the samples are left where they are. */
export interface KernelBench {
  readonly id: string;
  readonly made: string;
  readonly commit: string;
  readonly dirty: boolean;
  readonly gpu: string;
  readonly figures: Figures;
  /** Layers of the two slices that a layer is the difference of. */
  readonly slices: Pick<Layers, 'few' | 'many'> | null;
  readonly peers: Pick<Peers, 'torch' | 'cuda' | 'triton' | 'cudnn' | 'driver'> | null;
  readonly leftOut: readonly { readonly why: string }[];
}

const summary = object<Summary>({ median: number, least: number, most: number, samples: integer });
const hop = object<Figures['hops']['flag']>({ partners: integer, medianUs: number, bestUs: number, worstUs: number });
const weights = oneOf('mxfp4', 'fp8', 'bf16', 'f32');

const figures = object<Figures>({
  ceiling: object({ gbPerS: number, ringKib: integer, pageBytes: integer }),
  reads: listOf(object({ ringKib: integer, pageBytes: integer, us: summary, gbPerS: number })),
  barrierUs: summary,
  hops: object({ flag: hop, flagged: hop, carried: hop }),
  launchUs: summary,
  graphNodeUs: summary,
  operations: listOf(
    object({
      op: oneOf('qkv', 'o', 'dense-up', 'dense-down', 'router', 'head', 'expert-pair'),
      weights,
      experts: nullable(integer),
      m: integer,
      arrangement: oneOf('stream', 'chain'),
      choice: optional(nullable(oneOf('before', 'within'))),
      bytes: integer,
      us: summary,
      gbPerS: number,
      share: number,
      peer: nullable(object({ peer: text, mode: text, us: number, ratio: number })),
    }),
  ),
  layers: listOf(
    object({
      m: integer,
      experts: number,
      bytes: number,
      us: number,
      gbPerS: number,
      share: number,
      timesItsBytes: number,
    }),
  ),
  peers: listOf(
    object({
      matrix: text,
      m: integer,
      experts: nullable(integer),
      peer: text,
      weights: oneOf('mxfp4', 'fp8', 'bf16', 'f32', 'int4'),
      mode: text,
      us: summary,
      gbPerS: number,
      share: number,
    }),
  ),
});

const document = object<
  Pick<BenchKernels, 'schema' | 'made' | 'commit' | 'dirty' | 'gpu' | 'figures'> & { raw: unknown }
>({
  schema: oneOf('kilotoken/bench-kernels@1'),
  made: text,
  commit: text,
  dirty: flag,
  gpu: object({ name: text, capability: text, driverCuda: integer, runtimeCuda: integer, memory: integer }),
  figures,
  raw: object<{ layers: unknown; peers: unknown }>({
    layers: nullable(object<Pick<Layers, 'few' | 'many'>>({ few: integer, many: integer })),
    peers: nullable(
      object<NonNullable<KernelBench['peers']> & Pick<Peers, 'leftOut'>>({
        torch: text,
        cuda: text,
        triton: text,
        cudnn: text,
        driver: text,
        leftOut: listOf(object({ why: text })),
      }),
    ),
  }),
});

/** Checks the text of a stored document. Throws ReportError. */
export function parseKernels(json: string, path: string, id: string): KernelBench {
  let found: ReturnType<typeof document>;
  try {
    found = document(JSON.parse(json), 'document');
  } catch (error) {
    throw new ReportError(`${path} cannot be shown: ${(error as Error).message}`);
  }
  const raw = found.raw as {
    layers: KernelBench['slices'];
    peers: (NonNullable<KernelBench['peers']> & Pick<Peers, 'leftOut'>) | null;
  };
  const { made, commit, dirty, gpu } = found;
  return {
    id,
    made,
    commit,
    dirty,
    gpu: gpu.name,
    figures: found.figures,
    slices: raw.layers,
    peers: raw.peers,
    leftOut: raw.peers?.leftOut ?? [],
  };
}

/** All kernel benches of a folder, the newest first. Empty where there is no such folder. */
export function readKernels(folder: string): KernelBench[] {
  if (folder === '' || !existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.endsWith('.json'))
    .map((name) =>
      parseKernels(readFileSync(join(folder, name), 'utf8'), join(folder, name), name.replace(/\.json$/, '')),
    )
    .sort((a, b) => (a.made < b.made ? 1 : a.made > b.made ? -1 : 0));
}

const WEIGHTS: Readonly<Record<string, string>> = {
  mxfp4: 'MXFP4',
  fp8: 'FP8',
  bf16: 'BF16',
  f32: 'binary32',
  int4: 'INT4',
};

const OPERATIONS: Readonly<Record<string, string>> = {
  qkv: 'QKV',
  o: 'O',
  'dense-up': 'dense up',
  'dense-down': 'dense down',
  router: 'router',
  head: 'head',
  'expert-pair': 'expert pair',
};

const nameOf = (op: string): string => OPERATIONS[op] ?? op;
const withExperts = (experts: number | null): string => (experts === null ? '' : `, ${experts} experts`);

function timeCell({ median, least, most, samples }: Summary): DraftCell {
  const decimals = median < 10 ? 2 : 1;
  return {
    ...plainCell(median, fixed(median, decimals)),
    title: `${median} us, median of ${samples} samples; least ${least}, most ${most}`,
    interval: range(least, most, decimals),
  };
}

const shareCell = (share: number): DraftCell => plainCell(share, fixed(share, 3));

/** Set before anything was measured; of the read ceiling of the same run, weights streamed, 8 rows. */
const TARGETS = [
  { op: 'expert-pair', experts: 60, must: 0.85, aim: 0.95 },
  { op: 'qkv', experts: null, must: 0.86, aim: 0.92 },
  { op: 'o', experts: null, must: 0.8, aim: 0.88 },
] as const;
const LAYER_TARGET = { must: 1.3, aim: 1.15 };

/** How far a figure is from what was set before. */
export function kernelTargetTable({ figures: { operations, layers } }: KernelBench): Table {
  const outcome = (reaches: (mark: number) => boolean, { must, aim }: typeof LAYER_TARGET): string =>
    reaches(aim) ? 'aim reached' : reaches(must) ? 'must reached' : 'missed';
  const row = (
    head: string,
    target: typeof LAYER_TARGET,
    value: number | undefined,
    better: 'more' | 'less',
    ratio: number | null,
  ) => ({
    head,
    cells: [
      plainCell(target.must, String(target.must)),
      plainCell(target.aim, String(target.aim)),
      value === undefined ? wordCell('not yet measured') : plainCell(value, fixed(value, 3)),
      wordCell(
        value === undefined
          ? 'not yet measured'
          : outcome((mark) => (better === 'more' ? value >= mark : value <= mark), target),
      ),
      ratio === null ? wordCell('none') : plainCell(ratio, fixed(ratio, 2)),
    ],
  });
  const layer = layers.find(({ m }) => m === 8);
  return finish({
    corner: '8 rows, one rank of eight',
    columns: ['must', 'aim', 'measured', 'outcome', "fastest peer's time over ours"],
    legend: [
      "Operations as a share of the read ceiling, weights streamed; the layer as its time over that of its bytes at the read ceiling. Whether experts were chosen before the pair was timed stands with the operations. A peer's time over ours: above 1, the peer is slower.",
    ],
    groups: [
      {
        title: '',
        rows: [
          ...TARGETS.flatMap((target) => {
            const found = operations.filter(
              ({ op, experts, m, arrangement }) =>
                op === target.op && experts === target.experts && m === 8 && arrangement === 'stream',
            );
            const name = `${nameOf(target.op)}${withExperts(target.experts)}`;
            return found.length === 0
              ? [row(name, target, undefined, 'more', null)]
              : found.map(({ weights: as, share, peer }) =>
                  row(`${name}, ${WEIGHTS[as] ?? as}`, target, share, 'more', peer?.ratio ?? null),
                );
          }),
          row('a layer, times its bytes', LAYER_TARGET, layer?.timesItsBytes, 'less', null),
        ],
      },
    ],
  });
}

/** The stack's operations beside the fastest peer whose weights are no narrower. */
export function operationTable({ figures: { operations } }: KernelBench): Table {
  const keys = distinct(
    operations.map(({ op, weights: as, experts }) => `${nameOf(op)}, ${WEIGHTS[as] ?? as}${withExperts(experts)}`),
  );
  return finish({
    corner: 'rows of a step, calls',
    columns: ['us', 'share of read ceiling', 'fastest peer, us', 'its time over ours'],
    legend: [
      'Medians with least and most of the samples of a call. Stream: calls follow each other as the ring allows; chain: each waits for the sums of the one before. Choice before: the experts (top-k) are chosen by a launch before the timed one; within, or not said: in it. A ratio below 1: the peer is faster.',
    ],
    groups: keys.map((title) => ({
      title,
      rows: operations
        .filter(
          ({ op, weights: as, experts }) => `${nameOf(op)}, ${WEIGHTS[as] ?? as}${withExperts(experts)}` === title,
        )
        .map(({ m, arrangement, choice, us, share, peer }) => ({
          head: `${m} ${m === 1 ? 'row' : 'rows'}, ${arrangement}${choice == null ? '' : `, choice ${choice}`}`,
          ...(peer === null ? {} : { sub: `peer: ${peer.peer}, ${peer.mode}` }),
          cells: [
            timeCell(us),
            shareCell(share),
            ...(peer === null
              ? [wordCell('none', 'no peer with weights no narrower was measured'), wordCell('\u2013', 'no peer')]
              : [plainCell(peer.us, rounded(peer.us)), plainCell(peer.ratio, fixed(peer.ratio, 2))]),
          ],
        })),
    })),
  });
}

export function kernelLayerTable({ figures: { layers }, slices }: KernelBench): Table {
  return finish({
    corner: 'rows of a step',
    columns: ['us', 'experts', 'share of read ceiling', 'times its bytes'],
    legend: [
      `One layer of one rank of eight, all operations, no links to others: rounds of ${slices?.many} layers less rounds of ${slices?.few}. Synthetic weights, whose routers choose nearly independently.`,
    ],
    groups: [
      {
        title: '',
        rows: layers.map(({ m, us, experts, share, timesItsBytes }) => ({
          head: String(m),
          cells: [
            plainCell(us, fixed(us, 1)),
            plainCell(experts, fixed(experts, 1)),
            shareCell(share),
            plainCell(timesItsBytes, fixed(timesItsBytes, 2)),
          ],
        })),
      },
    ],
  });
}

export function floorTable({ figures: { ceiling, barrierUs, hops, launchUs, graphNodeUs } }: KernelBench): Table {
  const hopCell = ({ partners, medianUs, bestUs, worstUs }: Figures['hops']['flag']): DraftCell => ({
    ...plainCell(medianUs, fixed(medianUs, 2)),
    title: `${medianUs} us, median over ${partners} partners; ${bestUs} to ${worstUs}`,
    interval: range(bestUs, worstUs, 2),
  });
  const rows: readonly (readonly [string, DraftCell])[] = [
    ['barrier of all blocks', timeCell(barrierUs)],
    ['hop: a flag', hopCell(hops.flag)],
    ['hop: 512 bytes, then a flag', hopCell(hops.flagged)],
    ['hop: 512 bytes that are their own flags', hopCell(hops.carried)],
    ['launch of an empty kernel', timeCell(launchUs)],
    ['node of a CUDA graph', timeCell(graphNodeUs)],
  ];
  return finish({
    corner: 'floor',
    columns: ['us'],
    legend: [
      `The read ceiling that shares are of: ${fixed(ceiling.gbPerS, 0)} GB/s, the best median of all rings and pages (ring of ${ceiling.ringKib} KB, pages of ${ceiling.pageBytes} bytes). Hops one way, over all partners.`,
    ],
    groups: [{ title: '', rows: rows.map(([head, cell]) => ({ head, cells: [cell] })) }],
  });
}

/** Every peer that was timed, those with narrower weights among them. */
export function peerTable({ figures: { peers } }: KernelBench): Table {
  const titleOf = ({ matrix, m, experts }: Figures['peers'][number]): string =>
    `${nameOf(matrix)}${withExperts(experts)}, ${m} ${m === 1 ? 'row' : 'rows'}`;
  return finish({
    corner: 'peer',
    columns: ['us', 'share of read ceiling'],
    legend: [
      'Each was compared with binary64 before it was timed. Weights of other widths are other models: only those no narrower stand beside an operation above.',
    ],
    groups: distinct(peers.map(titleOf)).map((title) => ({
      title,
      rows: peers
        .filter((row) => titleOf(row) === title)
        .map(({ peer, mode, weights: as, us, share }) => ({
          head: peer,
          sub: `${WEIGHTS[as] ?? as} weights, ${mode}`,
          cells: [timeCell(us), shareCell(share)],
        })),
    })),
  });
}

/** Reasons why peers were left out, each once, with what it kept out: peer, matrix, rows of a step, mode, as far as the run says. */
export function leftOutOf({ leftOut }: KernelBench): { readonly why: string; readonly what: readonly string[] }[] {
  const named = (row: Readonly<Record<string, unknown>>): string => {
    const on = typeof row.matrix === 'string' ? `on ${nameOf(row.matrix)}` : undefined;
    const rows = typeof row.m === 'number' ? `${row.m} ${row.m === 1 ? 'row' : 'rows'}` : undefined;
    return [row.peer, on, rows, row.mode].filter((word) => typeof word === 'string').join(' ');
  };
  return distinct(leftOut.map(({ why }) => why)).map((why) => ({
    why,
    what: distinct(leftOut.filter((row) => row.why === why).map((row) => named(row))).filter((name) => name !== ''),
  }));
}
