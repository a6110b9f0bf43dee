/**
 * The edges of every pick: the least and the largest uniform, a uniform exactly on an edge of the cumulative row, rows with mass
 * missing at the start or the end, rows of one token, rows that rounding leaves short of 1, and rows of logits with -infinity and NaN.
 * The decision functions are called themselves (core/, through the probe), the rest through toys in the engine.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Decoding, VerificationRule } from '../../../harness/engine.ts';
import { ToyModel, type ToyTables } from '../../../native/engines.ts';
import { asF64, asI32, probe, rowRecord } from '../../support/core-probe.ts';
import { decode, SAMPLED, tokensOf } from './checkpoints.ts';

const LEAST = 2 ** -53;
const LARGEST = 1 - 2 ** -53;
const RULES: readonly VerificationRule[] = ['match', 'reject', 'coupled'];

const many = (records: readonly Buffer[]): Buffer => Buffer.concat(records);
const picks = (rows: readonly (readonly [readonly number[], number])[]): number[] => [
  ...asI32(probe('inverse_cdf', many(rows.map(([row, u]) => rowRecord(Float64Array.of(u), Float64Array.from(row)))))),
];
const accepts = (triples: readonly (readonly [u: number, q: number, p: number])[]): boolean[] =>
  [...probe('accepts', Float64Array.from(triples.flat()))].map((byte) => byte === 1);
const residual = (p: readonly number[], q: readonly number[]): number[] => [
  ...asF64(probe('residual_row', rowRecord(new Float64Array(1), Float64Array.from([...p, ...q])))).slice(1),
];

describe('uniforms', () => {
  test('the least and the largest lie strictly inside (0, 1)', () => {
    const words = Uint32Array.of(0, 0, 0xffffffff, 0xffffffff, 0, 0xfff, 0xffffffff, 0xfffff000);
    expect([...asF64(probe('uniform52', words))]).toEqual([LEAST, LARGEST, LEAST, LARGEST]);
  });
});

describe('inverse CDF', () => {
  test('the least and the largest uniform, mass missing in front, behind and between', () => {
    const rows = [
      [1],
      [0, 1],
      [1, 0],
      [0, 0.5, 0, 0.5, 0],
      [0, 0, 1, 0, 0],
      [0.25, 0.25, 0.25, 0.25],
      [LEAST, 1 - LEAST],
    ];
    const first = [0, 1, 0, 1, 2, 0, 1]; // of the last row: the uniform lies on the edge, which belongs to the next token
    const last = [0, 1, 0, 3, 2, 3, 1];
    expect(picks(rows.map((row) => [row, LEAST] as const))).toEqual(first);
    expect(picks(rows.map((row) => [row, LARGEST] as const))).toEqual(last);
  });

  test('a uniform exactly on an edge belongs to the token behind it, a step below to the one before', () => {
    const edge = 0.25 + 2 ** -53; // (2^50 + 1/2) 2^-52, a value that uniform52 takes
    const rows: [number[], number][] = [
      [[edge, 1 - edge], edge],
      [[edge, 1 - edge], edge - 2 ** -52],
      [[0.125, edge - 0.125, 0, 1 - edge], edge],
      [[0, edge, 0, 0, 1 - edge, 0], edge],
    ];
    expect(picks(rows)).toEqual([1, 0, 3, 4]);
  });

  test('a row that rounding leaves short of the largest uniform gives its last token with mass', () => {
    const short = [0.25, 0.25, 0.25, 0.25 - 2 ** -50, 0, 0];
    expect(
      picks([
        [short, LARGEST],
        [[0, 0.5, 0.5 - 2 ** -40, 0], LARGEST],
      ]),
    ).toEqual([3, 2]);
  });

  test('any row, any uniform, edges included: a token with mass', () => {
    const weight = fc.oneof(
      fc.constant(0),
      fc.constant(1),
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.constant(5e-324),
    );
    const row = fc
      .array(weight, { minLength: 1, maxLength: 9 })
      .filter((values) => values.some((value) => value > 1e-300))
      .map((values) => values.map((value) => value / values.reduce((a, b) => a + b, 0)));
    fc.assert(
      fc.property(
        fc.array(row, { minLength: 20, maxLength: 20 }),
        fc.double({ min: LEAST, max: LARGEST, noNaN: true }),
        (rows, u) => {
          const cases = rows.flatMap((values): [number[], number][] => {
            let sum = 0;
            const edges = values.map((value) => (sum += value)).filter((value) => value >= LEAST && value <= LARGEST);
            return [u, LEAST, LARGEST, ...edges].map((uniform) => [values, uniform]);
          });
          for (const [i, id] of picks(cases).entries()) expect(cases[i]![0][id]!).toBeGreaterThan(0);
        },
      ),
      { seed: 5601, numRuns: 30 },
    );
  });
});

describe('the accept coin', () => {
  test('p = 0 is never accepted, q = 0 with p > 0 always, whatever the coin', () => {
    const q = [1, 0.5, 1e-300, 5e-324, 0];
    for (const u of [LEAST, 0.5, LARGEST]) {
      expect(accepts(q.map((value) => [u, value, 0]))).toEqual(q.map(() => false));
      expect(accepts([1, 0.5, 1e-300, 5e-324].map((p) => [u, 0, p]))).toEqual([true, true, true, true]);
    }
  });

  test('p = q is always accepted, and a ratio exactly at the coin is not', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 1e-290, max: 1, noNaN: true }), { minLength: 200, maxLength: 200 }),
        (rows) => {
          expect(accepts(rows.map((value) => [LARGEST, value, value])).every(Boolean)).toBe(true);
        },
      ),
      { seed: 5602, numRuns: 20 },
    );
    const u = 0.25 + 2 ** -53;
    expect(
      accepts([
        [u, 1, u],
        [u, 0.5, u / 2],
        [u, 1, u + 2 ** -54],
        [u, 1, u - 2 ** -54],
      ]),
    ).toEqual([false, false, true, false]);
  });
});

describe('the residual', () => {
  test('only tokens the draft underrates, at both ends of the uniform', () => {
    const p = [0, 0.25, 0.5, 0.25, 0];
    const q = [0.25, 0.25, 0.25, 0.125, 0.125];
    const row = residual(p, q);
    expect(row).toEqual([0, 0, 2 / 3, 1 / 3, 0]);
    expect(
      picks([
        [row, LEAST],
        [row, LARGEST],
      ]),
    ).toEqual([2, 3]);
  });

  test('without mass it is p: equal rows, and rows that differ by what rounding takes', () => {
    expect(residual([0, 1], [0, 1])).toEqual([0, 1]);
    expect(residual([0.5, 0.5 - 2 ** -53], [0.5, 0.5])).toEqual([0.5, 0.5 - 2 ** -53]);
  });

  test('a single token left over by one unit of rounding takes all', () => {
    expect(residual([0.5 + 2 ** -53, 0.5 - 2 ** -53], [0.5, 0.5])).toEqual([1, 0]);
  });
});

/** A toy of order 1 whose rows are given; a draft row of its own for every context and slot. */
function tablesOf(
  target: readonly (readonly number[])[],
  draft: readonly (readonly number[])[],
  block: number,
): ToyTables {
  return {
    vocab: target.length,
    order: 1,
    block,
    maxContext: 40,
    targetLogits: Float64Array.from(target.flat()),
    draftLogits: Float64Array.from(draft.flatMap((row) => Array.from({ length: block - 1 }, () => row).flat())),
  };
}

