/** Acceptance, prompt lookup, loops and equality, against hand-worked cases, second implementations and properties. */
import { fc, test as prop } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { SessionTrace } from '../../../harness/bundle/reader.ts';
import type { RoundRow } from '../../../harness/bundle/rows.ts';
import { acceptanceIdentities, acceptanceSums } from '../../../harness/measure/acceptance.ts';
import { lookupAcceptance } from '../../../harness/measure/ngram.ts';
import { repeatedTokens } from '../../../harness/measure/repetition.ts';
import { compareOutputs, describeDifference, firstDifference } from '../../../harness/verify/equality.ts';

const NS = { draft: 0, verify: 0, total: 0 };

function decode(accepted: number, kept = accepted + 1, index = 1): RoundRow {
  const committed = Array.from({ length: kept }, (_, i) => i);
  return {
    session: 's',
    index,
    kind: 'decode',
    committed,
    drafted: [],
    accepted,
    finish: null,
    ns: NS,
    deviceNs: null,
    wallNs: 1,
  };
}

function trace(prompt: string, tokens: readonly number[], fault: SessionTrace['fault'] = null): SessionTrace {
  const rounds = tokens.map((token, index) => ({ ...decode(0, 1, index), committed: [token] }));
  return { row: { prompt } as SessionTrace['row'], rounds, fault };
}

describe('acceptance length', () => {
  it('is the hand-worked figure: bonus counted, prefill left out, the cut seen in kept only', () => {
    const prefill: RoundRow = { ...decode(0, 1, 0), kind: 'prefill' };
    const sums = acceptanceSums(
      [
        { prompt: 'a', rounds: [prefill, decode(3), decode(0), decode(3, 2)] },
        { prompt: 'b', rounds: [prefill, decode(1)] },
      ],
      4,
    );
    expect(sums.rounds).toBe(4);
    expect(sums.perPrompt).toEqual([
      { prompt: 'a', rounds: 3, raw: 9, kept: 7 },
      { prompt: 'b', rounds: 1, raw: 2, kept: 2 },
    ]);
    expect(sums.histogram).toEqual([1, 1, 0, 2]);
    expect(sums.survival).toEqual([0.75, 0.5, 0.5]);
    expect(acceptanceIdentities(sums, 4)).toEqual([]);
  });

  prop.prop([fc.array(fc.array(fc.integer({ min: 0, max: 7 }), { maxLength: 12 }), { minLength: 1, maxLength: 8 })], {
    seed: 61,
  })('keeps its identities on any pattern', (patterns) => {
    const prompts = patterns.map((pattern, i) => ({ prompt: `${i}`, rounds: pattern.map((a) => decode(a)) }));
    const sums = acceptanceSums(prompts, 8);
    expect(acceptanceIdentities(sums, 8)).toEqual([]);
    const all = patterns.flat();
    if (all.length > 0) {
      const mean = all.reduce((a, b) => a + b + 1, 0) / all.length;
      expect(1 + sums.survival.reduce((a, b) => a + b, 0)).toBeCloseTo(mean, 9);
    }
  });

  it('names a figure that breaks its identity', () => {
    const sums = acceptanceSums([{ prompt: 'a', rounds: [decode(3), decode(1)] }], 4);
    expect(acceptanceIdentities({ ...sums, survival: [1, 0.5, 0.6] }, 4).join()).toMatch(/survival rises/);
    expect(
      acceptanceIdentities({ ...sums, perPrompt: [{ prompt: 'a', rounds: 2, raw: 9, kept: 6 }] }, 4).join(),
    ).toMatch(/1 \+ sum of survivals/);
    expect(acceptanceIdentities(acceptanceSums([{ prompt: 'a', rounds: [decode(9)] }], 4), 4).length).toBeGreaterThan(
      0,
    );
  });
});

