/** Windows, percentiles, intervals, warm-up: against brute force, tables and hand-worked cases. */
import { fc, test as prop } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { amortisedLatencies, chunkLatencies, tokenLatencies } from '../../../harness/measure/cells.ts';
import { pricePerMillion, taskSeconds, tokensWithin, triesWithin } from '../../../harness/measure/economics.ts';
import { splitByFacet } from '../../../harness/measure/facets.ts';
import { between, ratioBetween, speedInterval, widened } from '../../../harness/measure/interval.ts';
import { percentile, quantile } from '../../../harness/measure/percentile.ts';
import { acceptanceSource } from '../../../harness/measure/source.ts';
import { acceptanceSwitches } from '../../../harness/measure/switches.ts';
import { Steadiness } from '../../../harness/measure/warmup.ts';
import { allBusy, peakOf } from '../../../harness/measure/windows.ts';
import { ratioOfSums } from '../../../harness/stats/bootstrap.ts';
import { Random } from '../../../harness/stats/philox.ts';
import { studentCdf, studentQuantile } from '../../../harness/stats/student.ts';
import { session } from './support.ts';

describe('latencies', () => {
  it('are between chunks, shared by the tokens of a chunk, or as a reader receives them', () => {
    const row = session({ kept: [1, 3, 2], stepNs: [5, 6, 8] });
    expect([...chunkLatencies([row])]).toEqual([6, 8]);
    expect([...amortisedLatencies([row])]).toEqual([2, 2, 2, 4, 4]);
    expect([...tokenLatencies([row])]).toEqual([0, 0, 0, 6, 8]);
  });
});

describe('the peak', () => {
  const chunks = fc.array(fc.record({ gap: fc.integer({ min: 1, max: 40 }), kept: fc.integer({ min: 0, max: 8 }) }), {
    minLength: 2,
    maxLength: 60,
  });
  prop.prop([chunks, fc.integer({ min: 1, max: 300 })], { seed: 71, numRuns: 300 })(
    'is the most tokens of any window, by looking at all of them',
    (list, width) => {
      const row = session({ kept: list.map((c) => c.kept), stepNs: list.map((c) => c.gap) });
      const ends = row.atNs.map((at, i) => ({ at, kept: row.kept[i]! }));
      // The best window may be taken to end with a chunk.
      const best = Math.max(
        ...ends.map(({ at }) => ends.filter((e) => e.at <= at && e.at > at - width).reduce((n, e) => n + e.kept, 0)),
      );
      const found = peakOf([row], width / 1e9);
      if (row.atNs.at(-1)! < width) expect(found).toBeNull();
      else expect(found!.tokensPerSecond).toBeCloseTo(best / (width / 1e9), 3);
    },
  );

  it('is never taken over single chunks: one long chunk is spread over the window', () => {
    const row = session({ kept: [1, 8, 1, 1, 1], stepNs: [1e9, 1e6, 1e9, 1e9, 1e9] });
    expect(peakOf([row], 1)!.tokensPerSecond).toBe(9);
    expect(peakOf([row], 1)!.tokensPerSecond).toBeLessThan(8 / 1e-3);
  });
});

describe('the time all slots are busy', () => {
  it('leaves out the ramp and the tail', () => {
    const a = session({ kept: [1, 1, 1, 1], stepNs: [1e9, 1e9, 1e9, 1e9] });
    const b = session({ kept: [1, 2], stepNs: [1e9, 1e9], startNs: 1e9, lane: 1 });
    // Both open from 1 s to 3 s: of a the chunks at 2 and 3 s, of b those at 2 and 3 s.
    expect(allBusy([a, b], 2)).toEqual({ seconds: 2, tokens: 5 });
    expect(allBusy([a, b], 1)).toEqual({ seconds: 4, tokens: 7 });
    expect(allBusy([a, b], 3)).toEqual({ seconds: 0, tokens: 0 });
  });
});

describe('percentiles', () => {
  it('refuse a tail of fewer than 1,000, and any interval that runs off the sample', () => {
    const values = Float64Array.from({ length: 999 }, (_, i) => i);
    expect(percentile(values, 0.99, 0.95)).toBeNull();
    expect(percentile(values, 0.5, 0.95)).not.toBeNull();
    expect(percentile(values.slice(0, 5), 0.5, 0.95)).toBeNull();
    expect(quantile([1, 2, 3, 4], 0.5)).toBe(2);
  });

  it('hold the true quantile as often as they say', () => {
    const random = new Random('5', 1);
    let held = 0;
    for (let i = 0; i < 1000; i++) {
      const values = Float64Array.from({ length: 200 }, () => random.uniform()).sort();
      const found = percentile(values, 0.9, 0.95)!;
      if (found.low <= 0.9 && 0.9 <= found.high) held += 1;
    }
    // 0.95 less four standard errors, and no more than an interval that is conservative by its ranks.
    expect(held).toBeGreaterThanOrEqual(922);
  });
});

describe("Student's t", () => {
  it.each([
    // Two-sided 95 %: tables of the t distribution.
    [1, 12.7062],
    [2, 4.30265],
    [3, 3.18245],
    [7, 2.36462],
    [30, 2.04227],
    [1e6, 1.95996],
  ])('%d degrees of freedom: %d', (df, t) => {
    expect(studentQuantile(0.975, df)).toBeCloseTo(t, 3);
    expect(studentCdf(studentQuantile(0.975, df), df)).toBeCloseTo(0.975, 9);
    expect(studentCdf(-t, df) + studentCdf(t, df)).toBeCloseTo(1, 12);
  });
});

