/** The e-processes are martingales under the null and the twin, broken on purpose, is caught being none. */
import { fc, test as prop } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { eBenjaminiHochberg, logSumExp, Mixture } from '../../../harness/stats/eprocess.ts';
import { Random } from '../../../harness/stats/philox.ts';
import { clopperPearson } from '../../../harness/stats/proportion.ts';
import { EMISSION_FAMILIES, emissionLaw, type Situation } from '../../../harness/verify/alternatives.ts';
import { CategoricalProcess, type Fill } from '../../../harness/verify/categorical.ts';
import { filterRow } from '../../../harness/verify/filters.ts';
import { PitProcess } from '../../../harness/verify/pit.ts';
import { lawOf } from '../../../harness/verify/round-laws.ts';
import { TwoSampleProcess } from '../../../harness/verify/two-sample-process.ts';
import { outcomeOf } from './support.ts';

const V = 5;

/** Rows with zeros, ties, one-hot and near-equal entries. */
const row = fc
  .oneof(
    fc.array(fc.constantFrom(0, 0, 1, 1, 2, 5), { minLength: V, maxLength: V }),
    fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: V, maxLength: V }),
    fc.integer({ min: 0, max: V - 1 }).map((x) => Array.from({ length: V }, (_, i) => (i === x ? 1 : 0))),
    fc.double({ min: 0, max: 1e-9, noNaN: true }).map((d) => [1 + d, 1, 1 - d, 1, 1]),
  )
  .filter((values) => values.reduce((a, b) => a + b, 0) > 1e-6)
  .map((values) => {
    const sum = values.reduce((a, b) => a + b, 0);
    return Float64Array.from(values, (value) => value / sum);
  });

const situation = fc.record({
  p: row,
  q: fc.option(row, { nil: null }),
  earlier: fc.option(fc.record({ p: row, q: fc.option(row, { nil: null }) }), { nil: null }),
  firstQ: fc.option(row, { nil: null }),
  staleQ: fc.option(row, { nil: null }),
  index: fc.integer({ min: 0, max: 3 }),
  drafts: fc.integer({ min: 0, max: 3 }),
  lastId: fc.constant(V - 1),
  temperature: fc.constantFrom(0.5, 0.7, 1, 1.3),
}) as fc.Arbitrary<Situation>;

describe('alternatives', () => {
  prop.prop([situation], { seed: 301, numRuns: 1_500 })('are laws: nonnegative, and they sum to 1', (s) => {
    const out = new Float64Array(V);
    EMISSION_FAMILIES.forEach((family, k) => {
      if (!emissionLaw(k, s, out)) return;
      const sum = out.reduce((a, b) => a + b, 0);
      expect(Math.abs(sum - 1), `${family}: sum ${sum}`).toBeLessThan(1e-9);
      expect(Math.min(...out), family).toBeGreaterThanOrEqual(-1e-12);
    });
  });
});

describe('a mixture', () => {
  const bet = fc.oneof(fc.double({ min: -2, max: 2, noNaN: true }), fc.constantFrom(-600, -8, 0, 8, 600, -Infinity));
  const bets = fc.array(fc.array(bet, { minLength: 3, maxLength: 3 }), { maxLength: 40 });
  prop.prop([bets, fc.constantFrom(-1, 0, 0.1)], { seed: 302, numRuns: 1_000 })(
    'keeps its largest value to the last bit, and is never above its bound',
    (past, drift) => {
      const mixture = new Mixture(['a', 'b', 'c'], [0.5, 0.25, 0.25]);
      let largest = 0;
      for (const ratios of past) {
        for (const [k, ratio] of ratios.entries()) mixture.bet(k, ratio + drift);
        mixture.settle();
        largest = Math.max(largest, mixture.logValue());
        expect(mixture.logSup).toBe(largest);
        // All lost: there is nothing to bound, and nothing is left out.
        if (mixture.logValue() > -Infinity) expect(mixture.logBound()).toBeGreaterThanOrEqual(mixture.logValue());
        else expect(mixture.logBound() < 0).toBe(false);
      }
    },
  );
});

/** Mean of the e-value after one more token, over the law p: at most 1 times the e-value before, whatever the past. */
function meanStep(p: Float64Array, past: readonly number[], fill: Fill, law: Float64Array): number {
  const run = (last: number | null): number => {
    const process = new CategoricalProcess({ families: ['a', 'b'], alphabet: V, slots: 1, powerEvery: 1_000 });
    for (const x of past) process.observe(p, x, fill, [0], '');
    if (last !== null) process.observe(law, last, fill, [0], '');
    return process.mixture.logValue();
  };
  const before = run(null);
  let mean = 0;
  for (let x = 0; x < V; x++) if (law[x]! > 0) mean += law[x]! * Math.exp(run(x) - before);
  return mean;
}

