/**
 * The catalogue in the oracle: complete, visible where it should be, harmless to the law where it should be, and the
 * exact law of each defect against seeded sessions of the same defective sampler.
 */
import { describe, expect, test } from 'vitest';
import type { VerificationRule } from '../../../harness/engine.ts';
import { DEFECTS, type Defect } from '../../../harness/oracle/defects.ts';
import { EDGE_VECTORS, wrongEdges } from '../../../harness/oracle/edges.ts';
import { enumerate, LAW_TOLERANCE } from '../../../harness/oracle/enumerate.ts';
import type { Fixture } from '../../../harness/oracle/fixture.ts';
import { findDefect, invisible, judgeDefect } from '../../../harness/oracle/judge.ts';
import { distanceOf, type Law } from '../../../harness/oracle/plain.ts';
import { Simulator, simulatedLaw } from '../../../harness/oracle/simulate.ts';
import { STRICT } from '../../../harness/oracle/source.ts';
import { fixture, RULES } from './support.ts';

/** E1 and E2 first; the others for the defects that need what those lack. */
const SHOWN_ON = ['e1', 'e2', 'penalties', 'stop', 'limit', 'bias'].map(fixture);

/** The first fixture that has what the defect needs. */
function home(defect: Defect, rule: VerificationRule): Fixture {
  const found = SHOWN_ON.find((data) => invisible(defect, data, rule) === null);
  if (found === undefined) throw new Error(`no fixture shows ${defect.id} under ${rule}`);
  return found;
}

const CASES = DEFECTS.flatMap((defect) => defect.rules.map((rule) => [defect.id, rule, defect] as const));
const ENUMERATED = CASES.filter(([, rule, { exact }]) => exact.includes(rule));
const CONTROLS = ENUMERATED.filter(([, , { effects }]) => effects.includes('acceptance'));

test('the catalogue is complete and has no second row of a name', () => {
  const numbered = Array.from({ length: 42 }, (_, i) => `M${String(i + 1).padStart(2, '0')}`);
  const expected = [...numbered, 'M31b', 'M36b', 'G01', 'G02', 'G03', 'H04'];
  expect(DEFECTS.map(({ id }) => id).sort()).toEqual(expected.sort());
});

test.each(CONTROLS)('%s under %s keeps the law and accepts less', (_id, rule, defect) => {
  for (const name of ['e1', 'e2', 'zeros', 'one-hot']) {
    expect(enumerate(fixture(name), rule, defect.change).distance).toBeLessThanOrEqual(LAW_TOLERANCE);
  }
  for (const name of ['e1', 'e2']) {
    const correct = enumerate(fixture(name), rule).acceptance!.raw;
    expect(enumerate(fixture(name), rule, defect.change).acceptance!.raw).toBeLessThan(correct - 0.01);
  }
});

/** The law of the first `length` tokens. */
function cut(law: Law, length: number): Law {
  const short = new Map<string, number>();
  for (const [key, mass] of law) {
    const prefix = key.split(' ').slice(0, length).join(' ');
    short.set(prefix, (short.get(prefix) ?? 0) + mass);
  }
  return short;
}

test.each(ENUMERATED)('%s under %s: the law changes, and seeded sessions follow it', (_id, rule, defect) => {
  const RUNS = 2_000;
  const data = home(defect, rule);
  const { law, distance, acceptance } = enumerate(data, rule, defect.change);
  if (defect.effects.includes('acceptance')) expect(distance).toBeLessThanOrEqual(LAW_TOLERANCE);
  else expect(distance).toBeGreaterThan(1e-6);
  const exact = cut(law, 3);
  const simulator = new Simulator(data, rule, defect.change);
  const shares = simulatedLaw(simulator, 3, RUNS, 1);
  for (const key of new Set([...exact.keys(), ...shares.keys()])) {
    const p = exact.get(key) ?? 0;
    // Rare sequences come in whole runs; 5.5 standard errors and two runs.
    const width = 5.5 * Math.sqrt((p * (1 - p)) / RUNS) + 2 / RUNS;
    expect(Math.abs((shares.get(key) ?? 0) - p), `share of ${key}`).toBeLessThan(p > 0 ? width : 1 / (2 * RUNS));
  }
  let [rounds, raw] = [0, 0];
  for (let seed = 1; seed <= 500; seed++) {
    for (const { tokens } of simulator.session(String(seed)).rounds) {
      rounds += 1;
      raw += tokens.length;
    }
  }
  expect(Math.abs(raw / rounds - acceptance!.raw)).toBeLessThan((5 * 1.5) / Math.sqrt(rounds));
});

