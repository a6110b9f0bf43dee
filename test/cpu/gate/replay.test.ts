/**
 * Replay and counters: rounds of truthful engines follow from their numbers, and each way in which one number, row or decision can
 * be another is seen. The rules are those of the native engine's oracle in test/support as well, so the judge is judged twice.
 */
import { fc, test as prop } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { Decoding, Round, VerificationRule } from '../../../harness/engine.ts';
import { type MarkovOptions, markovEngine } from '../../../harness/engines/markov.ts';
import { sharedGumbelGiven } from '../../../harness/oracle/gumbel.ts';
import { Random } from '../../../harness/stats/philox.ts';
import { CounterAudit, poissonTail } from '../../../harness/verify/counters.ts';
import { GUARD, type Replayed, replayRound, residualRow } from '../../../harness/verify/replay.ts';
import { coupledAcceptance, rowsOf } from '../../../harness/verify/round-laws.ts';
import { ToyModel } from '../../../native/engines.ts';
import { CHAIN, find, gateOf } from './support.ts';

const DECODING: Decoding = { seed: '11', temperature: 1, topP: 1, topK: 0, maxTokens: 40, stopIds: [] };

async function roundsOf(over: Partial<MarkovOptions> = {}, decoding = DECODING, prompt = [1, 2]): Promise<Round[]> {
  const session = await markovEngine({ ...CHAIN, ...over }).open(prompt, decoding);
  const rounds: Round[] = [];
  while (rounds.at(-1)?.finish == null) rounds.push(await session.step());
  return rounds;
}

function replayed(rounds: readonly Round[], prompt: number, rule: VerificationRule = 'reject', vocab = 6): Replayed[] {
  let position = prompt;
  return rounds.map((round) => {
    const rows = rowsOf(round, vocab);
    if (rows === null || typeof rows === 'string') throw new Error(String(rows));
    const result = replayRound({ rule, blockSize: round.kind === 'prefill' ? 1 : 4 }, DECODING, round, rows, position);
    position += round.committed.length;
    return result;
  });
}

const kinds = (results: readonly Replayed[]): string[] => [...new Set(results.map(({ kind }) => kind))].sort();

