/**
 * Randomised probability integral transform over the whole vocabulary: with the tokens put in an order fixed before the
 * draw, U = F(tokens before x) + V p(x), V uniform, is uniform on (0, 1) under the null whatever the dependence between
 * contexts. Three orders look in three directions: by p descending (temperature, nucleus), by p/q ascending (acceptance,
 * residual), by a hash of the id (index faults). Each order is an e-process of bets on U; the three are averaged.
 */
import { logSumExp, Mixture } from '../stats/eprocess.ts';
import { Random } from '../stats/philox.ts';

const BINS = 16;
/** Stakes of the linear bets 1 + s (2U - 1). */
const STAKES: readonly number[] = [-0.5, -0.15, 0.15, 0.5];

const ORDERS = ['p descending', 'p/q ascending', 'hash of the id'] as const;

/** Are numbers in (0, 1) uniform? Bets on 16 bins and on lines. */
export class UniformProcess {
  readonly mixture = new Mixture(
    ['bins', ...STAKES.map((stake) => `line ${stake}`)],
    new Array<number>(STAKES.length + 1).fill(1 / (STAKES.length + 1)),
  );
  readonly #counts = new Float64Array(BINS);
  #n = 0;

  observe(u: number): void {
    const bin = Math.min(BINS - 1, Math.floor(u * BINS));
    this.mixture.bet(0, Math.log((BINS * (this.#counts[bin]! + 0.5)) / (this.#n + BINS / 2)));
    STAKES.forEach((stake, i) => {
      this.mixture.bet(1 + i, Math.log1p(stake * (2 * u - 1)));
    });
    this.#counts[bin]! += 1;
    this.#n += 1;
    this.mixture.settle();
  }
}

export class PitProcess {
  readonly orders: readonly UniformProcess[] = ORDERS.map(() => new UniformProcess());
  readonly #random: Random;
  #sup = 0;

  /** `seed` drives V only. */
  constructor(seed: string) {
    this.#random = new Random(seed, 41);
  }

  /** `p` sums to 1, p[x] > 0. Without q the second order is by p ascending. */
  observe(p: Float64Array, q: Float64Array | null, x: number): void {
    const keys: readonly ((token: number) => number)[] = [
      (token) => -p[token]!,
      (token) => (q === null ? p[token]! : q[token]! > 0 ? p[token]! / q[token]! : Number.MAX_VALUE),
      (token) => Math.imul(token + 1, 0x9e3779b1) >>> 0,
    ];
    keys.forEach((key, order) => {
      const own = key(x);
      let before = 0;
      for (let token = 0; token < p.length; token++) {
        const mass = p[token]!;
        if (mass === 0 || token === x) continue;
        const other = key(token);
        if (other < own || (other === own && token < x)) before += mass;
      }
      this.orders[order]!.observe(Math.min(1, before + this.#random.uniform() * p[x]!));
    });
    // An average is not above the largest.
    if (this.orders.every((order) => order.mixture.logBound() < this.#sup)) return;
    this.#sup = Math.max(this.#sup, this.logValue());
  }

  /** Natural logarithm of the average of the three e-values. */
  logValue(): number {
    return logSumExp(this.orders.map((order) => order.mixture.logValue())) - Math.log(this.orders.length);
  }

  get logSup(): number {
    return this.#sup;
  }
}
