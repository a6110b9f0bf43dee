/**
 * Every figure comes back within its interval as often as the interval says: a fast version of the published calibration, and the
 * published one read back. Wrong estimators, judged on the same campaigns, must miss: else this test could not fail.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import {
  type Coverage,
  calibrated,
  calibrateMeasurement,
  LAW,
  roundsLaw,
  truths,
  WRONG,
} from '../../../harness/measure/calibration.ts';
import { Random } from '../../../harness/stats/philox.ts';
import { clopperPearson } from '../../../harness/stats/proportion.ts';

vi.setConfig({ testTimeout: 600_000 });

const PUBLISHED = JSON.parse(
  readFileSync(new URL('../../../results/calibration/measurement.json', import.meta.url), 'utf8'),
) as { options: { campaigns: number }; figures: Coverage[]; wrong: Coverage[] };

describe('the true values', () => {
  it('agree with a simulation of rounds that shares no code with them', () => {
    const random = new Random('3', 9);
    for (const accept of [0.5, 0.9]) {
      const law = roundsLaw(accept, 8, 47);
      const sums = { rounds: 0, raw: 0, rawPerRound: 0 };
      const n = 20_000;
      for (let i = 0; i < n; i++) {
        let left = 47;
        let rounds = 0;
        let raw = 0;
        while (left > 0) {
          let e = 1;
          while (e < 8 && random.uniform() < accept) e += 1;
          left -= e;
          raw += e;
          rounds += 1;
        }
        sums.rounds += rounds / n;
        sums.raw += raw / n;
        sums.rawPerRound += raw / rounds / n;
      }
      // 20,000 sessions: the standard error of the mean number of rounds is below 0.03.
      expect(law.rounds).toBeCloseTo(sums.rounds, 0);
      expect(Math.abs(law.rounds - sums.rounds)).toBeLessThan(0.12);
      expect(Math.abs(law.raw - sums.raw)).toBeLessThan(0.12);
      expect(Math.abs(law.rawPerRound - sums.rawPerRound)).toBeLessThan(0.05);
    }
  });

  it('are 1 token a round without speculation', () => {
    expect(roundsLaw(0, 1, 47)).toMatchObject({ rounds: 47, raw: 47, keptPerRound: 1 });
    expect(truths(LAW).get('off decode-tps')).toBeCloseTo(1e9 / LAW.stepNs.plain, 9);
  });
});

describe('60 campaigns', () => {
  it('hold every true value as often as stated, and no wrong estimator does', async () => {
    const result = await calibrateMeasurement({
      law: LAW,
      campaigns: 60,
      prompts: 32,
      blocks: 2,
      resamples: 300,
      seed: '20260101',
    });
    expect(result.figures.length).toBeGreaterThan(40);
    for (const row of result.figures) {
      expect(row.campaigns, row.figure).toBe(60);
      expect(calibrated(row), `${row.figure}: ${row.held} of ${row.campaigns}`).toBe(true);
      expect(Math.abs(row.ratio - 1), row.figure).toBeLessThan(0.05);
    }
    expect(result.wrong).toHaveLength(Object.keys(WRONG).length);
    for (const row of result.wrong) expect(calibrated(row), row.figure).toBe(false);
  });
});

describe('the published calibration', () => {
  it('has 500 campaigns, of which every figure held and every wrong estimator missed', () => {
    expect(PUBLISHED.options.campaigns).toBeGreaterThanOrEqual(500);
    const names = [...truths(LAW).keys()];
    expect(PUBLISHED.figures.map((row) => row.figure)).toEqual(names);
    for (const row of [...PUBLISHED.figures, ...PUBLISHED.wrong]) {
      const ends = clopperPearson(row.held, row.campaigns, 0.999);
      expect(row.low).toBeCloseTo(ends.low, 9);
      expect(row.high).toBeCloseTo(ends.high, 9);
    }
    for (const row of PUBLISHED.figures) {
      expect(calibrated(row), row.figure).toBe(true);
      expect(row.truth).toBeCloseTo(truths(LAW).get(row.figure)!, 9);
    }
    for (const row of PUBLISHED.wrong) expect(calibrated(row), row.figure).toBe(false);
  });
});
