/** The statistics against independent oracles (published vectors, @stdlib, closed forms) and by calibration under the null. */
import { fc, test as prop } from '@fast-check/vitest';
import betaQuantile from '@stdlib/stats-base-dists-beta-quantile';
import chisquareCdf from '@stdlib/stats-base-dists-chisquare-cdf';
import { describe, expect, it } from 'vitest';
import { bcaInterval, meanOf, ratioOfSums } from '../../../harness/stats/bootstrap.ts';
import {
  chiSquareCritical,
  chiSquareSurvival,
  detectableNoncentrality,
  logGamma,
  noncentralChiSquareSurvival,
  normalCdf,
  normalQuantile,
} from '../../../harness/stats/chisquare.ts';
import { holm } from '../../../harness/stats/holm.ts';
import { philox4x32, Random, uniform52 } from '../../../harness/stats/philox.ts';
import { upperBoundWithoutEvent } from '../../../harness/stats/proportion.ts';

describe('Philox4x32-10', () => {
  it('gives the known answers of the Random123 distribution', () => {
    expect(philox4x32([0, 0, 0, 0], 0, 0)).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    const ones = 0xffffffff;
    expect(philox4x32([ones, ones, ones, ones], ones, ones)).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
    expect(philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], 0xa4093822, 0x299f31d0)).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ]);
  });

  it('keeps uniforms strictly inside (0, 1) at both ends', () => {
    expect(uniform52(0, 0)).toBe(2 ** -53);
    expect(uniform52(0xffffffff, 0xffffffff)).toBe(1 - 2 ** -53);
  });
});

describe('chi-square', () => {
  prop.prop([fc.double({ min: 1e-3, max: 400, noNaN: true }), fc.integer({ min: 1, max: 300 })], {
    seed: 11,
    numRuns: 400,
  })('survival agrees with an independent implementation', (x, df) => {
    const expected = 1 - chisquareCdf(x, df);
    expect(Math.abs(chiSquareSurvival(x, df) - expected)).toBeLessThan(1e-12);
  });

  it('keeps relative accuracy far in the tail', () => {
    // df 2 has the closed form exp(-x / 2); df 4 has exp(-x / 2) (1 + x / 2).
    for (const x of [1, 20, 100, 600]) {
      expect(chiSquareSurvival(x, 2) / Math.exp(-x / 2)).toBeCloseTo(1, 11);
      expect(chiSquareSurvival(x, 4) / (Math.exp(-x / 2) * (1 + x / 2))).toBeCloseTo(1, 11);
    }
  });

  it('has the published critical values and noncentralities', () => {
    // Critical values and lambda* for alpha 1e-6 and power .999, to the digits published with the defect catalogue.
    const rows = [
      [1, 23.9, 63.7],
      [3, 30.7, 72.0],
      [7, 40.5, 82.1],
      [15, 56.5, 95.9],
      [63, 131.4, 141.6],
      [255, 377.1, 231.7],
    ] as const;
    for (const [df, critical, lambda] of rows) {
      expect(chiSquareCritical(1e-6, df)).toBeCloseTo(critical, 0);
      expect(Math.abs(detectableNoncentrality(1e-6, df, 0.999) - lambda)).toBeLessThan(0.06);
    }
  });

  it('noncentral law with one degree of freedom is the square of a shifted normal', () => {
    for (const [x, lambda] of [
      [0.5, 1],
      [4, 3],
      [30, 12],
      [60, 64],
    ] as const) {
      const root = Math.sqrt(x);
      const shift = Math.sqrt(lambda);
      const expected = 1 - normalCdf(root - shift) + normalCdf(-root - shift);
      expect(noncentralChiSquareSurvival(x, 1, lambda)).toBeCloseTo(expected, 12);
    }
  });

  it('logGamma of integers is the logarithm of a factorial', () => {
    let factorial = 0;
    for (let n = 1; n < 170; n++) {
      expect(Math.abs(logGamma(n) - factorial)).toBeLessThan(1e-12 * Math.max(1, factorial));
      factorial += Math.log(n);
    }
    expect(logGamma(0.5)).toBeCloseTo(Math.log(Math.sqrt(Math.PI)), 13);
  });

  prop.prop([fc.double({ min: 1e-9, max: 1 - 1e-9, noNaN: true })], { seed: 12, numRuns: 200 })(
    'normal quantile inverts the distribution, which agrees with chi-square(1)',
    (p) => {
      const z = normalQuantile(p);
      expect(Math.abs(normalCdf(z) - p)).toBeLessThan(1e-13);
      const oracle = z < 0 ? (1 - chisquareCdf(z * z, 1)) / 2 : (1 + chisquareCdf(z * z, 1)) / 2;
      expect(Math.abs(normalCdf(z) - oracle)).toBeLessThan(1e-13);
    },
  );
});

