/**
 * The all-reduce inside the kernel alone: rows of what a machine measured, whether they add up, and figures from them. A call's time is
 * its cycles by what a cycle lasted on the GPU's common clock during that launch: us_i = cycles_i x span / sum of cycles.
 */
import { quantile } from '../../measure/percentile.ts';
import { mean, median, total } from '../../stats/averages.ts';
import { expectedDigest } from './collectives-oracle.ts';
import { overRepeats, told, untold } from './figures.ts';
import type { CollectiveSamples } from './machine.ts';
import type { StoredNodeRun } from './reader.ts';
import type { NodeCollectiveRow, NodeCollectives, NodeComparison } from './report.ts';
import type { CollectiveRow } from './rows.ts';

type Launch = Extract<CollectiveRow, { kind: 'launch' }>;
type Library = Extract<CollectiveRow, { kind: 'nccl' }>;
type Form = 'one-hop' | 'two-hops';

/** What the residual has: eight rows. */
const ROWS = 8;
const FORMS: readonly Form[] = ['one-hop', 'two-hops'];
/** How the stack decodes (Stack::make_parallel). */
export const STACK_FORM: Form = 'two-hops';
/** A cycle of any GPU that this runs on, nanoseconds; and how far the launches of one rank may lie apart. */
const CYCLE = { least: 0.3, most: 2.5, apart: 0.25 };

const NAMES: Readonly<Record<Launch['how'], string>> = { none: 'no sum', 'one-hop': 'one hop', 'two-hops': 'two hops' };
const ARRANGEMENTS: Readonly<Record<Launch['arrangement'], string>> = {
  chain: 'calls chained by their data',
  step: 'and a meeting of all blocks behind each',
  barrier: 'the meeting of all blocks alone',
};

export function collectiveRows(t_ns: number, gpus: number, samples: CollectiveSamples): CollectiveRow[] {
  const { nccl } = samples;
  const lack = (of: 'NCCL' | 'NCCL as a CUDA graph', reason: string | null): CollectiveRow[] =>
    reason === null ? [] : [{ kind: 'lack', t_ns, gpus, of, reason }];
  return [
    ...samples.sums.map((row): CollectiveRow => ({ kind: 'sums', t_ns, gpus, ...row, digests: [...row.digests] })),
    ...samples.planted.map((row): CollectiveRow => ({ kind: 'planted', t_ns, gpus, ...row })),
    ...samples.launches.map((row): CollectiveRow => ({ kind: 'launch', t_ns, gpus, ...row, cycles: [...row.cycles] })),
    ...samples.wrong.map((text): CollectiveRow => ({ kind: 'wrong', t_ns, gpus, text })),
    ...lack('NCCL', nccl.lack),
    ...lack('NCCL as a CUDA graph', nccl.graphLack),
    ...nccl.times.map(
      ({ how, rank, us }): CollectiveRow => ({
        kind: 'nccl',
        t_ns,
        gpus,
        version: nccl.version ?? 'unknown',
        how,
        rank,
        batch: nccl.batch,
        us: [...us],
      }),
    ),
  ];
}

const launchesOf = (rows: readonly CollectiveRow[], gpus: number): Launch[] =>
  rows.filter((row): row is Launch => row.kind === 'launch' && row.gpus === gpus);
/** Why there are no times, or not all. */
const lackOf = (rows: readonly CollectiveRow[], gpus: number): string | undefined =>
  rows.flatMap((row) => {
    if (row.gpus !== gpus) return [];
    if (row.kind === 'lack') return row.of === 'all' ? [row.reason] : [];
    return row.kind === 'wrong' || row.kind === 'fault' ? [row.text] : [];
  })[0];
const cycleNs = (launch: Launch): number => launch.spanNs / total(launch.cycles);