/** Prompt lookup written a second time, over strings. */
function lookupBySearch(prompt: readonly number[], output: readonly number[], block: number): number {
  const letters = [...prompt, ...output].map((id) => String.fromCharCode(0x4e00 + id)).join('');
  let at = prompt.length + 1;
  let rounds = 0;
  while (at < letters.length) {
    let drafts = '';
    for (let n = 3; n >= 1 && drafts === ''; n--) {
      if (at - n < 0) continue;
      // The latest earlier occurrence: it may overlap the suffix, but must end before it.
      const found = letters.slice(0, at - 1).lastIndexOf(letters.slice(at - n, at));
      if (found >= 0) {
        const source = letters.slice(found + n, at);
        drafts = source.repeat(block).slice(0, block - 1);
      }
    }
    let accepted = 0;
    while (accepted < drafts.length && drafts[accepted] === letters[at + accepted]) accepted += 1;
    at += accepted + 1;
    rounds += 1;
  }
  return rounds;
}

describe('prompt lookup', () => {
  const ids = fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 40 });
  prop.prop(
    [fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 20 }), ids, fc.integer({ min: 2, max: 9 })],
    {
      seed: 62,
      numRuns: 500,
    },
  )('agrees with a search over strings', (prompt, output, block) => {
    expect(lookupAcceptance(prompt, output, block).rounds).toBe(lookupBySearch(prompt, output, block));
    expect(lookupAcceptance(prompt, output, block).tokens).toBe(Math.max(0, output.length - 1));
  });

  it('reaches the whole block on a copy of the prompt, and 1 where nothing recurs', () => {
    const text = Array.from({ length: 33 }, (_, i) => i);
    expect(lookupAcceptance(text, text, 8)).toEqual({ rounds: 4, tokens: 32 });
    expect(lookupAcceptance([100], text, 8)).toEqual({ rounds: 32, tokens: 32 });
  });
});

describe('repetition', () => {
  prop.prop([fc.integer({ min: 1, max: 20 }), fc.integer({ min: 3, max: 8 }), fc.integer({ min: 0, max: 30 })], {
    seed: 63,
  })('finds exactly the loop that was put there', (period, copies, before) => {
    const unique = (from: number, n: number): number[] => Array.from({ length: n }, (_, i) => from + i);
    const loop = Array.from({ length: period * copies }, (_, i) => 1000 + (i % period));
    const tokens = [...unique(0, before), ...loop, ...unique(2000, 25)];
    expect(repeatedTokens(tokens)).toBe(loop.length >= 12 ? loop.length : 0);
  });

  it('two copies are not a loop, and an empty output has none', () => {
    const twice = [...Array(10).keys(), ...Array(10).keys()];
    expect(repeatedTokens(twice)).toBe(0);
    expect(repeatedTokens([])).toBe(0);
  });
});

describe('token equality', () => {
  prop.prop([fc.array(fc.integer({ min: 0, max: 3 })), fc.array(fc.integer({ min: 0, max: 3 }))], { seed: 64 })(
    'finds the first difference of any two outputs',
    (a, b) => {
      const at = firstDifference(a, b);
      if (at === null) expect(a).toEqual(b);
      else {
        expect(a.slice(0, at)).toEqual(b.slice(0, at));
        expect(a[at]).not.toBe(b[at]);
      }
    },
  );

  it('an output that is a prefix of the other differs at its end', () => {
    const result = compareOutputs([{ prompt: 'p', plain: trace('p', [1, 2, 3]), speculative: trace('p', [1, 2]) }]);
    expect(result.differences).toEqual([{ prompt: 'p', position: 2, plain: 3, speculative: null, context: [1, 2] }]);
    expect(describeDifference(result.differences[0]!)).toBe(
      'prompt p, position 2: plain gives token 3, speculation the end, after 1 2',
    );
  });

  it('a failed session is never counted as equal, but a difference before the fault counts', () => {
    const fault = { session: 's', kind: 'threw', message: 'x' } as const;
    const cut = { prompt: 'p', plain: trace('p', [1, 2, 3]), speculative: trace('p', [1, 2], fault) };
    expect(compareOutputs([cut])).toMatchObject({ differences: [], uncompared: ['p'], equalTokens: 2 });
    const wrong = { prompt: 'q', plain: trace('q', [1, 2, 3]), speculative: trace('q', [1, 9], fault) };
    expect(compareOutputs([wrong]).differences).toHaveLength(1);
    expect(compareOutputs([{ prompt: 'r', plain: null, speculative: null }]).uncompared).toEqual(['r']);
  });
});
