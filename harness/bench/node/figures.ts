/**
 * Figures of one cell from its timed generations. Of a generation only the rounds behind the prefill count. Notation: N tokens kept by
 * those rounds, R rounds, W the harness's clock around them, d_j and v_j the device's clock over draft and verification of round j.
 *
 * A generation is one repeat; what varies between repeats (clocks, neighbours, the draws of the corruption) is seen by Student's t over
 * them, what varies within by a bootstrap over stretches of rounds. Both together make the interval, as in measure/interval.ts.
 */
import { between, spreadKnown, widened } from '../../measure/interval.ts';
import { percentile } from '../../measure/percentile.ts';
import { energyOver } from '../../measure/power.ts';
import { repeatedTokens } from '../../measure/repetition.ts';
import type { Interval, Measured } from '../../report/schema.ts';
import { total } from '../../stats/averages.ts';
import { bcaInterval } from '../../stats/bootstrap.ts';
import type { PlanCell, PlanModel } from './plan.ts';
import type { Generation, StoredNodeRun } from './reader.ts';
import type { NodeFigure } from './report.ts';
import { type StepBytes, stepBytes } from './shape.ts';

export const LEVEL = 0.95;
/** Rounds of a stretch that a bootstrap moves as one. */
const STRETCH = 16;
const RESAMPLES = 1000;

export function untold(reason: string): Measured {
  return { state: 'not yet measured', reason };
}

export function told(value: number, unit: string, n: number, of: string, interval: Interval | null = null): Measured {
  return { state: 'measured', value, unit, interval, n, of, warnings: [] };
}

/** What a cell's generations add up to. */
export interface CellSums {
  readonly generations: readonly Generation[];
  readonly tokens: number;
  readonly rounds: number;
  /** Seconds by the harness's clock, and by the device's. */
  readonly wall: number;
  readonly device: number;
  readonly draft: number;
  readonly tokensPerSecond: number;
  /** Mean by the harness's clock, seconds. */
  readonly step: number;
  /** Mean of a mixture layer; NaN where the engine does not say. */
  readonly distinct: number;
  readonly bytes: StepBytes;
}

/** Rounds behind the prefill. */
function decoded(generation: Generation): Generation['rounds'] {
  return generation.rounds.slice(1);
}

const seconds = (generation: Generation): number => generation.row.decodeNs / 1e9;
const kept = (generation: Generation): number => total(decoded(generation).map((round) => round.c.length));
const rate = (generation: Generation): number => kept(generation) / seconds(generation);
const stepOf = (generation: Generation): number => seconds(generation) / decoded(generation).length;

/** Null when no timed generation of the cell counts. */
export function cellSums(cell: PlanCell, model: PlanModel, generations: readonly Generation[]): CellSums | null {
  const good = generations.filter(({ row, rounds }) => row.fault === null && rounds.length > 1);
  if (good.length === 0) return null;
  const rounds = good.flatMap(decoded);
  const wall = total(good.map(seconds));
  const tokens = total(good.map(kept));
  const touched = rounds.flatMap((round) => round.e);
  const distinct = touched.length === 0 ? Number.NaN : total(touched) / touched.length;
  const context = cell.context + cell.tokens / 2;
  return {
    generations: good,
    tokens,
    rounds: rounds.length,
    wall,
    device: total(rounds.map((round) => round.ns[0] + round.ns[1])) / 1e9,
    draft: total(rounds.map((round) => round.ns[0])) / 1e9,
    tokensPerSecond: tokens / wall,
    step: wall / rounds.length,
    distinct,
    bytes: stepBytes({
      layers: model.layers,
      experts: model.experts,
      speculation: cell.block > 1,
      distinct: Number.isNaN(distinct) ? 0 : distinct,
      context,
    }),
  };
}

/** Null where the spread is so wide that an end is no number. */
export function interval(low: number, high: number, method: string): Interval | null {
  return Number.isFinite(low) && Number.isFinite(high) ? { low, high, level: LEVEL, method } : null;
}

