/** The joint law of two argmaxes under one vector of noise: closed form against samples, quadrature and identities. */
import { describe, expect, test } from 'vitest';
import { sharedGumbelGiven, sharedGumbelJoint } from '../../../harness/oracle/gumbel.ts';
import { CounterSource, STREAM } from '../../../harness/oracle/source.ts';
import { coupledPick } from '../../support/oracle/decode.ts';
import { anyPair, property } from './support.ts';

const PAIRS: readonly (readonly [readonly number[], readonly number[]])[] = [
  [
    [0.1, 0.2, 0.3, 0.4],
    [0.4, 0.3, 0.2, 0.1],
  ],
  [
    [0.7, 0.1, 0.2, 0],
    [0, 0.5, 0.25, 0.25],
  ],
  [
    [0.5, 0.5, 0],
    [0.2, 0.3, 0.5],
  ],
];

function table(q: readonly number[], p: readonly number[]): number[][] {
  return q.map((_, a) => p.map((__, b) => sharedGumbelJoint(q, p, a, b)));
}

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);

describe('two tokens, by hand', () => {
  test('with q = (1/2, 1/2) and p = (s, 1 - s) they agree with probability 1 - |s - 1/2|', () => {
    // max(1, s / (1 - s)) and so on: for s > 1/2 the pair (1, 0) has the whole difference s - 1/2.
    for (const s of [0.5, 0.6, 0.9, 1]) {
      const [[same0, never], [moved, same1]] = table([0.5, 0.5], [s, 1 - s]) as [[number, number], [number, number]];
      expect(same0).toBeCloseTo(0.5, 15);
      expect(never).toBe(0);
      expect(moved).toBeCloseTo(s - 0.5, 15);
      expect(same1).toBeCloseTo(1 - s, 15);
    }
  });
});

test.each(PAIRS)('samples of the noise itself, q = %j, p = %j', (q, p) => {
  const source = new CounterSource('5');
  const runs = 40_000;
  const counts = q.map(() => p.map(() => 0));
  for (let position = 0; position < runs; position++) {
    const address = { stream: STREAM.gumbel, position, round: 0 };
    counts[source.gumbel(address, q)]![source.gumbel(address, p)]! += 1;
  }
  for (const [a, row] of table(q, p).entries()) {
    for (const [b, expected] of row.entries()) {
      const got = counts[a]![b]! / runs;
      // Five standard errors; an impossible pair must never come.
      expect(Math.abs(got - expected)).toBeLessThanOrEqual(5 * Math.sqrt((expected * (1 - expected)) / runs));
    }
  }
});

test('the sum over pieces against quadrature of the integral', () => {
  for (const [q, p] of PAIRS) {
    for (const a of q.keys()) {
      for (const b of p.keys()) {
        if (a === b || q[a] === 0 || p[b] === 0 || p[a] === 0) continue;
        const from = q[b]! / q[a]!;
        const to = Math.max(from, p[b]! / p[a]!);
        const steps = 20_000;
        const width = (to - from) / steps;
        let integral = 0;
        for (let i = 0; i < steps; i++) {
          const r = from + (i + 0.5) * width;
          integral += width / sumOf(q.map((value, j) => Math.max(value / q[a]!, (r * p[j]!) / p[b]!))) ** 2;
        }
        expect(Math.abs(sharedGumbelJoint(q, p, a, b) - integral)).toBeLessThan(1e-7);
      }
    }
  }
});

test('the noise is that of the other oracle, token for token', () => {
  const source = new CounterSource('123456789012345');
  const row = [0.05, 0.3, 0, 0.25, 0.4];
  for (let position = 0; position < 300; position++) {
    const ours = source.gumbel({ stream: STREAM.gumbel, position, round: 0 }, row);
    expect(ours).toBe(coupledPick(Float64Array.from(row), 123456789012345n, position));
  }
});

property(
  'gumbel.test.ts',
  'margins are the two rows, and agreement keeps its lower bound',
  anyPair(5),
  { seed: 41, runs: 500 },
  ({ p, q }) => {
    const joint = table(q, p);
    for (const [a, row] of joint.entries()) expect(Math.abs(sumOf(row) - q[a]!)).toBeLessThan(1e-13);
    for (const [b, value] of p.entries()) {
      expect(Math.abs(sumOf(joint.map((row) => row[b]!)) - value)).toBeLessThan(1e-13);
    }
    const distance = sumOf(p.map((value, id) => Math.abs(value - q[id]!))) / 2;
    const agreement = sumOf(joint.map((row, a) => row[a]!));
    // Daliri et al. 2024: at least (1 - TV) / (1 + TV), at most 1 - TV.
    expect(agreement).toBeGreaterThanOrEqual((1 - distance) / (1 + distance) - 1e-12);
    expect(agreement).toBeLessThanOrEqual(1 - distance + 1e-12);
  },
);

property(
  'gumbel.test.ts',
  'given the first argmax, the second has a law',
  anyPair(4),
  { seed: 42, runs: 300 },
  ({ p, q }) => {
    for (const [a, mass] of q.entries()) {
      if (mass > 1e-3) expect(Math.abs(sumOf(sharedGumbelGiven(q, p, a)) - 1)).toBeLessThan(1e-10);
    }
  },
);
