/**
 * Counter-based random numbers once more, in bigint arithmetic, from the paper's text (Salmon et al., SC11): the judge of core/philox.h
 * and core/random.h. A draw is addressed by (seed, position, stream, draw, round).
 */

const MASK = 0xffffffffn;

/** Philox4x32 with any number of rounds (the paper's recommendation and our use: 10). */
export function philox(counter: readonly number[], key: readonly number[], rounds = 10): number[] {
  let words = counter.map(BigInt);
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  for (let round = 0; round < rounds; round++) {
    if (round > 0) {
      k0 = (k0 + 0x9e3779b9n) & MASK;
      k1 = (k1 + 0xbb67ae85n) & MASK;
    }
    const left = 0xd2511f53n * words[0]!;
    const right = 0xcd9e8d57n * words[2]!;
    words = [(right >> 32n) ^ words[1]! ^ k0, right & MASK, (left >> 32n) ^ words[3]! ^ k1, left & MASK];
  }
  return words.map(Number);
}

export const STREAM = { targetSample: 0, draftSample: 1, acceptCoin: 2, residualSample: 3, gumbel: 4 } as const;

function words(seed: bigint, position: number, stream: number, draw: number, round: number): number[] {
  return philox([position, stream, draw, round], [Number(seed & MASK), Number((seed >> 32n) & MASK)]);
}

/** (n + 1/2) / 2^52 for the 52-bit integer made of `high` and the upper 20 bits of `low`. */
export function uniform52(high: number, low: number): number {
  const n = (BigInt(high) << 20n) | (BigInt(low) >> 12n);
  return Number(2n * n + 1n) / 2 ** 53;
}

export function uniform(seed: bigint, position: number, stream: number, round: number): number {
  const [x0, x1] = words(seed, position, stream, 0, round);
  return uniform52(x0!, x1!);
}

export function gumbel(seed: bigint, position: number, token: number): number {
  const x = words(seed, position, STREAM.gumbel, Math.floor(token / 2), 0);
  const u = token % 2 === 0 ? uniform52(x[0]!, x[1]!) : uniform52(x[2]!, x[3]!);
  return -Math.log(-Math.log(u));
}
