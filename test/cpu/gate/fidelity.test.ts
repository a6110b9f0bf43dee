/** Fidelity of other numerics: TOST, near ties and the intervals behind them, each against an independent figure and by its own null. */
import chisquareCdf from '@stdlib/stats-base-dists-chisquare-cdf';
import { describe, expect, it } from 'vitest';
import type { Engine } from '../../../harness/engine.ts';
import { markovSource } from '../../../harness/engines/markov.ts';
import type { EngineSource } from '../../../harness/engines/plugin.ts';
import { bcaInterval, meanOf } from '../../../harness/stats/bootstrap.ts';
import { normalQuantile } from '../../../harness/stats/chisquare.ts';
import { Random } from '../../../harness/stats/philox.ts';
import { TOST_ALPHA, TOST_LEVEL, tost } from '../../../harness/stats/tost.ts';
import { poissonTail } from '../../../harness/verify/counters.ts';
import { nearTies } from '../../../harness/verify/near-tie.ts';
import { CHAIN, find, gate, refutations } from './support.ts';

describe('TOST', () => {
  it.each([
    [{ low: -0.004, high: 0.006 }, 'equivalent'],
    [{ low: -0.004, high: 0.01 }, 'inconclusive'],
    [{ low: 0.01, high: 0.02 }, 'different'],
    [{ low: -0.5, high: -0.02 }, 'different'],
    [{ low: 0.005, high: 0.5 }, 'inconclusive'],
    [{ low: -1, high: 1 }, 'inconclusive'],
    [{ low: Number.NaN, high: 0 }, 'inconclusive'],
    [null, 'inconclusive'],
  ] as const)('%j within 0.01: %s', (interval, verdict) => {
    expect(tost(interval, 0.01)).toBe(verdict);
  });

  it('calls a difference at the margin equivalent in at most alpha of samples, and a wider interval never more often', () => {
    const random = new Random('21', 1);
    const runs = 300;
    let equivalent = 0;
    for (let run = 0; run < runs; run++) {
      const sample = Array.from({ length: 40 }, () => 0.01 + 0.01 * normalQuantile(random.uniform()));
      const options = { resamples: 400, level: TOST_LEVEL, seed: String(run) };
      if (tost(bcaInterval(sample.length, meanOf(sample), options), 0.01) === 'equivalent') equivalent += 1;
    }
    // alpha plus three standard errors of 300 runs.
    expect(equivalent / runs).toBeLessThan(TOST_ALPHA + 3 * Math.sqrt((TOST_ALPHA * (1 - TOST_ALPHA)) / runs));
    expect(equivalent).toBeGreaterThan(0); // twin: it can
  });
});

it('Poisson tails against the chi-square law: P(X >= k) = P(chi2 with 2k degrees <= 2 mean)', () => {
  for (const mean of [0.001, 0.3, 2, 17]) {
    for (const count of [1, 2, 5, 20]) {
      const expected = chisquareCdf(2 * mean, 2 * count);
      expect(Math.abs(poissonTail(count, mean) - expected)).toBeLessThan(1e-12 + 1e-9 * expected);
    }
  }
});

