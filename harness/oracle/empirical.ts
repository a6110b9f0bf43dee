/**
 * Counts of what sessions emitted, held against a law that is known exactly: two tests with a stated false alarm rate.
 *
 *   e-value   laws drawn from Dirichlet(c p), an equal mixture of the concentrations c = 10, ..., 10^6, in place of the law p, divided
 *             by it. Its mean under the law is 1, so P(e >= 1 / alpha) <= alpha at any number of sessions (Markov). Ramdas,
 *             Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference", 2023.
 *   Pearson   sum of (count - expected)^2 / expected, cells expected below 5 merged into one; its p-value is that of the
 *             limiting chi-square. More power with many cells, and a smallest effect that can be said beforehand.
 *
 * What the law cannot emit refutes it alone, in both.
 */
import { chiSquareSurvival, detectableNoncentrality, logGamma } from '../stats/chisquare.ts';

/** Chance that a correct sampler is called wrong, a test. */
export const EMPIRICAL_ALPHA = 1e-6;
/** Chance that the smallest effect said to be caught is caught. */
export const EMPIRICAL_POWER = 0.999;
const LEAST_EXPECTED = 5;
/** The larger, the nearer to the law the alternatives lie. */
const CONCENTRATIONS: readonly number[] = [1e1, 1e2, 1e3, 1e4, 1e5, 1e6];

export type Counts = ReadonlyMap<string, number>;
type Masses = ReadonlyMap<string, number>;

const total = (counts: Counts): number => [...counts.values()].reduce((sum, count) => sum + count, 0);
const outside = (counts: Counts, law: Masses): number =>
  [...counts].reduce((sum, [key, count]) => sum + (law.has(key) ? 0 : count), 0);

/** Natural logarithm of the e-value; +Infinity where something was emitted that the law does not know. */
export function logEvalue(counts: Counts, law: Masses): number {
  if (outside(counts, law) > 0) return Number.POSITIVE_INFINITY;
  const n = total(counts);
  const components = CONCENTRATIONS.map((c) => {
    let logE = logGamma(c) - logGamma(n + c);
    for (const [key, count] of counts) {
      const p = law.get(key)!;
      if (count > 0) logE += logGamma(count + c * p) - logGamma(c * p) - count * Math.log(p);
    }
    return logE;
  });
  const top = Math.max(...components);
  return top + Math.log(components.reduce((sum, value) => sum + Math.exp(value - top), 0) / components.length);
}

export interface Pearson {
  readonly n: number;
  readonly statistic: number;
  readonly df: number;
  /** Of the limiting chi-square; 0 where something was emitted off the law's support. */
  readonly p: number;
  readonly offSupport: number;
  /**
   * Every law at least this far away (total variation distance over the cells as merged) is told apart with power
   * EMPIRICAL_POWER at EMPIRICAL_ALPHA: its noncentrality is n sum (m - p)^2 / p >= 4 n distance^2, by Cauchy-Schwarz. Null
   * where no law is: one cell, or more than 1.
   */
  readonly smallestDistance: number | null;
}

export function pearson(counts: Counts, law: Masses): Pearson {
  const n = total(counts);
  let statistic = 0;
  let cells = 0;
  const rest = { count: 0, expected: 0 };
  const add = (count: number, expected: number): void => {
    statistic += (count - expected) ** 2 / expected;
    cells += 1;
  };
  for (const [key, mass] of law) {
    const count = counts.get(key) ?? 0;
    if (mass * n >= LEAST_EXPECTED) add(count, mass * n);
    else {
      rest.count += count;
      rest.expected += mass * n;
    }
  }
  if (rest.expected >= LEAST_EXPECTED) add(rest.count, rest.expected);
  const offSupport = outside(counts, law);
  const df = Math.max(cells - 1, 0);
  const p = offSupport > 0 ? 0 : df === 0 ? 1 : chiSquareSurvival(statistic, df);
  const distance = df === 0 ? null : 0.5 * Math.sqrt(detectableNoncentrality(EMPIRICAL_ALPHA, df, EMPIRICAL_POWER) / n);
  return { n, statistic, df, p, offSupport, smallestDistance: distance === null || distance > 1 ? null : distance };
}
