/**
 * Greedy outputs of different numerics part where two tokens are nearly alike. Where they part first, the gap of the baseline
 * between its token and the other one is compared with how far the numerics move such gaps on texts that both were forced along.
 * A parting at a larger gap is no rounding; and too many partings at small gaps are none either, however benign each looks.
 */
import { quantileSorted } from 'simple-statistics';
import { poissonTail } from './counters.ts';

/** A share of forced gaps moves by more than the bound that calls a parting a near tie. */
const SHARE = 1e-4;
/** A number of partings this unlikely is not explained by rounding. */
const COUNT_LEVEL = 1e-3;

export interface Parting {
  readonly where: string;
  /** log p of the baseline's token less that of the other engine's token, by the baseline; 0 or more. */
  readonly gap: number;
}

export interface NearTies {
  /** Largest gap that is called a near tie: the 1 - 1e-4 quantile of the moves, or the largest of fewer than 10,000. */
  readonly bound: number;
  readonly beyond: readonly Parting[];
  /** Partings that rounding alone would bring in expectation, and the chance of as many as were met. */
  readonly expected: number;
  readonly chance: number;
  readonly tooMany: boolean;
}

/**
 * @param moves how far each forced gap was moved by the other numerics, from texts that are not those of `partings`; not empty
 * @param gaps of the baseline between its two likeliest tokens, one for each greedy token compared; without them the count is
 *   not judged
 */
export function nearTies(
  partings: readonly Parting[],
  moves: readonly number[],
  gaps: readonly number[] | null,
): NearTies {
  const sorted = moves.map(Math.abs).sort((a, b) => a - b);
  const bound = quantileSorted(sorted, 1 - SHARE);
  const beyond = partings.filter(({ gap }) => !(gap <= bound));
  // A gap is crossed by a move that is larger and of the right sign.
  const expected = gaps === null ? Number.NaN : gaps.reduce((sum, gap) => sum + shareAbove(sorted, gap) / 2, 0);
  const chance = gaps === null ? Number.NaN : poissonTail(partings.length, expected);
  return { bound, beyond, expected, chance, tooMany: chance < COUNT_LEVEL };
}

/** Share of the sorted values that are above `x`. */
function shareAbove(sorted: readonly number[], x: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! > x) high = middle;
    else low = middle + 1;
  }
  return (sorted.length - low) / sorted.length;
}
