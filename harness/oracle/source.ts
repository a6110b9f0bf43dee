/**
 * Where a sampler gets its randomness. Rounds are written once over this interface; behind it stand the counter-based
 * generator (a run with a seed), a tape of chosen uniforms (boundary vectors) and exact exploration (every outcome with
 * its probability). A uniform is known by its address, so reading one address twice is reading one number twice, which
 * is what the defects of random number reuse do.
 */
import { philox4x32, seedWords, uniform52 } from '../stats/philox.ts';
import type { Row } from './rows.ts';

/** Streams of one seed; the numbers are those of the engine's counters. */
export const STREAM = { target: 0, draft: 1, coin: 2, residual: 3, gumbel: 4 } as const;

export interface Address {
  readonly stream: number;
  /** Absolute index of the token being drawn: with a prompt of n tokens the first generated one has position n. */
  readonly position: number;
  /** Round index, 0 = prefill; always 0 for numbers that must not depend on how tokens fall into rounds. */
  readonly round: number;
}

export interface Source {
  /** Inverse-CDF sample of a row of probabilities, ids ascending: the smallest id whose cumulative mass exceeds u. */
  pick(address: Address, row: Row): number;
  /** u * denominator < numerator, without the division: true with probability min(1, numerator / denominator). */
  coin(address: Address, numerator: number, denominator: number): boolean;
  /** argmax(log row + Gumbel noise), the noise belonging to the address and the token. */
  gumbel(address: Address, row: Row): number;
  /** iid standard exponential noise exp(-g) of the address, one value a token. */
  exponentials(address: Address, size: number): number[];
}

/** The comparisons a sampler makes of one uniform; the defects M34 and M35 are other choices of these. */
export interface Comparisons {
  /** Is u below the cumulative mass? */
  readonly inside: (u: number, cumulative: number) => boolean;
  readonly accepts: (u: number, denominator: number, numerator: number) => boolean;
  /** The id when the row is exhausted: by rounding, or because a defect left it short of 1. */
  readonly fallThrough: (row: Row) => number;
}

export const STRICT: Comparisons = {
  inside: (u, cumulative) => cumulative > u,
  accepts: (u, denominator, numerator) => u * denominator < numerator,
  fallThrough: (row) =>
    Math.max(
      0,
      row.findLastIndex((value) => value > 0),
    ),
};

export function inverseCdf(row: Row, u: number, comparisons: Comparisons = STRICT): number {
  let cumulative = 0;
  for (let id = 0; id < row.length; id++) {
    cumulative += row[id]!;
    if (comparisons.inside(u, cumulative)) return id;
  }
  return comparisons.fallThrough(row);
}

/** Philox4x32-10 with key = seed and counter = (position, stream, draw, round); Gumbel noise: two tokens a counter. */
export class CounterSource implements Source {
  readonly #low: number;
  readonly #high: number;

  constructor(seed: string) {
    const { low, high } = seedWords(seed);
    this.#low = low;
    this.#high = high;
  }

  #words(address: Address, draw: number) {
    return philox4x32([address.position, address.stream, draw, address.round], this.#low, this.#high);
  }

  #uniform(address: Address): number {
    const words = this.#words(address, 0);
    return uniform52(words[0], words[1]);
  }

  pick(address: Address, row: Row): number {
    return inverseCdf(row, this.#uniform(address));
  }

  coin(address: Address, numerator: number, denominator: number): boolean {
    return STRICT.accepts(this.#uniform(address), denominator, numerator);
  }

  exponentials(address: Address, size: number): number[] {
    return Array.from({ length: size }, (_, token) => {
      const words = this.#words(address, token >> 1);
      return -Math.log(token & 1 ? uniform52(words[2], words[3]) : uniform52(words[0], words[1]));
    });
  }

  gumbel(address: Address, row: Row): number {
    const noise = this.exponentials(address, row.length);
    let best = -1;
    let least = Number.POSITIVE_INFINITY;
    for (let id = 0; id < row.length; id++) {
      if (row[id]! <= 0) continue;
      const value = -(Math.log(row[id]!) - Math.log(noise[id]!));
      if (best < 0 || value < least) {
        best = id;
        least = value;
      }
    }
    return best;
  }
}
