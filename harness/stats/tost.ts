/**
 * Two one-sided tests (Schuirmann 1987): equivalent within (-margin, margin) at level alpha iff the two-sided interval of level
 * 1 - 2 alpha lies inside. Different iff it lies outside altogether. Everything else is not decided, whatever the point estimate.
 */
export type Equivalence = 'equivalent' | 'different' | 'inconclusive';

export const TOST_ALPHA = 0.05;

/** Level of the interval that the test needs. */
export const TOST_LEVEL = 1 - 2 * TOST_ALPHA;

/** `margin` > 0. A null interval (too few clusters) decides nothing. */
export function tost(interval: { readonly low: number; readonly high: number } | null, margin: number): Equivalence {
  if (interval === null || !(interval.low <= interval.high)) return 'inconclusive';
  const { low, high } = interval;
  if (low > -margin && high < margin) return 'equivalent';
  return low >= margin || high <= -margin ? 'different' : 'inconclusive';
}