describe('Holm', () => {
  it('steps down as in the worked example', () => {
    const adjusted = holm([0.01, 0.04, 0.03, 0.005]);
    [0.03, 0.06, 0.06, 0.02].forEach((expected, i) => {
      expect(adjusted[i]).toBeCloseTo(expected, 12);
    });
  });

  prop.prop([fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 20 })], { seed: 13 })(
    'lies between the raw p-value and Bonferroni, and keeps the order',
    (ps) => {
      const adjusted = holm(ps);
      ps.forEach((p, i) => {
        expect(adjusted[i]!).toBeGreaterThanOrEqual(p);
        expect(adjusted[i]!).toBeLessThanOrEqual(Math.min(1, p * ps.length) + 1e-15);
        ps.forEach((other, j) => {
          if (p < other) expect(adjusted[i]!).toBeLessThanOrEqual(adjusted[j]!);
        });
      });
    },
  );

  it('keeps the family-wise error under the null', () => {
    const random = new Random('4', 1);
    let alarms = 0;
    const families = 4000;
    for (let f = 0; f < families; f++) {
      const ps = Array.from({ length: 7 }, () => random.uniform());
      if (holm(ps).some((p) => p <= 0.05)) alarms += 1;
    }
    // 0.05 within four standard errors, and not degenerate.
    expect(alarms / families).toBeLessThan(0.05 + 4 * Math.sqrt((0.05 * 0.95) / families));
    expect(alarms / families).toBeGreaterThan(0.03);
  });
});

describe('proportions', () => {
  it('the bound without an event is the beta quantile', () => {
    for (const n of [1, 7, 64, 256, 10_000]) {
      expect(upperBoundWithoutEvent(n, 0.999)).toBeCloseTo(betaQuantile(0.999, 1, n), 12);
    }
  });
});

describe('BCa bootstrap', () => {
  it('resamples by the stream of its seed from the beginning, whatever was drawn before', () => {
    // In turn: a first seed, more of it, another, the first again; and more draws than are kept from one call to the next.
    for (const [seed, clusters, resamples] of [
      ['3', 7, 11],
      ['3', 40, 90],
      ['18446744073709551615', 5, 20],
      ['3', 13, 30],
      ['4', 1301, 900],
      ['4', 1301, 900],
    ] as const) {
      const random = new Random(seed, 0xb007);
      let looks = 0;
      let other = 0;
      bcaInterval(
        clusters,
        (indices) => {
          // The sample itself is looked at first, the jackknife's samples last.
          looks += 1;
          if (looks > 1 && looks <= resamples + 1) {
            for (let i = 0; i < clusters; i++) if (indices[i] !== random.below(clusters)) other += 1;
          }
          return indices[0]! + indices[indices.length - 1]!;
        },
        { seed, resamples, level: 0.95 },
      );
      expect([looks > resamples, other]).toEqual([true, 0]);
    }
  });

  it('covers the true ratio at about its level', () => {
    // Clusters with a heavy right tail, where a plain percentile interval under-covers.
    const truth = 2;
    let covered = 0;
    const campaigns = 400;
    const random = new Random('9', 2);
    for (let c = 0; c < campaigns; c++) {
      const steps: number[] = [];
      const tokens: number[] = [];
      for (let i = 0; i < 60; i++) {
        const s = 5 + random.below(40);
        steps.push(s);
        tokens.push(s * truth * -Math.log(random.uniform()));
      }
      const interval = bcaInterval(60, ratioOfSums(tokens, steps), { resamples: 400, level: 0.9, seed: String(c) })!;
      if (interval.low <= truth && truth <= interval.high) covered += 1;
    }
    const standardError = Math.sqrt((0.9 * 0.1) / campaigns);
    expect(covered / campaigns).toBeGreaterThan(0.9 - 0.02 - 3 * standardError);
    expect(covered / campaigns).toBeLessThan(0.9 + 3 * standardError);
  });

  it('moves both ends towards the long tail, where the percentile interval stays behind', () => {
    const values = Array.from({ length: 40 }, (_, i) => -Math.log((i + 0.5) / 40));
    const options = { resamples: 20_000, level: 0.95, seed: '3' };
    const right = bcaInterval(40, meanOf(values), options)!;
    const random = new Random('77', 1);
    const means = Array.from({ length: 20_000 }, () => {
      let sum = 0;
      for (let k = 0; k < 40; k++) sum += values[random.below(40)]!;
      return sum / 40;
    }).sort((a, b) => a - b);
    expect(right.low).toBeGreaterThan(means[500]! + 0.01);
    expect(right.high).toBeGreaterThan(means[19_500]! + 0.02);
    const left = bcaInterval(40, meanOf(values.map((value) => -value)), options)!;
    expect(left.low).toBeCloseTo(-right.high, 1);
    expect(left.high).toBeCloseTo(-right.low, 1);
  });

  it('is equivariant: a scaled sample gives the scaled interval', () => {
    const values = Array.from({ length: 40 }, (_, i) => Math.sin(i) + (i % 7));
    const one = bcaInterval(40, meanOf(values))!;
    const ten = bcaInterval(40, meanOf(values.map((v) => v * 10)))!;
    expect(ten.low).toBeCloseTo(one.low * 10, 9);
    expect(ten.high).toBeCloseTo(one.high * 10, 9);
  });

  it('has no interval for one cluster or an undefined ratio, and a point for a constant', () => {
    expect(bcaInterval(1, meanOf([3]))).toBeNull();
    expect(bcaInterval(3, ratioOfSums([0, 0, 0], [0, 0, 0]))).toBeNull();
    expect(bcaInterval(3, meanOf([2, 2, 2]))).toEqual({ low: 2, high: 2 });
  });
});