describe('the e-process against a known law', () => {
  const bets = fc.tuple(row, row, row, fc.array(fc.integer({ min: 0, max: V - 1 }), { maxLength: 30 }));
  const fillOf =
    (a: Float64Array, b: Float64Array): Fill =>
    (k, out) => {
      out.set(k === 0 ? a : b);
      return true;
    };

  prop.prop([bets], { seed: 302, numRuns: 300 })(
    'has a mean of at most 1 a step, whatever the past',
    ([p, a, b, past]) => {
      const seen = past.filter((x) => p[x]! > 0);
      expect(meanStep(p, seen, fillOf(a, b), p)).toBeLessThanOrEqual(1 + 1e-9);
      // The row may change from step to step.
      expect(meanStep(p, seen, fillOf(a, p), b)).toBeLessThanOrEqual(1 + 1e-9);
    },
  );

  it('twin: a bet on something that is no law would exceed 1', () => {
    const p = Float64Array.of(0.2, 0.2, 0.2, 0.2, 0.2);
    const tooMuch = Float64Array.of(0.5, 0.5, 0.5, 0.5, 0.5);
    expect(meanStep(p, [0, 1, 2], fillOf(tooMuch, tooMuch), p)).toBeGreaterThan(1.05);
  });

  it('rarely gets far under the null, and far under another law', () => {
    const p = Float64Array.of(0.5, 0.2, 0.15, 0.1, 0.05);
    const other = Float64Array.of(0.4, 0.2, 0.15, 0.1, 0.15);
    const sup = (truth: Float64Array, seed: number): number => {
      const random = new Random(String(seed), 1);
      const process = new CategoricalProcess({ families: ['a', 'b'], alphabet: V, slots: 1, powerEvery: 50 });
      for (let i = 0; i < 600; i++) {
        const x = outcomeOf(random, truth);
        process.observe(p, x, fillOf(other, p), [0], '');
      }
      return process.mixture.logSup;
    };
    const nulls = Array.from({ length: 400 }, (_, seed) => sup(p, seed));
    // Ville: at most 5 % reach 20; 400 runs with more than 36 would happen once in a thousand.
    expect(nulls.filter((value) => value >= Math.log(20)).length).toBeLessThan(36);
    const wrong = Array.from({ length: 20 }, (_, seed) => sup(other, 1_000 + seed));
    expect(Math.min(...wrong)).toBeGreaterThan(Math.log(1_000));
  });

  it('an outcome of probability 0 refutes at once', () => {
    const process = new CategoricalProcess({ families: [], alphabet: 2, slots: 1, powerEvery: 1 });
    process.observe(Float64Array.of(1, 0), 1, () => false, [0], 'here');
    expect(process.mixture.logSup).toBe(Number.POSITIVE_INFINITY);
    expect(process.mixture.impossible).toContain('here');
  });

  it('states a power that simulation confirms', () => {
    const p = Float64Array.of(0.5, 0.3, 0.2);
    const m = Float64Array.of(0.3, 0.3, 0.4);
    const level = 1e-3;
    const power = 0.9;
    const fill: Fill = (_, out) => {
      out.set(m);
      return true;
    };
    const run = (share: number, n: number, seed: number): CategoricalProcess => {
      const random = new Random(String(seed), 2);
      const process = new CategoricalProcess({ families: ['m'], alphabet: 3, slots: 1, powerEvery: 1 });
      const truth = p.map((value, x) => (1 - share) * value + share * m[x]!);
      for (let i = 0; i < n; i++) {
        process.observe(p, outcomeOf(random, truth), fill, [0], '');
      }
      return process;
    };
    const n = 3_000;
    const share = run(0, n, 0).detectable(level, power)[0]!.share!;
    expect(share).toBeLessThan(0.99);
    const hits = Array.from({ length: 200 }, (_, seed) => run(share, n, seed).mixture.logSup >= Math.log(1 / level));
    expect(hits.filter(Boolean).length / 200).toBeGreaterThanOrEqual(power - 0.06);
  });
});

