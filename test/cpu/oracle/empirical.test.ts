/** Counts against a law: both tests keep their level on counts of the law itself, and tell another law apart where they say so. */
import { describe, expect, test } from 'vitest';
import { EMPIRICAL_ALPHA, logEvalue, pearson } from '../../../harness/oracle/empirical.ts';
import { enumerate } from '../../../harness/oracle/enumerate.ts';
import { toyOf } from '../../../harness/oracle/toy.ts';
import { Random } from '../../../harness/stats/philox.ts';
import { fixture } from './support.ts';

const LAW = new Map([
  ['a', 0.5],
  ['b', 0.25],
  ['c', 0.125],
  ['d', 0.125],
]);

/** `n` draws of a law, a function of the seed. */
function counts(law: ReadonlyMap<string, number>, n: number, seed: number): Map<string, number> {
  const random = new Random(String(seed), 7);
  const found = new Map<string, number>();
  for (let i = 0; i < n; i++) {
    let u = random.uniform();
    const key =
      [...law.keys()].find((one) => {
        u -= law.get(one)!;
        return u < 0;
      }) ?? [...law.keys()].at(-1)!;
    found.set(key, (found.get(key) ?? 0) + 1);
  }
  return found;
}

/** A law a distance away, from the first cell to the second. */
const moved = (distance: number) =>
  new Map([...LAW, ['a', 0.5 - distance], ['b', 0.25 + distance]] as [string, number][]);

describe('the e-value', () => {
  test('of one draw is 1 in the mean, exactly', () => {
    const mean = [...LAW].reduce((sum, [key, p]) => sum + p * Math.exp(logEvalue(new Map([[key, 1]]), LAW)), 0);
    expect(mean).toBeCloseTo(1, 9);
  });

  test('of three draws is 1 in the mean, exactly', () => {
    let mean = 0;
    for (const [a, p] of LAW)
      for (const [b, q] of LAW)
        for (const [c, r] of LAW) {
          const found = new Map<string, number>();
          for (const key of [a, b, c]) found.set(key, (found.get(key) ?? 0) + 1);
          mean += p * q * r * Math.exp(logEvalue(found, LAW));
        }
    expect(mean).toBeCloseTo(1, 9);
  });

  test('raises no alarm at 1e-2 in more than 1 % of runs under the law, and refutes another', () => {
    let alarms = 0;
    for (let seed = 0; seed < 500; seed++) if (logEvalue(counts(LAW, 300, seed), LAW) >= Math.log(100)) alarms += 1;
    expect(alarms).toBeLessThanOrEqual(12); // P(more | 500 runs, 1 %) < 0.5 %, and Markov is generous
    expect(logEvalue(counts(moved(0.05), 10_000, 1), LAW)).toBeGreaterThan(Math.log(1 / EMPIRICAL_ALPHA));
    expect(logEvalue(new Map([['e', 1]]), LAW)).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('Pearson', () => {
  test('the p-values of the law itself are not small too often', () => {
    let below = 0;
    for (let seed = 0; seed < 1000; seed++) if (pearson(counts(LAW, 400, seed), LAW).p < 0.05) below += 1;
    expect(below).toBeGreaterThan(25);
    expect(below).toBeLessThan(80);
  });

  test('a law at the distance it states is told apart, nearly always', () => {
    const { smallestDistance } = pearson(counts(LAW, 4000, 1), LAW);
    expect(smallestDistance).toBeGreaterThan(0.01);
    let seen = 0;
    for (let seed = 0; seed < 200; seed++) {
      if (pearson(counts(moved(smallestDistance!), 4000, 1000 + seed), LAW).p < EMPIRICAL_ALPHA) seen += 1;
    }
    expect(seen).toBeGreaterThanOrEqual(198);
  });

  test('one token off the support refutes', () => {
    expect(pearson(new Map([...counts(LAW, 100, 1), ['e', 1]]), LAW)).toMatchObject({ p: 0, offSupport: 1 });
  });

  test('too few sessions see nothing, and say so', () => {
    expect(pearson(counts(LAW, 3, 1), LAW).smallestDistance).toBeNull();
  });
});

describe('a fixture as a toy', () => {
  test('a bias lies in the table of the target, and the law stays', () => {
    const given = fixture('bias');
    const { fixture: rounded } = toyOf(given);
    expect(rounded.decoding.logitBias).toEqual([]);
    const [a, b] = [enumerate(given, 'reject'), enumerate(rounded, 'reject')];
    for (const [key, mass] of a.law) expect(b.law.get(key)).toBeCloseTo(mass, 6);
    expect(b.acceptance!.raw).toBeCloseTo(a.acceptance!.raw, 5);
  });

  test('penalties are refused in one line', () => {
    expect(() => toyOf(fixture('penalties'))).toThrow(/penalties are not supported by this engine/);
  });
});
