/**
 * Philox against the published known answers, and every addressed draw against an independent bigint implementation: the same seed,
 * position, stream, draw and round must give the same number everywhere, or plain and speculative decoding cannot be compared.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { asF64, asU32, probe } from '../../support/core-probe.ts';
import { gumbel, philox, STREAM, uniform, uniform52 } from '../../support/oracle/random.ts';
import { firstDifference } from './compare.ts';

const SEED = 20111112;

/** Random123 (DEShawResearch/random123), tests/kat_vectors, the lines `philox4x32 10`: counter, key, expected. */
const KNOWN_ANSWERS = [
  '00000000 00000000 00000000 00000000 00000000 00000000   6627e8d5 e169c58d bc57ac4c 9b00dbd8',
  'ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff   408f276d 41c83b0e a20bc7c6 6d5451fd',
  '243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0   d16cfe09 94fdcceb 5001e420 24126ea1',
].map((line) => line.split(/\s+/).map((word) => Number.parseInt(word, 16)));

/** The same inputs with 7 rounds, from the same file: what a wrong round count would give. */
const SEVEN_ROUNDS_OF_ZEROS = [0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48];

const word = fc.oneof(
  fc.constantFrom(0, 1, 0x7fffffff, 0x80000000, 0xffffffff),
  fc.integer({ min: 0, max: 0xffffffff }),
);
const sampleWords = (count: number, perRecord: number) =>
  fc.sample(fc.array(word, { minLength: perRecord, maxLength: perRecord }), { seed: SEED, numRuns: count });

describe('Philox4x32-10', () => {
  const expected = KNOWN_ANSWERS.flatMap((line) => line.slice(6));

  test('published known answers', () => {
    const got = asU32(probe('philox', Uint32Array.from(KNOWN_ANSWERS.flatMap((line) => line.slice(0, 6)))));
    expect(firstDifference('known answers', expected, got)).toBeNull();
  });

  test('twins: 9 rounds, no key schedule and reversed counters fail the same comparison', () => {
    const inputs = KNOWN_ANSWERS.map((line) => ({ counter: line.slice(0, 4), key: line.slice(4, 6) }));
    const good = inputs.flatMap(({ counter, key }) => philox(counter, key));
    const nine = inputs.flatMap(({ counter, key }) => philox(counter, key, 9));
    const reversed = inputs.flatMap(({ counter, key }) => philox([...counter].reverse(), key));
    expect(firstDifference('independent', expected, good)).toBeNull();
    expect(philox([0, 0, 0, 0], [0, 0], 7)).toEqual(SEVEN_ROUNDS_OF_ZEROS);
    expect(firstDifference('nine rounds', expected, nine)).toMatch(/position 0/);
    expect(firstDifference('reversed', expected, reversed)).toMatch(/position 8/);
  });

  test(`2000 random counters and keys, seed ${SEED}`, () => {
    const records = sampleWords(2000, 6);
    const got = asU32(probe('philox', Uint32Array.from(records.flat())));
    expect(
      firstDifference(
        'philox',
        records.flatMap((r) => philox(r.slice(0, 4), r.slice(4))),
        got,
      ),
    ).toBeNull();
  });
});

describe('uniform numbers', () => {
  test('the ends of the range are strictly inside (0, 1), and the steps are 2^-52', () => {
    const words = [
      [0, 0],
      [0, 0xfff],
      [0, 0x1000],
      [0xffffffff, 0xffffffff],
      [0x80000000, 0],
    ];
    const got = [...asF64(probe('uniform52', Uint32Array.from(words.flat())))];
    expect(got).toEqual([2 ** -53, 2 ** -53, 3 * 2 ** -53, 1 - 2 ** -53, 0.5 + 2 ** -53]);
  });

  test('random words, against the definition', () => {
    const records = sampleWords(2000, 2);
    const got = asF64(probe('uniform52', Uint32Array.from(records.flat())));
    expect([...got]).toEqual(records.map(([x0, x1]) => uniform52(x0!, x1!)));
    expect(Math.min(...got)).toBeGreaterThan(0);
    expect(Math.max(...got)).toBeLessThan(1);
  });

  test('addressed draws: seed, position, stream and round each matter', () => {
    const seeds = [0n, 1n, 0xffffffffn, 0x100000000n, 0xffffffffffffffffn, 12345678901234567890n];
    const cases = seeds.flatMap((seed) =>
      [0, 1, 2047, 0xffffffff].flatMap((position) =>
        Object.values(STREAM).flatMap((stream) => [0, 1, 77].map((round) => ({ seed, position, stream, round }))),
      ),
    );
    const input = Buffer.alloc(20 * cases.length);
    cases.forEach(({ seed, position, stream, round }, i) => {
      input.writeBigUInt64LE(seed, 20 * i);
      input.writeUInt32LE(position, 20 * i + 8);
      input.writeUInt32LE(stream, 20 * i + 12);
      input.writeUInt32LE(round, 20 * i + 16);
    });
    const got = [...asF64(probe('uniform', input))];
    expect(got).toEqual(cases.map((c) => uniform(c.seed, c.position, c.stream, c.round)));
    expect(new Set(got).size).toBe(cases.length);
  });
});

describe('Gumbel noise', () => {
  const seeds = [0n, 7n, 0xfedcba9876543210n];
  const cases = seeds.flatMap((seed) =>
    Array.from({ length: 4000 }, (_, i) => ({ seed, position: i >> 9, token: i & 511 })),
  );
  const draw = () => {
    const input = Buffer.alloc(16 * cases.length);
    cases.forEach(({ seed, position, token }, i) => {
      input.writeBigUInt64LE(seed, 16 * i);
      input.writeUInt32LE(position, 16 * i + 8);
      input.writeUInt32LE(token, 16 * i + 12);
    });
    return asF64(probe('gumbel', input));
  };

  test('each (position, token) against the definition, to the accuracy of two logarithms', () => {
    const got = draw();
    const expected = cases.map((c) => gumbel(c.seed, c.position, c.token));
    const worst = Math.max(...expected.map((value, i) => Math.abs(value - got[i]!) / Math.max(1, Math.abs(value))));
    expect(worst).toBeLessThan(4 * Number.EPSILON);
    expect(new Set(got).size).toBe(cases.length);
  });

  test('mean and variance are those of the standard Gumbel law', () => {
    const got = draw();
    const mean = got.reduce((sum, value) => sum + value, 0) / got.length;
    const variance = got.reduce((sum, value) => sum + (value - mean) ** 2, 0) / got.length;
    // Euler's constant and pi^2 / 6; 12000 draws, five standard errors.
    expect(Math.abs(mean - 0.5772156649)).toBeLessThan(5 * Math.sqrt(1.6449 / got.length));
    expect(Math.abs(variance - 1.6449340668)).toBeLessThan(5 * Math.sqrt((14.6114 - 1.6449 ** 2) / got.length));
  });
});