describe('replay', () => {
  prop.prop([fc.bigInt(0n, 2n ** 64n - 1n), fc.integer({ min: 2, max: 8 }), fc.constantFrom(0.5, 0.9, 1)], {
    seed: 911,
    numRuns: 60,
  })('every round of a truthful engine follows, whatever chain, block and filters', async (seed, blockSize, topP) => {
    const decoding = { ...DECODING, seed: seed.toString(), topP, temperature: 0.8 };
    const rounds = await roundsOf({ weights: seed.toString(), blockSize }, decoding);
    expect(kinds(replayed(rounds, 2))).toEqual(['same']);
  });

  it.each(['match', 'reject', 'coupled'] as const)('rounds of the native engine follow: %s', async (rule) => {
    const random = new Random('5', 1);
    const table = (rows: number) => Float32Array.from({ length: rows * 5 }, () => 3 * random.uniform());
    const model = await ToyModel.load({
      vocab: 5,
      order: 1,
      block: 4,
      maxContext: 64,
      targetLogits: table(5),
      draftLogits: table(15),
    });
    const session = await model.engine({ rule, replay: true }).open([1, 2], { ...DECODING, maxTokens: 50 });
    const rounds: Round[] = [];
    while (rounds.at(-1)?.finish == null) rounds.push(await session.step());
    expect(kinds(replayed(rounds, 2, rule, 5))).toEqual(['same']);
    const audit = new CounterAudit('philox4x32-10', '1');
    audit.session('11', rounds, '');
    expect(audit.found()).toEqual([]);
    const drawn = rounds.find((round) => round.accepted > 0)!;
    // Twins: another token, another number.
    const other = { ...drawn, committed: [...drawn.committed.slice(0, -1), (drawn.committed.at(-1)! + 1) % 5] };
    expect(kinds(replayed([other], 2, rule, 5))).toEqual(['differs']);
    const shifted = rounds.map((round) => ({
      ...round,
      replay: {
        ...round.replay!,
        uniforms: round.replay!.uniforms.map((use) => ({ ...use, u: use.u / 2 })),
        ...(round.replay!.noise === undefined
          ? {}
          : { noise: round.replay!.noise.map((use) => ({ ...use, u: use.u.map((u) => u / 2) })) }),
      },
    }));
    const wrong = new CounterAudit('philox4x32-10', '1');
    wrong.session('11', shifted, '');
    expect(wrong.found().length).toBeGreaterThan(0);
    await model.close();
  });

  it('names round, position and numbers of the first difference', async () => {
    const rounds = await roundsOf();
    const at = rounds.findIndex((round) => round.drafted.length > 0 && round.accepted < round.drafted.length);
    const round = rounds[at]!;
    const wrong = {
      ...round,
      committed: round.committed.with(round.accepted, (round.committed[round.accepted]! + 1) % 6),
    };
    const [result] = replayed([wrong], 20);
    expect(result).toMatchObject({
      kind: 'differs',
      text: expect.stringMatching(/correction at position \d+: u 0\.\d+ picks token \d, the engine took \d/),
    });
  });

  it('a decision inside the guard band is excused, outside it is not', () => {
    const row = Float64Array.of(0.25, 0.25, 0.5);
    const judged = (u: number, token: number) => {
      const replay = { p: [row.map(Math.log)], q: [], uniforms: [{ stream: 'target', position: 0, round: 0, u }] };
      const round = {
        kind: 'prefill',
        committed: [token],
        drafted: [],
        accepted: 0,
        finish: null,
        replay,
      } as unknown as Round;
      return replayRound({ rule: 'reject', blockSize: 1 }, DECODING, round, { p: [row], q: [] }, 0);
    };
    expect(judged(0.25, 1)).toMatchObject({ kind: 'same', excused: [] });
    expect(judged(0.25, 0)).toMatchObject({ kind: 'same', excused: [expect.any(String)] });
    expect(judged(0.25 - GUARD / 2, 1)).toMatchObject({ kind: 'same', excused: [expect.any(String)] });
    expect(judged(0.25 - 2 * GUARD, 1).kind).toBe('differs');
    expect(judged(0.25 + 2 * GUARD, 0).kind).toBe('differs');
  });

  it('a token without mass and a draft of p = 0 are never within rounding', () => {
    const p = Float64Array.of(0, 1);
    const q = Float64Array.of(1, 0);
    const replay = {
      p: [p.map(Math.log), p.map(Math.log)],
      q: [q.map(Math.log)],
      uniforms: ['draft', 'accept', 'residual'].map((stream) => ({ stream, position: 1, round: 1, u: 0 })),
    };
    const round = {
      kind: 'decode',
      committed: [0, 1],
      drafted: [0],
      accepted: 1,
      finish: null,
      replay,
    } as unknown as Round;
    const judged = replayRound({ rule: 'reject', blockSize: 2 }, DECODING, round, { p: [p, p], q: [q] }, 1);
    expect(judged).toMatchObject({ kind: 'differs', text: expect.stringContaining('with p 0 and q 1') });
    const refused = { ...round, accepted: 0, committed: [1] };
    expect(replayRound({ rule: 'reject', blockSize: 2 }, DECODING, refused, { p: [p, p], q: [q] }, 1).kind).toBe(
      'same',
    );
  });

  it.each([
    ['a number too few', (uniforms: unknown[]) => uniforms.slice(0, -1)],
    ['a number too many', (uniforms: unknown[]) => [...uniforms, uniforms[0]]],
    ['another order', (uniforms: unknown[]) => [...uniforms].reverse()],
    [
      'a number outside [0, 1)',
      (uniforms: unknown[]) => uniforms.map((use, i) => (i === 0 ? { ...(use as object), u: 1 } : use)),
    ],
    ['NaN', (uniforms: unknown[]) => uniforms.map((use, i) => (i === 0 ? { ...(use as object), u: Number.NaN } : use))],
  ])('%s does not fit the rule', async (_, change) => {
    const round = (await roundsOf()).find(({ drafted, accepted }) => drafted.length > 0 && accepted === 1)!;
    const uniforms = change([...round.replay!.uniforms]) as NonNullable<Round['replay']>['uniforms'];
    expect(kinds(replayed([{ ...round, replay: { ...round.replay!, uniforms } }], 9))).toEqual(['unfit']);
  });

  it('without numbers there is nothing to decide by, and holding some back is refuted', async () => {
    expect(kinds(replayed(await roundsOf({ uniforms: false }), 2))).toEqual(['untold']);
    const open = await gateOf({ uniforms: false, toys: false });
    expect(find(open, 'replay').outcome).toBe('not testable here');
    expect(find(open, 'toys').outcome).toBe('not testable here');
  });

  prop.prop(
    [
      fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 4, maxLength: 4 }),
      fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 4, maxLength: 4 }),
    ],
    { seed: 912 },
  )('residual rows are laws, and p where nothing is left', (a, b) => {
    fc.pre(a.some((x) => x > 0) && b.some((x) => x > 0));
    const row = (values: number[]) => Float64Array.from(values, (x) => x / values.reduce((s, y) => s + y, 0));
    const [p, q] = [row(a), row(b)];
    const rest = residualRow(p, q);
    expect(Math.abs(rest.reduce((s, x) => s + x, 0) - 1)).toBeLessThan(1e-12);
    expect(residualRow(p, p)).toEqual(p);
    rest.forEach((value, x) => {
      if (rest !== p && p[x]! <= q[x]!) expect(value).toBe(0);
    });
  });
});