/** What does not add up, one line each: counts of ranks and launches, clocks. */
export function collectiveBooks({ plan, manifest, collectives }: StoredNodeRun): string[] {
  const broken: string[] = [];
  const planned = plan.collectives?.gpus ?? [];
  const seen = [...new Set(collectives.map(({ gpus }) => gpus))];
  for (const gpus of seen.filter((count) => !planned.includes(count)))
    broken.push(`the all-reduce alone on ${gpus} GPUs is not of the plan`);
  for (const gpus of planned) {
    const say = (text: string): void => void broken.push(`the all-reduce alone on ${gpus} GPUs: ${text}`);
    const own = collectives.filter((row) => row.gpus === gpus);
    const faulted = collectives.some((row) => row.kind === 'fault');
    if (own.length === 0 && manifest.status === 'complete' && !faulted) say('there are no rows');
    if (own.length === 0 || lackOf(own, gpus) !== undefined) continue;
    const launches = launchesOf(own, gpus);
    const kinds = new Map<string, Launch[]>();
    for (const row of launches) {
      const key = `${row.how}, ${row.arrangement}, ${row.rows} rows`;
      kinds.set(key, [...(kinds.get(key) ?? []), row]);
    }
    for (const due of ['none, barrier', ...FORMS.flatMap((form) => [`${form}, chain`, `${form}, step`])])
      if (!kinds.has(`${due}, ${ROWS} rows`)) say(`${due} was not measured`);
    for (const [key, rows] of kinds) {
      const numbers = [...new Set(rows.map(({ launch }) => launch))];
      const places = new Set(rows.map(({ launch, rank }) => `${launch}/${rank}`));
      if (places.size !== rows.length || rows.length !== numbers.length * gpus || rows.some(({ rank }) => rank >= gpus))
        say(`${key}: ${rows.length} rows of ${numbers.length} launches by ${gpus} ranks`);
      if (new Set(rows.map(({ cycles }) => cycles.length)).size > 1)
        say(`${key}: launches with other numbers of calls`);
    }
    for (let rank = 0; rank < gpus; rank++) {
      const rows = launches.filter((row) => row.rank === rank);
      if (rows.length === 0) continue;
      const middle = median(rows.map(cycleNs));
      for (const row of rows) {
        const where = `${row.how}, ${row.arrangement}, ${row.rows} rows, launch ${row.launch}, rank ${rank}`;
        const each = cycleNs(row);
        if (each < CYCLE.least || each > CYCLE.most || Math.abs(each / middle - 1) > CYCLE.apart)
          say(
            `${where}: a cycle lasts ${each.toFixed(3)} ns, ${middle.toFixed(3)} in the middle of this rank's launches`,
          );
        if (row.slowestNs < row.spanNs) say(`${where}: the slowest block was faster than block 0`);
      }
    }
    for (const form of FORMS)
      for (const data of ['random', 'cancelling'] as const)
        if (!own.some((row) => row.kind === 'sums' && row.how === form && row.data === data))
          say(`${form}, ${data} data: no sums`);
    for (const row of own)
      if (row.kind === 'sums' && row.digests.length !== gpus) say(`sums of ${row.digests.length} ranks`);
  }
  return broken;
}

/** Ranks whose sums are not the binary32 sum in the order of ranks, computed here; and how many were compared. */
export function sumDifferences({ collectives }: StoredNodeRun): {
  readonly ranks: number;
  readonly differences: string[];
} {
  let ranks = 0;
  const differences: string[] = [];
  for (const row of collectives) {
    if (row.kind === 'wrong') differences.push(`${row.gpus} GPUs, ${row.text}`);
    if (row.kind !== 'sums') continue;
    const due = expectedDigest(row, row.gpus);
    for (const [rank, digest] of row.digests.entries()) {
      ranks += 1;
      if (digest !== due)
        differences.push(
          `${row.gpus} GPUs, ${NAMES[row.how]}, ${row.data} data: rank ${rank} does not hold the binary32 sums in the order of ranks`,
        );
    }
  }
  return { ranks, differences };
}

/** Undefined where the plan has none. */
export function collectiveFigures(run: StoredNodeRun): NodeCollectives | undefined {
  const { plan, collectives } = run;
  if (plan.collectives === undefined) return undefined;
  const rows: NodeCollectiveRow[] = [];
  const exposed: NodeComparison[] = [];
  for (const gpus of plan.collectives.gpus) {
    const launches = launchesOf(collectives, gpus);
    const kinds = [...new Set(launches.map(({ how, arrangement, rows: of }) => `${how}/${arrangement}/${of}`))];
    for (const kind of kinds) {
      const own = launches.filter((row) => `${row.how}/${row.arrangement}/${row.rows}` === kind);
      const [first] = own;
      rows.push({
        id: `collectives/${gpus}/${kind}`,
        gpus,
        how: NAMES[first!.how],
        arrangement: ARRANGEMENTS[first!.arrangement],
        rows: first!.rows,
        launches: new Set(own.map(({ launch }) => launch)).size,
        ...timesOf(own.map(({ rank, ...row }) => ({ rank, us: microseconds({ rank, ...row }) }))),
        slowestUs: Math.max(...own.map((row) => row.slowestNs / 1e3 / row.cycles.length)),
        clockMhz: [...new Set(own.map(({ rank }) => rank))].map((rank) => {
          const mine = own.filter((row) => row.rank === rank);
          return (1e3 * total(mine.flatMap(({ cycles }) => cycles))) / total(mine.map(({ spanNs }) => spanNs));
        }),
      });
    }
    const library = collectives.filter((row): row is Library => row.kind === 'nccl' && row.gpus === gpus);
    for (const how of ['eager', 'graph'] as const) {
      const own = library.filter((row) => row.how === how);
      if (own.length === 0) continue;
      const name = how === 'eager' ? 'one behind the other in a stream' : 'as a CUDA graph';
      rows.push({
        id: `collectives/${gpus}/nccl-${how}/${ROWS}`,
        gpus,
        how: `NCCL ${own[0]!.version}`,
        arrangement: `${name}, means of ${own[0]!.batch} calls`,
        rows: ROWS,
        launches: own[0]!.us.length,
        ...timesOf(own),
        slowestUs: null,
        clockMhz: [],
      });
    }
    for (const form of FORMS) exposed.push(exposedOf(run, gpus, form), againstLibrary(run, gpus, form));
  }
  const lacks = collectives.flatMap((row) => {
    if (row.kind === 'lack') return [{ gpus: row.gpus, what: row.of, reason: row.reason }];
    return row.kind === 'wrong' || row.kind === 'fault' ? [{ gpus: row.gpus, what: 'all', reason: row.text }] : [];
  });
  return { rows, exposed, lacks };
}

