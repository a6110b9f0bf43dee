/** Intervals and bounds for a share of counted things. */
import { logGamma } from './chisquare.ts';

/**
 * Exact (Clopper-Pearson) one-sided upper bound on a rate after n > 0 trials without an event: the rate that would have
 * shown no event with probability 1 - confidence.
 */
export function upperBoundWithoutEvent(n: number, confidence: number): number {
  return -Math.expm1(Math.log(1 - confidence) / n);
}

/** Exact (Clopper-Pearson 1934) interval, two-sided at `level`, for `hits` of `n`; 0 .. 1 without a trial. */
export function clopperPearson(
  hits: number,
  n: number,
  level: number,
): { readonly low: number; readonly high: number } {
  const tail = (1 - level) / 2;
  const low = hits === 0 ? 0 : rising((share) => atLeast(hits, n, share) - tail);
  const high = hits === n ? 1 : rising((share) => tail - (1 - atLeast(hits + 1, n, share)));
  return { low, high };
}

/** P(X >= hits) of a binomial. */
function atLeast(hits: number, n: number, share: number): number {
  let sum = 0;
  for (let k = hits; k <= n; k++) {
    const ways = logGamma(n + 1) - logGamma(k + 1) - logGamma(n - k + 1);
    sum += Math.exp(ways + k * Math.log(share) + (n - k) * Math.log1p(-share));
  }
  return Math.min(1, sum);
}

/** Root in (0, 1) of an increasing function. */
function rising(f: (share: number) => number): number {
  let low = 0;
  let high = 1;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (f(middle) < 0) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}
