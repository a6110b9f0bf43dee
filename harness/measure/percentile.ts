/** Percentiles with intervals by order statistics (David and Nagaraja 2003, Order Statistics, section 7.1). */
import { normalQuantile } from '../stats/chisquare.ts';

/** Observations a percentile beyond the 95th asks for. */
const LEAST_FOR_TAIL = 1000;

export interface Percentile {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/**
 * The p-quantile (0 < p < 1) of ascending values, and a two-sided interval at `level` between two order statistics, by the
 * binomial law of how many observations lie below the quantile. Null where there are too few: 1,000 beyond p = 0.95, and
 * otherwise enough that the interval does not run off the sample.
 */
export function percentile(sorted: ArrayLike<number>, p: number, level: number): Percentile | null {
  const n = sorted.length;
  if (p > 0.95 && n < LEAST_FOR_TAIL) return null;
  const z = normalQuantile(1 - (1 - level) / 2);
  const spread = z * Math.sqrt(n * p * (1 - p));
  // Ranks count from 1; the continuity correction makes the interval no shorter than the binomial one.
  const low = Math.floor(n * p - spread);
  const high = Math.ceil(n * p + spread) + 1;
  if (low < 1 || high > n) return null;
  return { value: quantile(sorted, p), low: sorted[low - 1]!, high: sorted[high - 1]! };
}

/** The smallest value with at least the share p of all at or below it; NaN of none. */
export function quantile(sorted: ArrayLike<number>, p: number): number {
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * p) - 1))] ?? Number.NaN;
}