/** Of a mean over repeats, by their spread; null below three of them. */
export function overRepeats(value: number, values: readonly number[], of = 'repeats'): Interval | null {
  const spread = between(values);
  if (!spreadKnown(spread)) return null;
  const { low, high } = widened(value, { low: value, high: value }, 1, spread, LEVEL);
  return interval(low, high, `Student's t over ${values.length} ${of}`);
}

function speedInterval(sums: CellSums, seed: string): Interval | null {
  const spread = between(sums.generations.map(rate));
  if (!spreadKnown(spread)) return null;
  const tokens: number[] = [];
  const times: number[] = [];
  for (const generation of sums.generations) {
    const rounds = decoded(generation);
    const device = total(rounds.map((round) => round.ns[0] + round.ns[1]));
    for (let from = 0; from < rounds.length; from += STRETCH) {
      const stretch = rounds.slice(from, from + STRETCH);
      tokens.push(total(stretch.map((round) => round.c.length)));
      // The harness's clock, shared out by the device's.
      const share =
        device === 0 ? stretch.length / rounds.length : total(stretch.map((r) => r.ns[0] + r.ns[1])) / device;
      times.push(seconds(generation) * share);
    }
  }
  const statistic = (indices: ArrayLike<number>): number => {
    let top = 0;
    let bottom = 0;
    for (let i = 0; i < indices.length; i++) {
      top += tokens[indices[i]!]!;
      bottom += times[indices[i]!]!;
    }
    return top / bottom;
  };
  const ends = bcaInterval(tokens.length, statistic, { resamples: RESAMPLES, level: LEVEL, seed });
  if (ends === null) return null;
  const { low, high } = widened(sums.tokensPerSecond, ends, tokens.length - 1, spread, LEVEL);
  const method = `BCa bootstrap over stretches of ${STRETCH} rounds, ${RESAMPLES} resamples, seed ${seed}; widened by the spread of ${sums.generations.length} repeats (Student's t)`;
  return interval(low, high, method);
}

/** Bytes a second of all GPUs of a cell together, as the slowest of them reads; null when no floor was measured. */
export function readCeiling(run: StoredNodeRun, gpus: number): number | null {
  const row = run.floors.find((floor) => floor.kind === 'read');
  return row === undefined ? null : gpus * Math.min(...row.bytesPerSecond.slice(0, gpus));
}

const NO_CEILING = 'no read ceiling was measured in this run';