const NONE = Number.NEGATIVE_INFINITY;
const LONG: Decoding = { ...SAMPLED, maxTokens: 30 };

describe('rows of logits in the engine', () => {
  test.each(RULES)('a vocabulary of one token: everything is accepted, %s', async (rule) => {
    const model = await ToyModel.load(tablesOf([[3]], [[-7]], 4));
    for (const temperature of [0, 1e-3, 1]) {
      const rounds = await decode(model.engine({ rule }), [0], { ...LONG, temperature, topP: 0.5, topK: 1 });
      expect(tokensOf(rounds)).toEqual(new Array(30).fill(0));
      expect(rounds.slice(1).every((round) => round.accepted === round.drafted.length)).toBe(true);
    }
  });

  test.each(RULES)('-infinity at the start, in the middle and at the end is never emitted: %s', async (rule) => {
    const target = [
      [NONE, 0, 0, NONE],
      [NONE, NONE, 0, NONE],
      [NONE, 0, NONE, NONE],
      [0, 0, 0, 0],
    ];
    const everything = target.map(() => [1, 0.5, 0, 1]); // drafts of tokens the target cannot emit
    const model = await ToyModel.load(tablesOf(target, everything, 5));
    for (const temperature of [0, 0.2, 1, 50]) {
      for (let seed = 0; seed < 40; seed++) {
        const decoding = { ...LONG, temperature, seed: String(seed), topK: seed % 5, topP: seed % 3 === 0 ? 0.9 : 1 };
        const tokens = tokensOf(await decode(model.engine({ rule }), [0], decoding));
        for (const [i, token] of tokens.entries()) expect(target[tokens[i - 1] ?? 0]![token]!).toBe(0);
      }
    }
  });

  test.each(RULES)('a temperature that overflows or underflows every exponent still gives a law: %s', async (rule) => {
    const rows = [
      [3e38, -3e38, NONE],
      [-3e38, 3e38, 3e38],
      [0, 1e-45, NONE],
    ];
    const model = await ToyModel.load(tablesOf(rows, rows, 4));
    for (const temperature of [5e-324, 1e-300, 1e300, 1.7e308]) {
      for (let seed = 0; seed < 20; seed++) {
        const tokens = tokensOf(
          await decode(model.engine({ rule }), [0], { ...LONG, temperature, seed: String(seed) }),
        );
        for (const [i, token] of tokens.entries()) expect(rows[tokens[i - 1] ?? 0]![token]!).not.toBe(NONE);
      }
    }
  });
});

