/**
 * Ties, top-k order and the per-token decisions of the three verification rules, at the values where a wrong comparison would
 * show: equal numbers, signed zeros, NaN, a uniform that falls exactly on a boundary, an exhausted row, no residual mass.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { asF64, asI32, probe, rowRecord } from '../../support/core-probe.ts';
import { coupledPick, inverseCdf } from '../../support/oracle/decode.ts';

const SEED = 4711;
const NONE = new Uint32Array(2);

const argmax = (rows: readonly (readonly number[])[]) => [
  ...asI32(probe('argmax', Buffer.concat(rows.map((row) => rowRecord(NONE, Float32Array.from(row)))))),
];
const topK = (row: readonly number[], k: number) => [
  ...asI32(probe('top_k', rowRecord(Uint32Array.from([k, 0]), Float32Array.from(row)))),
];
const cdf = (rows: readonly { p: readonly number[]; u: number }[]) => [
  ...asI32(
    probe(
      'inverse_cdf',
      Buffer.concat(rows.map(({ p, u }) => rowRecord(Float64Array.from([u]), Float64Array.from(p)))),
    ),
  ),
];
const accepts = (u: number, q: number, p: number) => probe('accepts', Float64Array.from([u, q, p]))[0] === 1;
const residual = (p: readonly number[], q: readonly number[]) => {
  const [mass, ...row] = asF64(probe('residual_row', rowRecord(NONE, Float64Array.from([...p, ...q]))));
  return { mass, row };
};

/** Few distinct values, so that ties are common. */
const tied = fc.array(
  fc.constantFrom(0, -0, 1, -1, 2.5, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY),
  { minLength: 1, maxLength: 40 },
);

function rankOrder(row: readonly number[]): number[] {
  const key = (value: number) => (Number.isNaN(value) ? 0 : 1);
  return [...row.keys()].sort((a, b) => {
    const [x, y] = [row[a]!, row[b]!];
    return key(y) - key(x) || (x === y || Number.isNaN(x) ? a - b : y > x ? 1 : -1);
  });
}

describe('ties', () => {
  test('argmax takes the lowest id, whatever the sign of zero, and a NaN only when nothing else is there', () => {
    expect(
      argmax([[3, 7, 7], [0, -0], [-0, 0], [Number.NaN, -5], [-5, Number.NaN], [Number.NaN, Number.NaN], [4]]),
    ).toEqual([1, 0, 0, 1, 0, 0, 0]);
  });

  test(`argmax and top-k against a full sort, rows with many ties, seed ${SEED}`, () => {
    const rows = fc.sample(tied, { seed: SEED, numRuns: 500 });
    expect(argmax(rows)).toEqual(rows.map((row) => rankOrder(row)[0]));
    for (const row of rows.slice(0, 60)) {
      for (const k of [0, 1, 2, row.length]) {
        const capped = Math.min(k, row.length);
        expect(topK(row, capped)).toEqual(rankOrder(row).slice(0, capped));
      }
    }
  });
});

describe('inverse CDF', () => {
  test('a cumulative sum equal to u is not enough; ids without mass are never picked', () => {
    const p = [0, 0.25, 0, 0.25, 0.5, 0];
    const picks = cdf([0, 0.2499, 0.25, 0.4999, 0.5, 0.9999].map((u) => ({ p, u })));
    expect(picks).toEqual([1, 1, 3, 3, 4, 4]);
  });

  test('rounding that exhausts the row gives the last id with mass', () => {
    expect(cdf([{ p: [0.3, 0.3, 0.3, 0, 0], u: 0.95 }])).toEqual([2]);
  });

  test('random rows against the definition', () => {
    const rows = fc.sample(
      fc.tuple(
        fc.array(fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true })), { minLength: 2, maxLength: 50 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
      ),
      { seed: SEED, numRuns: 500 },
    );
    const cases = rows.map(([weights, u]) => {
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      return { p: total > 0 ? weights.map((weight) => weight / total) : [1, ...weights.slice(1)], u };
    });
    expect(cdf(cases)).toEqual(cases.map(({ p, u }) => inverseCdf(p, u)));
  });
});