describe('the transform', () => {
  const p = Float64Array.of(0.4, 0.3, 0.2, 0.1);
  const q = Float64Array.of(0.1, 0.2, 0.3, 0.4);
  const run = (truth: Float64Array, n: number): number => {
    const random = new Random('9', 3);
    const pit = new PitProcess('3');
    for (let i = 0; i < n; i++) {
      pit.observe(p, q, outcomeOf(random, truth));
    }
    return pit.logSup;
  };
  it('stays low when tokens follow p', () => expect(run(p, 3_000)).toBeLessThan(Math.log(1e3)));
  it('grows when they follow q', () => expect(run(q, 3_000)).toBeGreaterThan(Math.log(1e6)));
});

describe('two samples', () => {
  const run = (shift: number, seed: number): number => {
    const random = new Random(String(seed), 4);
    const process = new TwoSampleProcess(3);
    for (let batch = 0; batch < 20; batch++) {
      const draw = (heads: number): number[][] =>
        Array.from({ length: 16 }, () => [random.uniform() < heads ? 0 : 1, random.below(3)]);
      process.batch('p', draw(0.5), draw(0.5 + shift));
    }
    return process.mixture.logSup;
  };
  it('Ville holds: at most a twentieth of equal pairs reach 20', () => {
    const far = Array.from({ length: 300 }, (_, seed) => run(0, seed)).filter((value) => value >= Math.log(20));
    expect(far.length).toBeLessThan(29);
  });
  it('unequal pairs are found', () => expect(run(0.3, 5)).toBeGreaterThan(Math.log(1e6)));
});

describe('rows', () => {
  it.each([
    [[0], 'entries'],
    [[Math.log(0.5), Number.NaN], 'not a number'],
    [[0.2, Number.NEGATIVE_INFINITY], 'above'],
    [[Math.log(0.5), Math.log(0.6)], 'add up'],
    [[Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY], 'add up'],
    [[Number.POSITIVE_INFINITY, 0], 'above'],
  ])('%o is refused', (values, word) => expect(lawOf(Float64Array.from(values), 2)).toContain(word));
  it('a one-hot row is a row', () =>
    expect(lawOf(Float64Array.of(0, Number.NEGATIVE_INFINITY), 2)).toEqual(Float64Array.of(1, 0)));
});

describe('filters', () => {
  const row4 = Float64Array.of(0.1, 0.4, 0.3, 0.2);
  it.each([
    [1, 0, 1, [0.1, 0.4, 0.3, 0.2]],
    [0.5, 0, 1, [1 / 30, 16 / 30, 9 / 30, 4 / 30]],
    [1, 2, 1, [0, 4 / 7, 3 / 7, 0]],
    [1, 0, 0.5, [0, 4 / 7, 3 / 7, 0]],
    [1, 0, 0.3, [0, 1, 0, 0]],
    [1, 3, 0.6, [0, 4 / 7, 3 / 7, 0]],
  ])('temperature %d, top-k %i, top-p %d', (temperature, topK, topP, expected) => {
    const { row } = filterRow(row4, temperature, topK, topP);
    expect([...row].map((value) => value.toFixed(12))).toEqual(expected.map((value) => value.toFixed(12)));
  });
  it('says when the cut lies on an edge', () => {
    expect(filterRow(row4, 1, 0, 0.7).onEdge).toBe(true);
    expect(filterRow(Float64Array.of(0.25, 0.25, 0.25, 0.25), 1, 0, 0.6).onEdge).toBe(true);
    expect(filterRow(row4, 1, 0, 0.6).onEdge).toBe(false);
  });
});

describe('helpers', () => {
  it('adds exponentials without overflow', () => {
    expect(logSumExp([1000, 1000])).toBeCloseTo(1000 + Math.LN2, 12);
    expect(logSumExp([])).toBe(Number.NEGATIVE_INFINITY);
  });
  it('resumes where earlier runs ended', () => {
    const first = new Mixture(['a', 'b'], [0.5, 0.5]);
    first.bet(0, 2);
    first.settle();
    const second = new Mixture(['a', 'b'], [0.5, 0.5]);
    second.resume(first.earnings());
    expect(second.logValue()).toBeCloseTo(first.logValue(), 12);
  });
  it('e-BH on a worked example: 60 and 45 of four at 0.1, because the second need only reach 20', () => {
    expect(eBenjaminiHochberg([60, 45, 2, 1].map(Math.log), 0.1)).toEqual([0, 1]);
    expect(eBenjaminiHochberg([30, 15, 2, 1].map(Math.log), 0.1)).toEqual([]);
  });
  it('Clopper-Pearson against published values', () => {
    const { low, high } = clopperPearson(4, 20, 0.95);
    expect(low).toBeCloseTo(0.0573, 4);
    expect(high).toBeCloseTo(0.4366, 4);
    expect(clopperPearson(0, 10, 0.95).high).toBeCloseTo(0.3085, 4);
  });
});
