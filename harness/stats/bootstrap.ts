/**
 * Bias-corrected and accelerated bootstrap (Efron 1987, "Better bootstrap confidence intervals") over clusters. A
 * cluster is a prompt: tokens and rounds of one prompt are correlated and never resampled apart.
 */
import { quantileSorted } from 'simple-statistics';
import { normalCdf, normalQuantile } from './chisquare.ts';
import { Random } from './philox.ts';

export interface BootstrapOptions {
  readonly resamples: number;
  readonly level: number;
  readonly seed: string;
}

const DEFAULT_BOOTSTRAP: BootstrapOptions = { resamples: 2000, level: 0.95, seed: '1' };

/** A statistic of a multiset of clusters, given as indices into the sample. May be NaN when it is undefined there. */
export type ClusterStatistic = (indices: ArrayLike<number>) => number;

/** Stream of the seed that resampling draws from. */
const STREAM = 0xb007;
/** How many uniforms are kept at most; even, because a counter gives two. 8 MiB. */
const KEPT = 2 ** 20;

/**
 * The uniforms of a seed in their order. Every interval of a report is resampled from the same seed, so what one has drawn is kept for the
 * next: made once, they are the larger part of the time.
 */
class Uniforms {
  readonly seed: string;
  readonly #random: Random;
  #values = new Float64Array(0);

  constructor(seed: string) {
    this.seed = seed;
    this.#random = new Random(seed, STREAM);
  }

  /** The first `count` of them, or the first KEPT. */
  first(count: number): Float64Array {
    const had = this.#values.length;
    if (had < Math.min(count, KEPT)) {
      const values = new Float64Array(Math.min(KEPT, Math.max(count, 2 * had)));
      values.set(this.#values);
      for (let i = had; i < values.length; i++) values[i] = this.#random.uniform();
      this.#values = values;
    }
    return this.#values;
  }
}

let uniforms = new Uniforms(DEFAULT_BOOTSTRAP.seed);

/** Two-sided BCa interval of `statistic` over `clusters` >= 2 clusters; null when it is undefined on the sample. */
export function bcaInterval(
  clusters: number,
  statistic: ClusterStatistic,
  options: BootstrapOptions = DEFAULT_BOOTSTRAP,
): { readonly low: number; readonly high: number } | null {
  if (clusters < 2) return null;
  const all = Uint32Array.from({ length: clusters }, (_, i) => i);
  const observed = statistic(all);
  if (!Number.isFinite(observed)) return null;

  if (uniforms.seed !== options.seed) uniforms = new Uniforms(options.seed);
  const kept = uniforms.first(options.resamples * clusters);
  const more = new Random(options.seed, STREAM, KEPT / 2);
  let next = 0;
  const values = new Float64Array(options.resamples);
  let finite = 0;
  const indices = new Uint32Array(clusters);
  for (let b = 0; b < options.resamples; b++) {
    for (let i = 0; i < clusters; i++) {
      const uniform = next < KEPT ? kept[next++]! : more.uniform();
      indices[i] = Math.floor(uniform * clusters);
    }
    const value = statistic(indices);
    if (Number.isFinite(value)) values[finite++] = value;
  }
  if (finite < options.resamples / 2) return null;
  const draws = values.subarray(0, finite).sort();
  if (draws[0] === draws[draws.length - 1]) return { low: draws[0]!, high: draws[0]! };

  // Ties with the observed value count half, so a lattice statistic is not pushed to one side.
  let below = 0;
  for (const value of draws) below += value < observed ? 1 : value === observed ? 0.5 : 0;
  const share = Math.min(Math.max(below / draws.length, 0.5 / draws.length), 1 - 0.5 / draws.length);
  const bias = normalQuantile(share);
  const acceleration = jackknifeAcceleration(clusters, statistic);

  const at = (p: number): number => {
    const z = bias + normalQuantile(p);
    const adjusted = normalCdf(bias + z / (1 - acceleration * z));
    return quantileSorted(draws as ArrayLike<number> as number[], Math.min(1, Math.max(0, adjusted)));
  };
  const tail = (1 - options.level) / 2;
  return { low: at(tail), high: at(1 - tail) };
}

function jackknifeAcceleration(clusters: number, statistic: ClusterStatistic): number {
  const leaveOneOut: number[] = [];
  const rest = new Uint32Array(clusters - 1);
  for (let omitted = 0; omitted < clusters; omitted++) {
    for (let i = 0; i < clusters - 1; i++) rest[i] = i < omitted ? i : i + 1;
    const value = statistic(rest);
    if (Number.isFinite(value)) leaveOneOut.push(value);
  }
  const centre = leaveOneOut.reduce((a, b) => a + b, 0) / leaveOneOut.length;
  let squares = 0;
  let cubes = 0;
  for (const value of leaveOneOut) {
    const d = centre - value;
    squares += d * d;
    cubes += d * d * d;
  }
  return squares === 0 ? 0 : cubes / (6 * squares ** 1.5);
}

/** The statistic sum(numerator) / sum(denominator). */
export function ratioOfSums(numerator: ArrayLike<number>, denominator: ArrayLike<number>): ClusterStatistic {
  return (indices) => {
    let top = 0;
    let bottom = 0;
    for (let i = 0; i < indices.length; i++) {
      top += numerator[indices[i]!]!;
      bottom += denominator[indices[i]!]!;
    }
    return top / bottom;
  };
}

/** The statistic mean(values). */
export function meanOf(values: ArrayLike<number>): ClusterStatistic {
  return (indices) => {
    let sum = 0;
    for (let i = 0; i < indices.length; i++) sum += values[indices[i]!]!;
    return sum / indices.length;
  };
}