describe('simulated and at the edge', () => {
  test.each([
    ['M33', 'reject', 'e1'],
    ['M40', 'reject', 'e1'],
    ['M32', 'coupled', 'e1'],
    ['M36b', 'coupled', 'penalties'],
  ] as const)('%s under %s shows in sessions of %s', (id, rule, name) => {
    const row = judgeDefect(findDefect(id), fixture(name), rule);
    if (row.state !== 'simulated') throw new Error(row.state);
    expect(row.seen).toBe(true);
    if (rule === 'reject' && id !== 'M40') expect(row.logE).toBeGreaterThan(Math.log(1e6));
  });

  test('two ranks with one seed agree: M40 is not seen by construction', () => {
    const simulator = new Simulator(fixture('e1'), 'reject');
    for (const seed of ['1', '2', '3']) expect(simulator.session(seed)).toEqual(simulator.session(seed));
  });

  test('edge vectors: the strict comparisons answer all of them', () => {
    expect(wrongEdges(STRICT)).toEqual([]);
  });

  test.each(['M34', 'M35'])('%s answers at least one edge vector wrongly', (id) => {
    const row = judgeDefect(findDefect(id), fixture('e1'), 'reject');
    if (row.state !== 'edge') throw new Error(row.state);
    expect(row.wrong.length).toBeGreaterThan(0);
    expect(row.vectors).toBe(EDGE_VECTORS.length);
  });
});

describe('what cannot be seen is said, never counted as harmless', () => {
  test.each([
    ['M13', 'e1', 'reject', /temperature/],
    ['M36', 'e1', 'reject', /penalties/],
    ['M37', 'e1', 'match', /stop id/],
    ['M01', 'e1', 'coupled', /rule coupled/],
    ['M20', 'penalties', 'reject', /order 2/],
  ] as const)('%s on %s under %s', (id, name, rule, reason) => {
    const row = judgeDefect(findDefect(id), fixture(name), rule);
    if (row.state !== 'invisible') throw new Error(row.state);
    expect(row.reason).toMatch(reason);
  });

  test("an unknown id is the caller's fault", () => {
    expect(() => findDefect('M99')).toThrow(/no defect "M99"/);
  });
});

test('M25 on E1 by hand on one draft: the law moves by the leniency alone', () => {
  // p = (.6, .4), q = (.8, .2): token 0 is kept with .6 / (.99 * .8), the correction is always token 1.
  const tiny: Fixture = {
    ...fixture('e1'),
    vocab: 2,
    order: 1,
    block: 2,
    tokens: 2,
    prompt: [0],
    target: [
      [0.6, 0.4],
      [0.6, 0.4],
    ],
    draft: [[[0.8, 0.2]], [[0.8, 0.2]]],
  };
  const { law } = enumerate(tiny, 'reject', findDefect('M25').change);
  const kept = 0.6 / 0.99;
  expect(law.get('0 0')).toBeCloseTo(0.6 * kept, 14);
  expect(law.get('0 1')).toBeCloseTo(0.6 * (1 - kept), 14);
  expect(distanceOf(law, enumerate(tiny, 'reject').law).distance).toBeCloseTo(kept - 0.6, 14);
});

test('M30 by hand: a correction that reuses the coin knows how far the coin was', () => {
  // q = (1, 0, 0), p = (.5, .25, .25): the coin lies in [.5, 1), the residual is (0, .5, .5), so the correction is always 2.
  const tiny: Fixture = {
    ...fixture('e1'),
    vocab: 3,
    order: 1,
    block: 2,
    tokens: 2,
    prompt: [0],
    target: Array.from({ length: 3 }, () => [0.5, 0.25, 0.25]),
    draft: Array.from({ length: 3 }, () => [[1, 0, 0]]),
  };
  const { law } = enumerate(tiny, 'reject', findDefect('M30').change);
  expect(law.get('0 0')).toBeCloseTo(0.25, 15);
  expect(law.get('0 1') ?? 0).toBe(0);
  expect(law.get('0 2')).toBeCloseTo(0.25, 15);
});

test('rules and hooks of the registry fit together', () => {
  for (const { exact, rules, hook, change, id } of DEFECTS) {
    for (const rule of exact) expect(rules).toContain(rule);
    for (const rule of rules) expect(RULES).toContain(rule);
    if (hook !== 'comparisons' && hook !== 'seed') expect(Object.keys(change), id).toContain(hook);
  }
});
