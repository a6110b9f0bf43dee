/** The gate over a Markov chain: each defect of the catalogue is refuted by its own kind of check, the clean chain never. */
import { describe, expect, it } from 'vitest';
import { lyingEngine } from '../../../harness/engines/liars.ts';
import {
  MARKOV_DEFECTS,
  MARKOV_SHARED,
  MARKOV_SLOW,
  type MarkovDefect,
  markovSource,
} from '../../../harness/engines/markov.ts';
import { CHAIN, find, gate, gateOf, refutations, SMALL } from './support.ts';

const SEEDS = ['1', '2', '3'];

/** Check that must refute, and the most tokens it may need in any of the seeds (0: not a matter of sampling). */
const KILLED: Readonly<Record<MarkovDefect, readonly [check: string, tokens: number]>> = {
  M01: ['law emission', 2_000],
  M02: ['law emission', 600],
  M03: ['law acceptance', 300],
  M04: ['law acceptance', 300],
  M05: ['law emission', 2_500],
  M06: ['law acceptance', 300],
  M07: ['law emission', 700],
  M08: ['law emission', 700],
  M09: ['law emission', 700],
  M10: ['law emission', 700],
  M11: ['law acceptance', 600],
  M12: ['law acceptance', 600],
  M13: ['rows', 0],
  M14: ['rows', 0],
  M15: ['law acceptance', 9_000],
  M16: ['law drafts', 300],
  M18: ['law acceptance', 1_500],
  M19: ['law acceptance', 600],
  M20: ['rows', 0],
  M22: ['books', 0],
  M23: ['law acceptance', 300],
  M24: ['law acceptance', 7_000],
  M25: ['replay', 0],
  M26: ['law acceptance', 300],
  M27: ['law emission', 600],
  M28: ['replay', 0],
  M29: ['law emission', 4_000],
  M30: ['law emission', 12_000],
  M31b: ['law emission', 3_500],
  M32: ['law acceptance', 12_000],
  M34: ['boundary numbers', 0],
  M35: ['boundary numbers', 0],
  M37: ['limits', 0],
  M38: ['sessions', 0],
  M39: ['rows', 0],
  H02: ['books', 0],
  G01: ['acceptance floor', 0],
  G03: ['law acceptance', 300],
  'B1 temperature': ['rows', 0],
  'B2 top-p': ['rows', 0],
};

describe('a clean engine', () => {
  it.each(SEEDS)('passes, seed %s', async (seed) => {
    const result = await gateOf({}, { seed });
    expect(refutations(result)).toEqual([]);
    expect(result.verdict).toBe('passed');
    expect(find(result, 'law emission').wouldHaveCaught).toContain('M01 residual from p');
  });

  it('passes without rows, by rows put together from scores', async () => {
    const result = await gateOf({ replay: false, toys: false });
    expect(result.verdict).toBe('passed');
    expect(find(result, 'law emission').question).toContain('scores');
  });
});

/** Without uniforms and toys, as of an engine that logs rows only: what is left to the laws, the rows and the books. */
const ROWS_ONLY = { uniforms: false, toys: false } as const;
/** Defects that only replay, counters, toys or tapes can show. */
const UNSEEN: readonly string[] = ['M25', 'M28', 'M34', 'M35'];
/** Lossless: it passes unless its acceptance was stated (acceptance.test.ts). */
const CAUGHT = Object.entries(KILLED).filter(([defect]) => defect !== 'G01');
const LAWS_ONLY = CAUGHT.filter(([defect]) => !UNSEEN.includes(defect));

describe.each(LAWS_ONLY)('defect %s of an engine that carries rows only', (defect, [id, tokens]) => {
  it.each(SEEDS)(`is refuted by ${id}, seed %s`, async (seed) => {
    const budget = { ...SMALL, lawTokens: Math.max(2_000, tokens) };
    const result = await gateOf({ ...ROWS_ONLY, defect: defect as MarkovDefect }, { seed, budget });
    expect(result.verdict).toBe('refuted');
    const check = find(result, id);
    expect(['refuted', 'internally inconsistent'], check.evidence).toContain(check.outcome);
    if (tokens > 0) expect(find(result, 'law emission').n).toBeLessThanOrEqual(tokens + 128); // whole sessions
  });
});