function microseconds(launch: Launch): number[] {
  const us = cycleNs(launch) / 1e3;
  return launch.cycles.map((cycles) => cycles * us);
}

/** Of the rank whose median is longest. */
function timesOf(
  samples: readonly { readonly rank: number; readonly us: readonly number[] }[],
): Pick<NodeCollectiveRow, 'samples' | 'medianUs' | 'p5Us' | 'p95Us' | 'meanUs' | 'rankMediansUs'> {
  const ranks = [...new Set(samples.map(({ rank }) => rank))].sort((a, b) => a - b);
  const of = ranks.map((rank) =>
    Float64Array.from(samples.filter((row) => row.rank === rank).flatMap(({ us }) => us)).sort(),
  );
  const rankMediansUs = of.map((sorted) => median([...sorted]));
  const worst = of[rankMediansUs.indexOf(Math.max(...rankMediansUs))]!;
  return {
    samples: worst.length,
    medianUs: Math.max(...rankMediansUs),
    p5Us: quantile(worst, 0.05),
    p95Us: quantile(worst, 0.95),
    meanUs: worst.reduce((sum, us) => sum + us, 0) / worst.length,
    rankMediansUs,
  };
}

/** Microseconds by launch that a call adds to what depends on it; empty where they were not measured. */
function exposedByLaunch({ collectives }: StoredNodeRun, gpus: number, form: Form): number[] {
  const rows = launchesOf(collectives, gpus).filter((row) => row.rows === ROWS);
  const middle = (row: Launch): number => median(microseconds(row));
  const of = (how: Launch['how'], arrangement: Launch['arrangement'], rank: number): Launch[] =>
    rows.filter((row) => row.how === how && row.arrangement === arrangement && row.rank === rank);
  const numbers = [...new Set(rows.filter(({ how }) => how === form).map(({ launch }) => launch))];
  return numbers.map((number) => {
    const ranks = Array.from({ length: gpus }, (_, rank) => {
      const [chain] = of(form, 'chain', rank).filter(({ launch }) => launch === number);
      const [step] = of(form, 'step', rank).filter(({ launch }) => launch === number);
      const meeting = of('none', 'barrier', rank);
      if (chain === undefined || step === undefined || meeting.length === 0) return Number.NaN;
      return Math.max(middle(chain), middle(step) - median(meeting.map(middle)));
    });
    return Math.max(...ranks);
  });
}

const labelsOf = (gpus: number): string[] => (gpus < 8 ? [`${gpus} of 8 GPUs`] : []);
function exposedOf(run: StoredNodeRun, gpus: number, form: Form): NodeComparison {
  const values = exposedByLaunch(run, gpus, form).filter(Number.isFinite);
  const lack = lackOf(run.collectives, gpus) ?? 'it was not measured';
  return {
    id: `exposed-${gpus}-${form}`,
    name: `Exposed, 8 x 6144, ${NAMES[form]}, ${gpus} GPUs`,
    formula:
      'median of a chained call, or that of a call with a meeting behind it less the meeting alone, whichever is longer; of the slowest rank, mean over launches',
    labels: labelsOf(gpus),
    figure:
      values.length === 0
        ? untold(lack)
        : told(mean(values), 'us', values.length, 'launches', overRepeats(mean(values), values, 'launches')),
  };
}

function againstLibrary(run: StoredNodeRun, gpus: number, form: Form): NodeComparison {
  const values = exposedByLaunch(run, gpus, form).filter(Number.isFinite);
  const library = run.collectives.filter((row): row is Library => row.kind === 'nccl' && row.gpus === gpus);
  const graph = library.filter(({ how }) => how === 'graph');
  const best = graph.length > 0 ? graph : library;
  const lack = run.collectives.flatMap((row) =>
    row.kind === 'lack' && row.gpus === gpus && row.of !== 'NCCL as a CUDA graph' ? [row.reason] : [],
  )[0];
  return {
    id: `nccl-${gpus}-${form}`,
    name: `NCCL ${graph.length > 0 || best.length === 0 ? 'as a CUDA graph' : 'in a stream'} against ${NAMES[form]}, ${gpus} GPUs`,
    formula: 'median time of a call of NCCL, of its slowest rank, over the exposed time above',
    labels: labelsOf(gpus),
    figure:
      values.length === 0 || best.length === 0
        ? untold(lack ?? 'it was not measured')
        : told(Math.max(...best.map(({ us }) => median(us))) / mean(values), 'x', values.length, 'launches'),
  };
}