describe('near ties', () => {
  const random = new Random('22', 1);
  const moves = Array.from({ length: 4_000 }, () => 0.01 * normalQuantile(random.uniform()));
  const gaps = Array.from({ length: 2_000 }, () => 3 * random.uniform());
  const flips = (scale: number) =>
    gaps.flatMap((gap, i) =>
      -scale * 0.01 * normalQuantile(random.uniform()) > gap ? [{ where: String(i), gap }] : [],
    );
  it('of the same noise are neither too large nor too many', () => {
    const ties = nearTies(flips(1), moves, gaps);
    expect(ties).toMatchObject({ beyond: [], tooMany: false });
    expect(ties.expected).toBeGreaterThan(1);
    expect(ties.expected).toBeLessThan(6); // 2000 * E|move| / 2 / 3 = 2.7
    expect(ties.bound).toBeGreaterThan(0.03);
    expect(ties.bound).toBeLessThan(0.05);
  });
  it('of thirty times the noise are both', () => {
    const ties = nearTies(flips(30), moves, gaps);
    expect(ties.beyond.length).toBeGreaterThan(0);
    expect(ties.tooMany).toBe(true);
  });
  it('too many small ones refute although each is benign', () => {
    const small = Array.from({ length: 30 }, (_, i) => ({ where: String(i), gap: 0.001 }));
    expect(nearTies(small, moves, gaps)).toMatchObject({ beyond: [], tooMany: true });
    expect(nearTies(small, moves, null).tooMany).toBe(false); // without gaps the count is not judged
  });
  it('a gap that is no number is beyond', () => {
    expect(nearTies([{ where: 'x', gap: Number.NaN }], moves, null).beyond).toHaveLength(1);
  });
});

describe('a baseline of other numerics', () => {
  /** The chain whose scores, and greedy choices where asked, are off by noise of a size. */
  function noisy(size: number, greedyShift = false): EngineSource {
    const source = markovSource(CHAIN);
    // A function of the text: scores must not depend on how it is split.
    const noise = (text: readonly number[]): number => {
      const random = new Random(String(1 + text.reduce((h, x) => (31 * h + x + 1) % 1_000_003, 7)), 1);
      return size * normalQuantile(random.uniform());
    };
    return {
      ...source,
      open: async (options) => {
        const engine = await source.open(options);
        const other = greedyShift ? await markovSource({ ...CHAIN, weights: '6' }).open(options) : engine;
        return {
          ...engine,
          card: { ...engine.card, numerics: { ...engine.card.numerics, id: 'markov=f16' } },
          open: (prompt, decoding) => (decoding.temperature === 0 ? other : engine).open(prompt, decoding),
          score: async (prefix, next) => {
            const { logprobs } = await engine.score(prefix, next);
            return { logprobs: logprobs.map((value, i) => value + noise([...prefix, ...next.slice(0, i)])) };
          },
        } satisfies Engine;
      },
    };
  }
  const compared = (source: EngineSource, margin?: number) =>
    gate(source, {
      baseline: markovSource(CHAIN),
      budget: { prompts: 32, equalityPrompts: 32, equalityTokens: 40 },
      ...(margin === undefined ? {} : { fidelityMargin: margin }),
    });

  it('is told, not judged, without a margin', async () => {
    const result = await compared(noisy(0.001));
    expect(result.verdict).toBe('inconclusive');
    for (const id of ['losslessness', 'fidelity likelihood', 'fidelity greedy'])
      expect(find(result, id).outcome).toBe('not testable here');
    expect(find(result, 'fidelity likelihood').evidence).toMatch(/nats a token, 90 % interval .* over \d+ prompts/);
  });
  it('is equivalent within a margin far above the noise, and no losslessness follows from that', async () => {
    const result = await compared(noisy(0.001), 0.01);
    expect(find(result, 'fidelity likelihood')).toMatchObject({ outcome: 'consistent' });
    expect(find(result, 'fidelity greedy')).toMatchObject({ outcome: 'consistent' });
    expect(result.verdict).toBe('inconclusive');
  });
  it('is different where its scores are, inconclusive where they are too noisy', async () => {
    const worse = markovSource({ ...CHAIN, weights: '6' });
    expect(refutations(await compared(worse, 0.01))).toContain('fidelity likelihood');
    expect(find(await compared(noisy(0.3), 0.001), 'fidelity likelihood').outcome).toBe('inconclusive');
  });
  it('refutes greedy outputs that part at wide gaps although the likelihoods agree', async () => {
    const result = await compared(noisy(0.001, true), 0.01);
    expect(refutations(result)).toEqual(['fidelity greedy']);
    expect(find(result, 'fidelity greedy').evidence).toMatch(/first: prompt .*, gap \d/);
  });
});
