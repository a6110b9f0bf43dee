/**
 * Losslessness in law: under `reject` the joint law of the first four tokens (one from the prefill, three from verify rounds) is
 * that of the target, computed exactly from teacher-forced rows. Pearson's chi-square over all 4^4 continuations, cells expected
 * below 5 pooled; alpha = 1e-4 a test, seeds fixed. The twins read the same rounds wrongly and must be rejected.
 */
import { beforeAll, describe, expect, test } from 'vitest';
import { gammaQ } from '../../../harness/stats/chisquare.ts';
import { CpuModel } from '../../../native/engines.ts';
import { checkpoint, decode, randomIds, SAMPLED, tinyVocabulary } from './checkpoints.ts';

const VOCAB = 4;
const LENGTH = 4;
const SESSIONS = 4000;
const ALPHA = 1e-4;

const index = (tokens: readonly number[]) => tokens.reduce((cell, token) => cell * VOCAB + token, 0);

/** p-value of counts against a law, cells with expectation below 5 taken together. */
function chiSquare(counts: readonly number[], law: readonly number[]): number {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const pooled: [number, number] = [0, 0];
  let statistic = 0;
  let cells = 0;
  const add = (count: number, expected: number) => {
    statistic += (count - expected) ** 2 / expected;
    cells += 1;
  };
  law.forEach((p, i) => {
    if (p * total >= 5) add(counts[i]!, p * total);
    else {
      pooled[0] += counts[i]!;
      pooled[1] += p * total;
    }
  });
  if (pooled[1] > 0) add(...pooled);
  return gammaQ((cells - 1) / 2, statistic / 2);
}

describe('reject', () => {
  let law: number[];
  let emitted: number[];
  let acceptedAll: number[];
  let accepted = 0;
  let rounds = 0;

  beforeAll(async () => {
    const model = await CpuModel.load(await checkpoint('law', { ...tinyVocabulary(VOCAB), seed: 29 }));
    const prompt = randomIds(2, 5, VOCAB);
    const continuations = Array.from({ length: VOCAB ** LENGTH }, (_, cell) =>
      Array.from({ length: LENGTH }, (_, i) => Math.floor(cell / VOCAB ** (LENGTH - 1 - i)) % VOCAB),
    );
    const engine = model.engine({ blockSize: 4, rule: 'reject' });
    law = [];
    for (const tokens of continuations) {
      law.push(Math.exp((await engine.score(prompt, tokens)).logprobs.reduce((sum, logprob) => sum + logprob, 0)));
    }
    emitted = new Array<number>(law.length).fill(0);
    acceptedAll = new Array<number>(law.length).fill(0);
    for (let s = 0; s < SESSIONS; s++) {
      const got = await decode(engine, prompt, { ...SAMPLED, seed: String(1000 + s), maxTokens: LENGTH });
      const [prefill, first] = got;
      emitted[index(got.flatMap((round) => round.committed))]! += 1;
      acceptedAll[index([...prefill!.committed, ...first!.drafted])]! += 1;
      accepted += first!.accepted;
      rounds += 1;
    }
    await model.close();
  });

  test('the exact law is a law, and not a trivial one', () => {
    expect(law.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 9);
    expect(law.filter((p) => p * SESSIONS >= 5).length).toBeGreaterThan(20);
    expect(accepted / rounds).toBeGreaterThan(0.3); // both acceptances and residual draws occur
    expect(accepted / rounds).toBeLessThan(2.7);
  });

  test('emitted tokens follow it', () => {
    expect(chiSquare(emitted, law)).toBeGreaterThan(ALPHA);
  });

  test('an engine that accepted every draft would be rejected', () => {
    expect(chiSquare(acceptedAll, law)).toBeLessThan(ALPHA);
  });

  test('a law with a twentieth of the mass moved from one cell to another would be rejected', () => {
    const order = [...law.keys()].sort((a, b) => law[b]! - law[a]!);
    const moved = [...law];
    moved[order[0]!]! -= 0.05;
    moved[order[1]!]! += 0.05;
    expect(Math.min(...moved)).toBeGreaterThanOrEqual(0);
    expect(chiSquare(emitted, moved)).toBeLessThan(ALPHA);
  });
});
