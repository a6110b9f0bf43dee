/** A kernel bench as tables of cells: what the command prints. Numbers are rounded here and nowhere else. */
import type { BenchKernels, Figures, Summary } from './kernels-schema.ts';

export interface Section {
  readonly title: string;
  /** The first row holds the headings. */
  readonly rows: readonly (readonly string[])[];
  /** Columns of numbers. */
  readonly right: readonly number[];
}

const us = (value: number): string => value.toFixed(value < 10 ? 2 : 1);
const spread = ({ least, most }: Summary): string => `${us(least)}..${us(most)}`;
const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;
const mb = (bytes: number): string => (bytes / 1e6).toFixed(1);
const rounded = (value: number): string => value.toFixed(0);

export function sections({ figures, raw }: BenchKernels): Section[] {
  return [reads(figures), floors(figures), ...operations(figures), ...layers(figures, raw), ...peers(figures)];
}

function reads({ reads: rates, ceiling }: Figures): Section {
  const pages = [...new Set(rates.map(({ pageBytes }) => pageBytes))];
  const rings = [...new Set(rates.map(({ ringKib }) => ringKib))];
  const cell = (ring: number, page: number): string => {
    const rate = rates.find(({ ringKib, pageBytes }) => ringKib === ring && pageBytes === page);
    return rate === undefined ? '-' : rounded(rate.gbPerS);
  };
  return {
    title: `Read rate, GB/s; ceiling ${rounded(ceiling.gbPerS)} (ring ${ceiling.ringKib} KB, pages of ${ceiling.pageBytes} bytes)`,
    rows: [
      ['ring KB', ...pages.map((page) => `page ${page}`)],
      ...rings.map((ring) => [String(ring), ...pages.map((page) => cell(ring, page))]),
    ],
    right: [0, ...pages.map((_, column) => column + 1)],
  };
}

function floors({ barrierUs, hops, launchUs, graphNodeUs }: Figures): Section {
  const hop = (name: string, { medianUs, bestUs, worstUs }: Figures['hops']['flag']): string[] => [
    name,
    us(medianUs),
    `${us(bestUs)}..${us(worstUs)}`,
  ];
  const floor = (name: string, times: Summary): string[] => [name, us(times.median), spread(times)];
  return {
    title: 'Floors, us; hops one way, over all partners',
    rows: [
      ['', 'median', 'least..most'],
      floor('barrier of all blocks', barrierUs),
      hop('hop: a flag', hops.flag),
      hop('hop: 512 bytes, then a flag', hops.flagged),
      hop('hop: 512 bytes that are their own flags', hops.carried),
      floor('launch of an empty kernel', launchUs),
      floor('node of a CUDA graph', graphNodeUs),
    ],
    right: [1, 2],
  };
}

function operations({ operations: rows, peers }: Figures): Section[] {
  if (rows.length === 0) return [];
  const beside = peers.length > 0 ? ['fastest peer', 'its us', 'its time over ours'] : [];
  return [
    {
      title: 'Operations of the stack inside one launch',
      rows: [
        ['op', 'weights', 'm', 'experts', 'calls', 'MB', 'us', 'least..most', 'GB/s', 'of ceiling', ...beside],
        ...rows.map((row) => [
          row.op,
          row.weights,
          String(row.m),
          row.experts === null ? '' : String(row.experts),
          row.choice == null ? row.arrangement : `${row.arrangement}, choice ${row.choice}`,
          mb(row.bytes),
          us(row.us.median),
          spread(row.us),
          rounded(row.gbPerS),
          percent(row.share),
          ...(beside.length === 0
            ? []
            : row.peer === null
              ? ['-', '', '']
              : [`${row.peer.peer}, ${row.peer.mode}`, us(row.peer.us), row.peer.ratio.toFixed(2)]),
        ]),
      ],
      right: [2, 3, 5, 6, 7, 8, 9, 11, 12],
    },
  ];
}

function layers({ layers: rows }: Figures, raw: BenchKernels['raw']): Section[] {
  if (raw.layers === null) return [];
  return [
    {
      title: `One layer of one rank of eight, all operations (rounds of ${raw.layers.many} layers less rounds of ${raw.layers.few}; synthetic weights)`,
      rows: [
        ['m', 'experts', 'MB', 'us', 'GB/s', 'of ceiling', 'times its bytes'],
        ...rows.map((row) => [
          String(row.m),
          row.experts.toFixed(1),
          mb(row.bytes),
          us(row.us),
          rounded(row.gbPerS),
          percent(row.share),
          row.timesItsBytes.toFixed(2),
        ]),
      ],
      right: [0, 1, 2, 3, 4, 5, 6],
    },
  ];
}

function peers({ peers: rows }: Figures): Section[] {
  if (rows.length === 0) return [];
  return [
    {
      title: 'Peers on the same matrices',
      rows: [
        ['matrix', 'm', 'experts', 'weights', 'us', 'least..most', 'GB/s', 'of ceiling', 'peer'],
        ...rows.map((row) => [
          row.matrix,
          String(row.m),
          row.experts === null ? '' : String(row.experts),
          row.weights,
          us(row.us.median),
          spread(row.us),
          rounded(row.gbPerS),
          percent(row.share),
          `${row.peer}, ${row.mode}`,
        ]),
      ],
      right: [1, 2, 4, 5, 6, 7],
    },
  ];
}