describe('accept coin and residual', () => {
  test('accepts with probability min(1, p / q), strictly', () => {
    expect(accepts(0.5, 0.4, 0.2)).toBe(false); // u = p / q exactly
    expect(accepts(0.4999, 0.4, 0.2)).toBe(true);
    expect(accepts(0.9999, 0.2, 0.4)).toBe(true);
    expect(accepts(1e-17, 0.4, 0)).toBe(false);
    expect(accepts(0.9999, 0, 0.1)).toBe(true);
  });

  test('the residual is max(p - q, 0) normalised, and p itself when nothing is left', () => {
    expect(residual([0.5, 0.25, 0.25], [0.25, 0.5, 0.25])).toEqual({ mass: 0.25, row: [1, 0, 0] });
    expect(residual([0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5])).toEqual({ mass: 1, row: [0.5, 0.5, 0, 0] });
    expect(residual([0.75, 0.25], [0.75, 0.25])).toEqual({ mass: 0, row: [0.75, 0.25] });
    expect(residual([0.75, 0.25 - 2 ** -54], [0.75, 0.25])).toEqual({ mass: 0, row: [0.75, 0.25 - 2 ** -54] });
  });

  test('accepting or drawing from the residual gives back p exactly (law of the rule, in closed form)', () => {
    const p = [0.5, 0.125, 0.25, 0.125];
    const q = [0.25, 0.5, 0, 0.25];
    const { mass, row } = residual(p, q);
    const law = p.map((value, id) => Math.min(value, q[id]!) + mass! * row[id]!);
    expect(law).toEqual(p);
  });
});

describe('coupled pick', () => {
  const rows = fc.sample(fc.array(fc.double({ min: -12, max: 4, noNaN: true }), { minLength: 2, maxLength: 60 }), {
    seed: SEED + 1,
    numRuns: 300,
  });
  const p = rows.map((row) => {
    const total = row.reduce((sum, logit) => sum + Math.exp(logit), 0);
    return Float64Array.from(row, (logit, id) => (id % 5 === 3 ? 0 : Math.exp(logit) / total));
  });

  test('the id with the largest log p plus noise; filtered ids are skipped', () => {
    const records = p.map((row, i) => rowRecord(Uint32Array.from([9, i]), row.map(Math.log)));
    const got = [...asI32(probe('coupled_pick', Buffer.concat(records)))];
    expect(got).toEqual(p.map((row, i) => coupledPick(row, 9n, i)));
    expect(got.some((id) => id % 5 === 3)).toBe(false);
    expect(new Set(got).size).toBeGreaterThan(10);
  });

  test('twin: noise of the neighbouring position picks other ids', () => {
    const records = p.map((row, i) => rowRecord(Uint32Array.from([9, i + 1]), row.map(Math.log)));
    expect([...asI32(probe('coupled_pick', Buffer.concat(records)))]).not.toEqual(
      p.map((row, i) => coupledPick(row, 9n, i)),
    );
  });
});

describe('lane sum', () => {
  test('halves: 8, 4, 2, 1, in that order', () => {
    const lanes = Float32Array.from([1e8, 1, -1e8, 3, 5e7, 2 ** -20, 7, 1e-3, -1e8, 11, 1e8, 13, -5e7, 1, 19, 1e-7]);
    let row = [...lanes];
    while (row.length > 1) {
      const half = row.length / 2;
      row = row.slice(0, half).map((value, j) => Math.fround(value + row[j + half]!));
    }
    const got = probe('sum_lanes', lanes).readFloatLE(0);
    expect(got).toBe(row[0]);
    expect(got).not.toBe(lanes.reduce((sum, value) => Math.fround(sum + value), 0));
  });
});