describe('a model that breaks', () => {
  const fine = [
    [0, 0.1],
    [0.2, 0],
  ];
  const broken: [string, number[], RegExp][] = [
    ['NaN first', [Number.NaN, 0], /not a number, for token 0/],
    ['NaN last', [0, Number.NaN], /not a number, for token 1/],
    ['+infinity', [0, Number.POSITIVE_INFINITY], /not a number, for token 1/],
    ['no token', [NONE, NONE], /without any token/],
  ];
  const places = RULES.flatMap((rule) => [0, 1].map((temperature) => ({ rule, temperature })));

  test.each(places)(
    'a bad row of target or draft is a LogitsError and never a token: $rule at $temperature',
    async ({ rule, temperature }) => {
      for (const [, row, message] of broken) {
        // Every context is bad in the first, only that of token 1 in the others; the prefill's row, then a verify row, then a draft row.
        const toys: [ToyTables, number][] = [
          [tablesOf([row, row], fine, 4), 0],
          [tablesOf([[0, NONE], row], [[NONE, 0], fine[1]!], 4), 1],
          [tablesOf([[NONE, 0], fine[1]!], [fine[0]!, row], 4), 1],
        ];
        for (const [tables, healthyRounds] of toys) {
          for (const replay of [false, true]) {
            const model = await ToyModel.load({ ...tables, allowNan: true });
            const session = await model.engine({ rule, replay }).open([0], { ...LONG, temperature });
            for (let i = 0; i < healthyRounds; i++) await session.step();
            await expect(session.step()).rejects.toMatchObject({
              name: 'LogitsError',
              message: expect.stringMatching(message),
            });
            const over = { name: 'InputError', message: 'the session failed in an earlier step' };
            await expect(session.step()).rejects.toMatchObject(over);
            await expect(session.fork()).rejects.toMatchObject(over);
            await session.close();
          }
        }
      }
    },
  );

  test('scoring refuses a bad row too', async () => {
    const model = await ToyModel.load({ ...tablesOf([[0, Number.NaN], fine[1]!], fine, 2), allowNan: true });
    await expect(model.engine().score([0], [1])).rejects.toMatchObject({ name: 'LogitsError' });
  });
});
