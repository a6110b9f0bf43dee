/** Assumed acceptance: the constant chance gives the stated length, and what is drawn from it is what was stated. */
import { fc, test as prop } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import {
  BLOCK,
  constantChance,
  corrupt,
  expectedCommitted,
  PROFILES,
  profileFromJson,
} from '../../../harness/bench/node/profile.ts';

const target = fc.double({ min: 1, max: BLOCK, noNaN: true });

describe('constant chance', () => {
  prop.prop([target], { seed: 1, numRuns: 500 })('gives the length asked for', (length) => {
    const q = constantChance(length);
    expect(expectedCommitted(new Array<number>(7).fill(q), BLOCK)).toBeCloseTo(length, 12);
    // The closed form, another way to the same sum.
    if (q < 0.999) expect((1 - q ** BLOCK) / (1 - q)).toBeCloseTo(length, 9);
  });

  it('of the published lengths', () => {
    // Roots of 1 + q + ... + q^7 = L by Newton's method, computed apart from this code.
    const newton = (length: number): number => {
      let q = 0.9;
      for (let i = 0; i < 50; i++) {
        let value = -length;
        let slope = 0;
        for (let k = 0; k < BLOCK; k++) {
          value += q ** k;
          slope += k * q ** (k - 1);
        }
        q -= value / slope;
      }
      return q;
    };
    for (const length of [6.3, 5.56, 4.29]) expect(constantChance(length)).toBeCloseTo(newton(length), 13);
    expect(constantChance(8)).toBe(1);
    expect(expectedCommitted(new Array<number>(7).fill(constantChance(1)), BLOCK)).toBeCloseTo(1, 12);
    expect(PROFILES.map((profile) => profile.target)).toEqual([6.3, 5.56, 4.29, 8]);
  });

  it('refuses a length that no block of 8 has', () => {
    expect(() => constantChance(8.01)).toThrow(/outside 1 \.\. 8/);
    expect(() => constantChance(0.9)).toThrow(/outside 1 \.\. 8/);
    expect(() => constantChance(Number.NaN)).toThrow(/outside/);
  });
});

describe('a profile from JSON', () => {
  it('has the expectation of its chances', () => {
    const profile = profileFromJson([1, 0.5, 0, 0, 0, 0, 0], 'steep');
    expect(profile.target).toBe(1 + 1 + 0.5);
    expect(expectedCommitted(profile.chances, 2)).toBe(2);
  });

  it.each(['[1, 1]', '[1, 1, 1, 1, 1, 1, 1.1]', '{}', '"x"', '[1,1,1,1,1,1,null]'])('refuses %s', (json) => {
    expect(() => profileFromJson(JSON.parse(json), 'p')).toThrow(/profile p must be a list of 7 chances/);
  });
});

const VOCAB = 1000;
const chances = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 7, maxLength: 7 });
const config = fc.record({
  chances,
  plain: fc.array(fc.integer({ min: 0, max: VOCAB - 1 }), { minLength: 2, maxLength: 300 }),
  block: fc.integer({ min: 2, max: BLOCK }),
  seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(String),
});

/** An engine in three lines: accepts the drafts that equal plain decoding. */
function walk(plain: readonly number[], proposals: readonly number[], block: number): number[] {
  const accepted: number[] = [];
  for (let anchor = 0; anchor < plain.length - 1; ) {
    let right = 0;
    while (
      right < block - 1 &&
      anchor + right + 1 < plain.length &&
      proposals[anchor + right + 1] === plain[anchor + right + 1]
    )
      right += 1;
    accepted.push(right);
    anchor += right + 1;
  }
  return accepted;
}

describe('corruption', () => {
  prop.prop([config], { seed: 2, numRuns: 400 })('is accepted as it says, whatever the profile', (one) => {
    const profile = { name: 'p', target: 1, chances: one.chances, source: 'test' };
    const made = corrupt(one.plain, VOCAB, profile, one.block, one.seed);
    expect(made.proposals).toHaveLength(one.plain.length);
    expect(made.proposals.every((id) => id >= 0 && id < VOCAB)).toBe(true);
    expect(walk(one.plain, made.proposals, one.block)).toEqual(made.accepted);
    expect(corrupt(one.plain, VOCAB, profile, one.block, one.seed)).toEqual(made);
  });

  prop.prop([config], { seed: 3, numRuns: 200 })('of a longer record begins the same', (one) => {
    const profile = { name: 'p', target: 1, chances: one.chances, source: 'test' };
    const long = corrupt([...one.plain, 1, 2, 3, 4, 5, 6, 7, 8], VOCAB, profile, one.block, one.seed);
    const short = corrupt(one.plain, VOCAB, profile, one.block, one.seed);
    expect(long.accepted.slice(0, short.accepted.length - 1)).toEqual(short.accepted.slice(0, -1));
  });

  it.each(PROFILES.map((profile) => [profile.name, profile] as const))(
    '%s: the mean of many rounds is the target',
    (_, profile) => {
      const plain = Array.from({ length: 400_000 }, (_, i) => (i * 7919) % VOCAB);
      for (const block of [2, 5, 8]) {
        const { accepted } = corrupt(plain, VOCAB, profile, block, '5');
        const rounds = accepted.slice(0, -1);
        const mean = 1 + rounds.reduce((a, b) => a + b, 0) / rounds.length;
        const spread = Math.sqrt(
          rounds.reduce((sum, a) => sum + (a + 1 - mean) ** 2, 0) / rounds.length / rounds.length,
        );
        // Five standard errors: with twelve looks, a right generator fails once in some hundred thousand seeds.
        expect(Math.abs(mean - expectedCommitted(profile.chances, block))).toBeLessThanOrEqual(5 * spread + 1e-12);
      }
    },
  );

  it('a correction and a bonus token are never proposed right', () => {
    const plain = Array.from({ length: 200 }, (_, i) => i);
    const { proposals, accepted } = corrupt(plain, VOCAB, PROFILES[1]!, 8, '3');
    let anchor = 0;
    for (const right of accepted.slice(0, -1)) {
      anchor += right + 1;
      expect(proposals[anchor]).not.toBe(plain[anchor]);
    }
  });
});