describe.each(CAUGHT)('defect %s of an engine with uniforms, toys and tapes', (defect, [id]) => {
  it('is refuted, in a short run', async () => {
    const result = await gateOf({ defect: defect as MarkovDefect });
    const found = refutations(result);
    expect(found.length, found.join(', ')).toBeGreaterThan(0);
    if (UNSEEN.includes(defect)) expect(found).toContain(id);
  });
});

it('twin: what only the new evidence shows is not seen without it', async () => {
  for (const defect of ['M25', 'M34', 'M35'] as const) {
    expect(refutations(await gateOf({ ...ROWS_ONLY, defect }))).toEqual([]);
  }
});

it('covers every defect the chain can have', () => {
  expect(Object.keys(KILLED).sort()).toEqual([...MARKOV_DEFECTS, ...MARKOV_SLOW, ...MARKOV_SHARED].sort());
});

describe('engines without rows and without scores', () => {
  const blind = { replay: false, scores: false, toys: false, vocabSize: 3, blockSize: 3 };

  it('are compared by two samples: the clean one passes', async () => {
    const result = await gateOf(blind);
    expect(refutations(result)).toEqual([]);
    expect(find(result, 'law two samples').wouldHaveCaught).toContain('total variation distance');
    expect(result.verdict).toBe('passed');
  });

  it.each(['M03', 'M04', 'M26'] as const)('and %s is refuted', async (defect) => {
    expect(refutations(await gateOf({ ...blind, defect }))).toContain('law two samples');
  });
});

it('too small a budget is inconclusive, not a pass', async () => {
  const short = { prompts: 4, equalityPrompts: 4, lawTokens: 200 };
  const result = await gateOf(ROWS_ONLY, { budget: short });
  expect(result.verdict).toBe('inconclusive');
  expect(find(result, 'law emission').evidence).toContain('would have missed');
});

describe('liars', () => {
  const expected = {
    'past-stop': ['books'],
    'accepted-plus-one': ['books'],
    'too-many-tokens': ['books'],
    'past-limit': ['sessions', 'books'],
    'wrong-token': ['books', 'law emission'],
    'early-end': ['books'],
    'slow-clock': ['books'],
    'nan-count': ['sessions'],
    'foreign-token': ['books'],
    throws: ['sessions'],
    'throws-on-open': ['sessions'],
    hangs: ['sessions'],
    'hangs-on-open': ['sessions'],
  } as const;
  it.each(Object.entries(expected))('%s is refuted', async (lie, checks) => {
    const honest = markovSource(CHAIN);
    const source = {
      ...honest,
      open: async (options: { readonly blockSize?: number }) => {
        const engine = await honest.open(options);
        return options.blockSize === 1 ? engine : lyingEngine(engine, lie as keyof typeof expected, 1);
      },
    };
    const found = refutations(await gate(source, { stepMs: 150 }));
    expect(
      found.some((id) => (checks as readonly string[]).includes(id)),
      found.join(', '),
    ).toBe(true);
  });
});

describe('what the card says', () => {
  const withCard = (over: object) => {
    const honest = markovSource(CHAIN);
    return {
      ...honest,
      open: async (options: { readonly blockSize?: number }) => {
        const engine = await honest.open(options);
        return { ...engine, card: { ...engine.card, ...over } };
      },
    };
  };
  it('a declared defect refutes', async () => {
    expect(refutations(await gate(withCard({ defects: ['M01'] })))).toEqual(['declarations']);
  });
  it('synthetic acceptance refutes', async () => {
    expect(refutations(await gate(withCard({ syntheticAcceptance: 'fixed at 0.9' })))).toEqual(['declarations']);
  });
  it.each([{ vocabSize: Number.NaN }, { rule: 'best' }, { blockSize: 0 }, { defects: null }, { numerics: undefined }])(
    '%o is no card',
    async (over) => {
      expect(refutations(await gate(withCard(over)))).toContain('card');
    },
  );
  it('other weights are not a losslessness question', async () => {
    const result = await gate(markovSource(CHAIN), { baseline: markovSource({ ...CHAIN, weights: '6' }) });
    expect(find(result, 'losslessness').outcome).toBe('not testable here');
    expect(result.verdict).toBe('inconclusive');
  });
});