export function cellFigures(run: StoredNodeRun, cell: PlanCell, model: PlanModel, sums: CellSums): NodeFigure[] {
  const { generations, rounds, step } = sums;
  const seed = run.plan.input.seed;
  const every = generations.flatMap(decoded);
  const sorted = (of: (round: (typeof every)[number]) => number): Float64Array =>
    Float64Array.from(every.map(of)).sort();
  const device = sorted((round) => (round.ns[0] + round.ns[1]) / 1e6);
  const quantile = (p: number): Measured => {
    const found = percentile(device, p, LEVEL);
    return found === null
      ? untold(`too few rounds for it: ${rounds}`)
      : told(found.value, 'ms', rounds, 'rounds', interval(found.low, found.high, 'order statistics of the rounds'));
  };
  const ceiling = readCeiling(run, model.gpus);
  const share = ceiling === null ? null : sums.bytes.total / step / ceiling;
  const figures: NodeFigure[] = [
    {
      id: 'tokens-per-second',
      name: 'Tokens per second',
      formula: 'sum of N over sum of W',
      figure: told(sums.tokensPerSecond, 'tokens/s', generations.length, 'repeats', speedInterval(sums, seed)),
    },
    {
      id: 'step',
      name: 'Step time, mean',
      formula: 'sum of W over sum of R',
      figure: told(
        step * 1e3,
        'ms',
        generations.length,
        'repeats',
        overRepeats(
          step * 1e3,
          generations.map((generation) => stepOf(generation) * 1e3),
        ),
      ),
    },
    ...([50, 90, 99] as const).map((p) => ({
      id: `step-p${p}`,
      name: `Step time, ${p === 50 ? 'median' : `${p}th percentile`}`,
      formula: 'of d_j + v_j',
      figure: quantile(p / 100),
    })),
    {
      id: 'draft-share',
      name: 'Share of the draft in the step',
      formula: 'sum of d_j over sum of d_j + v_j',
      figure: told(sums.device === 0 ? 0 : sums.draft / sums.device, '', rounds, 'rounds'),
    },
    {
      id: 'acceptance',
      name: 'Acceptance length, realised',
      formula: 'mean of accepted drafts + 1, the last round of a repeat left out',
      figure: acceptanceFigure(generations),
    },
    {
      id: 'distinct-experts',
      name: 'Distinct experts a layer',
      formula: 'mean over rounds and mixture layers',
      figure: Number.isNaN(sums.distinct)
        ? untold('the engine does not say')
        : told(sums.distinct, 'experts', rounds, 'rounds'),
    },
    {
      id: 'step-bytes',
      name: 'Bytes a step must read, whole node',
      formula: 'fixed weights + draft + distinct experts x bytes of one + keys and values; each weight once',
      figure: Number.isNaN(sums.distinct)
        ? untold('the engine does not say how many experts it touched')
        : told(sums.bytes.total / 1e9, 'GB', rounds, 'rounds'),
    },
    {
      id: 'ceiling-share',
      name: 'Share of the measured read ceiling',
      formula: 'bytes a step / mean step time / (GPUs x read rate of the slowest)',
      figure:
        share === null || Number.isNaN(sums.distinct)
          ? untold(share === null ? NO_CEILING : 'the engine does not say how many experts it touched')
          : told(share, '', rounds, 'rounds'),
    },
    {
      id: 'repeated',
      name: 'Share of the output inside a verbatim loop',
      formula: 'tokens in stretches that repeat three times or more, over all tokens of the first repeat',
      figure: told(repeatedShare(generations[0]!), '', generations[0]!.row.tokens, 'tokens'),
    },
    {
      id: 'energy',
      name: 'Energy a token',
      formula: 'joules of the GPUs used over W, over N',
      figure: energyFigure(run, model, sums),
    },
  ];
  return cell.block === 1 ? figures.filter(({ id }) => id !== 'acceptance' && id !== 'draft-share') : figures;
}

function acceptanceFigure(generations: readonly Generation[]): Measured {
  const means = generations.flatMap((generation) => {
    const rounds = decoded(generation).slice(0, -1);
    return rounds.length === 0 ? [] : [{ total: total(rounds.map((round) => round.a + 1)), rounds: rounds.length }];
  });
  const rounds = total(means.map((mean) => mean.rounds));
  if (rounds === 0) return untold('one round a repeat');
  const value = total(means.map((mean) => mean.total)) / rounds;
  const ends = overRepeats(
    value,
    means.map((mean) => mean.total / mean.rounds),
  );
  return told(value, 'tokens/step', rounds, 'rounds', ends);
}

function repeatedShare(generation: Generation): number {
  const tokens = generation.rounds.flatMap((round) => round.c);
  return repeatedTokens(tokens) / tokens.length;
}

/** When the rounds behind the prefill ran, on the run's clock. */
export function stretchOf({ row }: Generation): { startNs: number; endNs: number } {
  const startNs = row.t_ns + row.prefillNs;
  return { startNs, endNs: startNs + row.decodeNs };
}

function energyFigure(run: StoredNodeRun, model: PlanModel, sums: CellSums): Measured {
  const used = run.telemetry.filter((row) => row.source === 'nvidia-smi' && Number(row.device ?? 'none') < model.gpus);
  const energy = energyOver(used, sums.generations.map(stretchOf));
  if (energy === null) return untold('no sensor of power covers the repeats');
  return told(energy.joules / sums.tokens, 'J', sums.generations.length, 'repeats');
}
