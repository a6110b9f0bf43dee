/** Intervals and bounds for a share of counted things. */
import { normalQuantile } from './chisquare.ts';

/** Wilson score interval (Wilson 1927), two-sided at `level`, for `hits` of `n` > 0. */
export function wilson(hits: number, n: number, level: number): { readonly low: number; readonly high: number } {
  const z = normalQuantile(1 - (1 - level) / 2);
  const share = hits / n;
  const denominator = 1 + (z * z) / n;
  const centre = (share + (z * z) / (2 * n)) / denominator;
  const half = (z / denominator) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return { low: hits === 0 ? 0 : Math.max(0, centre - half), high: hits === n ? 1 : Math.min(1, centre + half) };
}

/**
 * Exact (Clopper-Pearson) one-sided upper bound on a rate after n > 0 trials without an event: the rate that would have
 * shown no event with probability 1 - confidence.
 */
export function upperBoundWithoutEvent(n: number, confidence: number): number {
  return -Math.expm1(Math.log(1 - confidence) / n);
}