describe('counters', () => {
  const audited = async (over: Partial<MarkovOptions>, change: (rounds: Round[]) => Round[] = (rounds) => rounds) => {
    const audit = new CounterAudit(over.uniforms === false ? undefined : 'philox4x32-10', '1');
    audit.session(DECODING.seed, change(await roundsOf(over)), 'here');
    return audit;
  };
  it('of a truthful engine are fresh', async () => {
    const audit = await audited({});
    expect(audit.found()).toEqual([]);
    expect(audit.recomputed).toBeGreaterThan(60);
  });
  it.each(['M31b', 'M32'] as const)('%s is seen', async (defect) => {
    expect((await audited({ defect })).found()[0]).toMatch(defect === 'M32' ? /read twice/ : /the stated generator/);
  });
  it('a number of no counter is seen', async () => {
    const broken = await audited({}, (rounds) =>
      rounds.map((round) => ({
        ...round,
        replay: { ...round.replay!, uniforms: round.replay!.uniforms.map((use) => ({ ...use, position: -1 })) },
      })),
    );
    expect(broken.found()[0]).toContain('is no counter');
  });
  it('without a stated generator: repeated values and a law that is not uniform are seen, a grid of 24 bits is not', async () => {
    const random = new Random('3', 1);
    const fed = (draw: (i: number) => number) => {
      const audit = new CounterAudit(undefined, '1');
      for (let session = 0; session < 300; session++) {
        const rounds = Array.from({ length: 10 }, (_, round) => ({
          replay: {
            p: [],
            q: [],
            uniforms: Array.from({ length: 8 }, (_, i) => ({
              stream: 'target',
              position: 8 * round + i,
              round,
              u: draw(i),
            })),
          },
        }));
        audit.session('1', rounds as unknown as Round[], '');
      }
      return audit;
    };
    const shared = Float64Array.from({ length: 4 }, () => 0);
    const twice = (i: number): number => {
      if (i % 2 === 0) shared[i / 2] = random.uniform();
      return shared[i >> 1]!;
    };
    expect(fed(twice).found()[0]).toContain('come twice in a round');
    expect(fed(() => random.uniform() ** 1.2).uniformity.mixture.logSup).toBeGreaterThan(Math.log(1e6));
    const coarse = fed(() => Math.floor(random.uniform() * 2 ** 24) / 2 ** 24);
    expect(coarse.found()).toEqual([]);
    expect(coarse.uniformity.mixture.logSup).toBeLessThan(Math.log(1e4));
  });
  it('Poisson tails against sums of terms', () => {
    expect(poissonTail(0, 3)).toBe(1);
    expect(poissonTail(1, 0.5)).toBeCloseTo(1 - Math.exp(-0.5), 14);
    expect(poissonTail(3, 0.01)).toBeCloseTo(1.6542e-7, 10);
  });
});

describe('acceptance under coupled', () => {
  const law = fc
    .array(fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true })), { minLength: 4, maxLength: 4 })
    .filter((row) => row.some((x) => x > 1e-3));
  const normal = (row: readonly number[]) => Float64Array.from(row, (x) => x / row.reduce((s, y) => s + y, 0));
  prop.prop([law, law, fc.integer({ min: 0, max: 3 })], { seed: 913 })('is that of the exact joint law', (a, b, d) => {
    const [p, q] = [normal(a), normal(b)];
    fc.pre(q[d]! > 1e-6);
    expect(coupledAcceptance(p, q, d)).toBeCloseTo(sharedGumbelGiven([...q], [...p], d)[d]!, 10);
  });
});
