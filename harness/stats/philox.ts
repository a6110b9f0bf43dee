/**
 * Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
 * 1, 2, 3" (SC 2011), and a stream over it. Resampling, permutations and the scripted engines draw from here, so a
 * report can be recomputed to the last digit from its seed.
 */

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

export type Words4 = readonly [number, number, number, number];

/** High 32 bits of the 64-bit product of two unsigned 32-bit integers. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = aLow * bHigh + (middle % 0x10000);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0;
}

/** Ten rounds on one counter; all words are unsigned 32-bit. */
export function philox4x32(counter: Words4, keyLow: number, keyHigh: number): Words4 {
  let [x0, x1, x2, x3] = counter;
  let k0 = keyLow >>> 0;
  let k1 = keyHigh >>> 0;
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(MULTIPLIER_0, x0);
    const low0 = Math.imul(MULTIPLIER_0, x0) >>> 0;
    const high1 = mulHigh(MULTIPLIER_1, x2);
    const low1 = Math.imul(MULTIPLIER_1, x2) >>> 0;
    x0 = (high1 ^ x1 ^ k0) >>> 0;
    x1 = low1;
    x2 = (high0 ^ x3 ^ k1) >>> 0;
    x3 = low0;
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  return [x0, x1, x2, x3];
}

/** Splits an unsigned 64-bit decimal string into its low and high 32-bit words. */
export function seedWords(seed: string): { readonly low: number; readonly high: number } {
  const value = BigInt.asUintN(64, BigInt(seed));
  return { low: Number(value & 0xffffffffn), high: Number(value >> 32n) };
}

/** 52 bits of two words, centred: strictly inside (0, 1), so a logarithm of it is finite. */
export function uniform52(word0: number, word1: number): number {
  return (word0 * 2 ** 20 + (word1 >>> 12) + 0.5) * 2 ** -52;
}

/** A sequential stream: two uniforms per counter. `stream` separates uses of one seed. */
export class Random {
  readonly #low: number;
  readonly #high: number;
  readonly #stream: number;
  #counter: number;
  #spare: number | null = null;

  /** `from`: counters to pass over, two uniforms each. */
  constructor(seed: string, stream: number, from = 0) {
    const { low, high } = seedWords(seed);
    this.#low = low;
    this.#high = high;
    this.#stream = stream >>> 0;
    this.#counter = from;
  }

  /** Strictly inside (0, 1). */
  uniform(): number {
    if (this.#spare !== null) {
      const value = this.#spare;
      this.#spare = null;
      return value;
    }
    const block = this.#counter++;
    const words = philox4x32([block >>> 0, Math.floor(block / 2 ** 32), this.#stream, 0], this.#low, this.#high);
    this.#spare = uniform52(words[2], words[3]);
    return uniform52(words[0], words[1]);
  }

  /** Uniform integer in 0 .. n - 1; the bias of at most n / 2^52 is below anything measured here. */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }
}
