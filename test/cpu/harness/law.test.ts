/** The law test: silent under the null, as powerful as it says, and not fooled by what a pooled histogram hides. */
import { describe, expect, it } from 'vitest';
import { Random } from '../../../harness/stats/philox.ts';
import { type LawSample, testLaw } from '../../../harness/verify/law.ts';

type Row = readonly number[];

function draw(row: Row, random: Random): number {
  const u = random.uniform();
  let cumulative = 0;
  for (let token = 0; token < row.length; token++) {
    cumulative += row[token]!;
    if (cumulative > u) return token;
  }
  return row.length - 1;
}

/** `law(prefix)` gives the row after the tokens emitted so far. */
function sample(law: (prefix: readonly number[]) => Row, sessions: number, tokens: number, random: Random): number[][] {
  return Array.from({ length: sessions }, () => {
    const out: number[] = [];
    while (out.length < tokens) out.push(draw(law(out), random));
    return out;
  });
}

const OPTIONS = { alpha: 1e-3, power: 0.99, seed: '1' };
const ROWS: readonly Row[] = [
  [0.4, 0.3, 0.2, 0.1],
  [0.1, 0.2, 0.3, 0.4],
  [0.25, 0.25, 0.25, 0.25],
  [0.7, 0.1, 0.1, 0.1],
];
const markov = (prefix: readonly number[]): Row => ROWS[prefix.at(-1) ?? 0]!;

function samples(prompts: number, sessions: number, random: Random, speculative = markov): LawSample[] {
  return Array.from({ length: prompts }, (_, i) => ({
    prompt: `p${i}`,
    plain: sample(markov, sessions, 3, random),
    speculative: sample(speculative, sessions, 3, random),
  }));
}

describe('under the null', () => {
  it('raises no more alarms than its family-wise rate', () => {
    const families = 400;
    let alarms = 0;
    for (let f = 0; f < families; f++) {
      const random = new Random('21', f);
      if (testLaw(samples(3, 60, random), { ...OPTIONS, alpha: 0.05 }).rejected) alarms += 1;
    }
    expect(alarms / families).toBeLessThanOrEqual(0.05 + 3 * Math.sqrt((0.05 * 0.95) / families));
    // A test that never fires proves nothing.
    expect(alarms).toBeGreaterThan(0);
  });

  it('has p-values that are close to uniform', () => {
    const below = [0, 0, 0];
    const runs = 500;
    for (let f = 0; f < runs; f++) {
      const p = testLaw(samples(1, 200, new Random('22', f)), OPTIONS).tests[0]!.p;
      [0.1, 0.5, 0.9].forEach((level, i) => {
        if (p <= level) below[i]! += 1;
      });
    }
    [0.1, 0.5, 0.9].forEach((level, i) => {
      expect(Math.abs(below[i]! / runs - level)).toBeLessThan(4 * Math.sqrt((level * (1 - level)) / runs) + 0.01);
    });
  });
});

describe('the effect it says it would have caught', () => {
  it('is caught with the stated power in the direction that is hardest to see', () => {
    const sessions = 400;
    const tokens = 8;
    const uniform = new Array<number>(tokens).fill(1 / tokens);
    const options = { alpha: 0.01, power: 0.9, seed: '1' };
    const null1 = { prompt: 'p', plain: sample(() => uniform, sessions, 1, new Random('31', 0)) };
    const distance = testLaw(
      [{ ...null1, speculative: sample(() => uniform, sessions, 1, new Random('31', 1)) }],
      options,
    ).detectableDistance!;
    // Half the mass up, half down: among shifts of one total variation distance, the least visible.
    const shifted = uniform.map((p, i) => p * (1 + (i % 2 === 0 ? 2 : -2) * distance));
    const total = shifted.reduce((sum, p, i) => sum + Math.abs(p - uniform[i]!), 0) / 2;
    expect(total).toBeCloseTo(distance, 12);
    let caught = 0;
    const runs = 200;
    for (let r = 0; r < runs; r++) {
      const random = new Random('32', r);
      const plain = sample(() => uniform, sessions, 1, random);
      const speculative = sample(() => shifted, sessions, 1, random);
      if (testLaw([{ prompt: 'p', plain, speculative }], options).rejected) caught += 1;
    }
    const slack = 3 * Math.sqrt((0.9 * 0.1) / runs);
    expect(caught / runs).toBeGreaterThan(0.9 - slack);
    expect(caught / runs).toBeLessThan(1);
  });
});

describe('what a pooled histogram hides', () => {
  it('rows exchanged between contexts are refuted although the marginals agree', () => {
    // Two equally likely contexts whose next rows are swapped: the second token's marginal law does not change.
    const first: Row = [0.5, 0.5];
    const rows: readonly Row[] = [
      [0.8, 0.2],
      [0.2, 0.8],
    ];
    const honest = (prefix: readonly number[]): Row => (prefix.length === 0 ? first : rows[prefix.at(-1)!]!);
    const swapped = (prefix: readonly number[]): Row => (prefix.length === 0 ? first : rows[1 - prefix.at(-1)!]!);
    const random = new Random('41', 0);
    const plain = sample(honest, 200, 2, random);
    const speculative = sample(swapped, 200, 2, random);
    const share = (outputs: number[][]): number => outputs.filter((tokens) => tokens[1] === 0).length / outputs.length;
    expect(Math.abs(share(plain) - share(speculative))).toBeLessThan(0.1);
    const result = testLaw([{ prompt: 'p', plain, speculative }], OPTIONS);
    expect(result.rejected).toBe(true);
    expect(result.permutationP).toBeLessThan(1e-3);
  });
});

describe('degenerate samples', () => {
  it('a law with one token has nothing to test', () => {
    const same = Array.from({ length: 50 }, () => [3, 3]);
    const result = testLaw([{ prompt: 'p', plain: same, speculative: same }], OPTIONS);
    expect(result).toMatchObject({ tests: [], smallest: null, rejected: false, detectableDistance: null });
  });

  it('an empty arm is no evidence', () => {
    const result = testLaw([{ prompt: 'p', plain: [], speculative: [[1], [2]] }], OPTIONS);
    expect(result).toMatchObject({ rejected: false, detectableDistance: null });
  });

  it('arms of unequal size and sessions that ended early are taken as they are', () => {
    const random = new Random('51', 0);
    const plain = sample(markov, 300, 3, random);
    const speculative = sample(markov, 150, 3, random).map((tokens, i) => tokens.slice(0, 1 + (i % 3)));
    const result = testLaw([{ prompt: 'p', plain, speculative }], OPTIONS);
    expect(result.rejected).toBe(false);
    expect(result.tests.length).toBeGreaterThan(0);
  });
});
