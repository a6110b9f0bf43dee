/**
 * Test martingales: a weighted mixture of likelihood-ratio products against a known law. Under the null the mixture is a
 * nonnegative martingale that starts at 1, so by Ville's inequality the probability that it ever reaches 1/alpha is at
 * most alpha, whatever rule stops the sampling (Ramdas, Gruenwald, Vovk, Shafer, "Game-theoretic statistics and safe
 * anytime-valid inference", 2023). 1 / (largest value so far) is therefore a p-value at any time.
 */

/** log(sum exp(values)); -Infinity for an empty list. */
export function logSumExp(values: ArrayLike<number>): number {
  let top = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < values.length; i++) top = Math.max(top, values[i]!);
  if (!Number.isFinite(top)) return top;
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += Math.exp(values[i]! - top);
  return top + Math.log(sum);
}

/** A component that lies so far below the largest counts as if it lay no further. */
const NEAR = 6;
/** Far above the rounding of a sum of logarithms, far below what a bound is good for. */
const SLACK = 1e-9;

export class Mixture {
  readonly names: readonly string[];
  /** Natural logarithms of weight x product of likelihood ratios, one a component. */
  readonly #wealth: Float64Array;
  readonly #start: Float64Array;
  #sup: number;
  #impossible: string | null = null;

  /** `weights` are positive and sum to 1. */
  constructor(names: readonly string[], weights: readonly number[]) {
    this.names = names;
    this.#wealth = Float64Array.from(weights, Math.log);
    this.#start = Float64Array.from(this.#wealth);
    this.#sup = 0;
  }

  /** `logRatio` of component `k` for the newest observation; every component must be given a ratio of mean 1. */
  bet(k: number, logRatio: number): void {
    this.#wealth[k]! += logRatio;
  }

  /** Ends an observation. */
  settle(): void {
    // What cannot reach the largest value need not be known: that is most observations of a law that holds.
    if (this.logBound() < this.#sup) return;
    this.#sup = Math.max(this.#sup, this.logValue());
  }

  /** Not below logValue(), rounding included, and without an exponential a component. */
  logBound(): number {
    if (this.#impossible !== null) return Number.POSITIVE_INFINITY;
    const wealth = this.#wealth;
    let top = Number.NEGATIVE_INFINITY;
    for (let k = 0; k < wealth.length; k++) top = Math.max(top, wealth[k]!);
    let near = 0;
    for (let k = 0; k < wealth.length; k++) if (wealth[k]! > top - NEAR) near += 1;
    return top + Math.log(near + (wealth.length - near) * Math.exp(-NEAR)) + SLACK * (1 + Math.abs(top));
  }

  /** Something of probability 0 under the null happened: refuted at every level. */
  refute(what: string): void {
    this.#impossible ??= what;
    this.#sup = Number.POSITIVE_INFINITY;
  }

  get impossible(): string | null {
    return this.#impossible;
  }

  /** Natural logarithm of the e-value now. */
  logValue(): number {
    return this.#impossible === null ? logSumExp(this.#wealth) : Number.POSITIVE_INFINITY;
  }

  /** Largest logarithm so far: exp(-sup) is a p-value at any stopping time. */
  get logSup(): number {
    return this.#sup;
  }

  logStart(k: number): number {
    return this.#start[k]!;
  }

  /** The component that earned most, by name. */
  leader(): string {
    let best = 0;
    for (let k = 1; k < this.#wealth.length; k++) {
      if (this.#wealth[k]! - this.#start[k]! > this.#wealth[best]! - this.#start[best]!) best = k;
    }
    return this.names[best] ?? 'none';
  }

  /** Earnings of each component, to go on from in a later run. */
  earnings(): Record<string, number> {
    return Object.fromEntries(this.names.map((name, k) => [name, this.#wealth[k]! - this.#start[k]!]));
  }

  /** Goes on from the earnings of earlier, independent runs; unknown names are ignored, missing ones earned nothing. */
  resume(earnings: Readonly<Record<string, number>>): void {
    this.names.forEach((name, k) => {
      this.#wealth[k]! += earnings[name] ?? 0;
    });
    this.settle();
  }
}

/**
 * e-BH (Wang and Ramdas 2022): indices of the rejected e-values with false discovery rate at most alpha, under any
 * dependence. Takes natural logarithms.
 */
export function eBenjaminiHochberg(logValues: readonly number[], alpha: number): number[] {
  const order = logValues.map((_, i) => i).sort((a, b) => logValues[b]! - logValues[a]!);
  let rejected = 0;
  order.forEach((index, rank) => {
    if (logValues[index]! >= Math.log(logValues.length / (alpha * (rank + 1)))) rejected = rank + 1;
  });
  return order.slice(0, rejected).sort((a, b) => a - b);
}