describe('the interval of a speed', () => {
  it('grows with the spread between processes and is never shorter than that over prompts', () => {
    const tokens = Float64Array.from({ length: 20 }, (_, i) => 50 + (i % 5));
    const seconds = Float64Array.from({ length: 20 }, (_, i) => 1 + (i % 3) / 10);
    const statistic = ratioOfSums(tokens, seconds);
    const options = { resamples: 500, level: 0.95, seed: '1' };
    // Of one or two processes nothing can be said, unless they do not differ at all.
    expect(speedInterval(20, statistic, null, options)).toBeNull();
    expect(speedInterval(20, statistic, between([46, 48]), options)).toBeNull();
    const alone = speedInterval(20, statistic, between([47, 47]), options)!;
    let last = alone.high - alone.low;
    for (const spread of [0.1, 1, 5]) {
      const found = speedInterval(20, statistic, between([47 - spread, 47, 47 + spread, 47]), options)!;
      expect(found.high - found.low).toBeGreaterThan(last);
      expect(found.low).toBeGreaterThan(0);
      last = found.high - found.low;
    }
  });

  it('says nothing of processes from one of them, and adds the errors of both arms in a ratio', () => {
    expect(between([3])).toBeNull();
    expect(between([1, 2, 3])).toEqual({ error: Math.sqrt(1 / 3), df: 2 });
    const both = ratioBetween(10, { error: 1, df: 3 }, 5, { error: 0.5, df: 3 })!;
    expect(both.error).toBeCloseTo(2 * Math.sqrt(0.01 + 0.01), 12);
    expect(both.df).toBeCloseTo(6, 12);
    expect(widened(2, { low: 1, high: 3 }, 9, null, 0.95)).toEqual({ low: 1, high: 3 });
  });
});

describe('warm-up', () => {
  const plan = { windowSeconds: 1, windows: 3, tolerance: 0.01, mostSeconds: 100 };
  it('is over when the last windows agree, not before', () => {
    const warm = new Steadiness(plan);
    let at = 0;
    const run = (stepMs: number, seconds: number): void => {
      const end = at + seconds * 1e9;
      while (at < end) {
        at += stepMs * 1e6;
        warm.add(at, stepMs * 1e6);
      }
    };
    run(200, 2);
    expect(warm.spread()).toBeNull();
    run(100, 2);
    expect(warm.steady).toBe(false);
    run(100, 3);
    expect(warm.steady).toBe(true);
    run(120, 1);
    expect(warm.steady).toBe(false);
  });

  it('asks it of every window: one in the middle of the others does not speak for them', () => {
    const warm = new Steadiness(plan);
    let at = 0;
    for (const stepMs of [95, 100, 105]) {
      for (let i = 0; i < 11; i++) {
        at += stepMs * 1e6;
        warm.add(at, stepMs * 1e6);
      }
    }
    expect(warm.spread()).toBeGreaterThan(0.03);
    expect(warm.steady).toBe(false);
  });
});

describe('what a pace buys', () => {
  it('is the first token and then the pace', () => {
    const pace = { first: 0.5, perToken: 0.001 };
    expect(taskSeconds(pace, 1)).toBe(0.5);
    expect(taskSeconds(pace, 1001)).toBeCloseTo(1.5, 12);
    expect(tokensWithin(pace, 1.5)).toBeCloseTo(1001, 9);
    expect(tokensWithin(pace, 0.4)).toBe(0);
    expect(triesWithin({ first: 1, perToken: 0.01 }, pace, 1001)).toBe(7);
    expect(pricePerMillion(3.6, 1000)).toBeCloseTo(1, 12);
  });
});

describe('facets', () => {
  const prompt = (id: string, tags: string[] | undefined, tokens = 100) => ({ id, tags, tokens });
  it('are told by tags, and absent with a reason where no prompt has one', () => {
    const prompts = [prompt('a', ['lang:en']), prompt('b', ['lang:zh']), prompt('c', [])];
    expect(splitByFacet('language', prompts)).toEqual({
      facet: 'language',
      values: [
        { value: 'en', prompts: ['a'] },
        { value: 'zh', prompts: ['b'] },
        { value: 'not said', prompts: ['c'] },
      ],
    });
    expect(splitByFacet('thinking', prompts)).toMatchObject({ absent: expect.stringMatching(/no prompt/) });
    expect(splitByFacet('language', [prompt('a', undefined)])).toMatchObject({
      absent: expect.stringMatching(/did not record/),
    });
  });

  it('count every prompt once, by length whatever the tags', () => {
    const prompts = [64, 65, 256, 4096, 70_000].map((tokens, i) => prompt(`p${i}`, undefined, tokens));
    const split = splitByFacet('context', prompts);
    if ('absent' in split) throw new Error(split.absent);
    expect(split.values.map((entry) => [entry.value, entry.prompts.length])).toEqual([
      ['1 to 64 tokens', 1],
      ['65 to 256 tokens', 2],
      ['1025 to 4096 tokens', 1],
      ['65537 tokens and more', 1],
    ]);
  });
});

describe('sources', () => {
  it('acceptance without a shown draft is inferred', () => {
    expect(acceptanceSource([{ drafted: 7, kept: 3 }], 8)).toBe('trace');
    expect(acceptanceSource([{ drafted: 0, kept: 3 }], 8)).toBe('inferred');
    expect(acceptanceSource([{ drafted: 0, kept: 1 }], 1)).toBe('trace');
  });
});

describe('switches of acceptance', () => {
  it('are seen by name, on, and nothing else is', () => {
    expect(
      acceptanceSwitches({
        SGLANG_SIMULATE_ACC_LEN: '6.3',
        TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS: '0',
        MY_SYNTHETIC_ACCEPTANCE: 'yes',
        PATH: '/usr/bin',
        ACCEPT: 'x',
      }),
    ).toEqual(['MY_SYNTHETIC_ACCEPTANCE', 'SGLANG_SIMULATE_ACC_LEN']);
  });
});
