/** Every identity of a session, broken once: one violation, named. */
import { describe, expect, it } from 'vitest';
import type { SessionTrace } from '../../../harness/bundle/reader.ts';
import type { EngineCardRow, RoundRow } from '../../../harness/bundle/rows.ts';
import { checkBooks } from '../../../harness/verify/books.ts';

const STOP = 9;
const CARD = { vocabSize: 16, blockSize: 4, maxContext: 64 } as EngineCardRow;
const NS = { draft: 2, verify: 3, total: 10 };
const BASE = { session: 's', deviceNs: null, ns: NS, wallNs: 20, finish: null } as const;

const prefill: RoundRow = { ...BASE, index: 0, kind: 'prefill', committed: [1], drafted: [], accepted: 0 };
const middle: RoundRow = { ...BASE, index: 1, kind: 'decode', committed: [2, 3, 4], drafted: [2, 3, 5], accepted: 2 };
const stopped: RoundRow = {
  ...BASE,
  index: 2,
  kind: 'decode',
  committed: [6, STOP],
  drafted: [6, STOP, 7],
  accepted: 3,
  finish: 'stop',
};

function books(rounds: readonly RoundRow[], change: Partial<SessionTrace['row']> = {}): string[] {
  const decoding = { seed: '1', temperature: 0, topP: 1, topK: 0, maxTokens: 10, stopIds: [STOP] };
  const row = { session: 's', promptTokens: 5, decoding, ...change } as SessionTrace['row'];
  return checkBooks({ row, rounds, fault: null }, CARD).map((violation) => violation.text);
}

it('a session whose books balance has no violation', () => {
  expect(books([prefill, middle, stopped])).toEqual([]);
});

it('an end by length balances at the token limit and at the end of the context', () => {
  const decoding = { seed: '1', temperature: 0, topP: 1, topK: 0, maxTokens: 3, stopIds: [STOP] };
  const cut: RoundRow = { ...middle, committed: [2, 3], finish: 'length' };
  expect(books([prefill, cut], { decoding })).toEqual([]);
  expect(books([prefill, cut], { promptTokens: 61 })).toEqual([]);
});

describe('one broken identity', () => {
  it.each<[string, RoundRow[], RegExp]>([
    [
      'a second prefill',
      [prefill, { ...middle, kind: 'prefill', committed: [2], drafted: [], accepted: 0 }, stopped],
      /of kind prefill/,
    ],
    [
      'a prefill of two tokens',
      [{ ...prefill, committed: [1, 2], accepted: 1, drafted: [1] }, middle, stopped],
      /prefill commits 2/,
    ],
    ['a token outside the vocabulary', [prefill, { ...middle, committed: [2, 3, 16] }, stopped], /token 16 is outside/],
    ['a draft outside the vocabulary', [prefill, { ...middle, drafted: [2, 3, 99] }, stopped], /token 99 is outside/],
    ['too many drafts', [prefill, { ...middle, drafted: [2, 3, 5, 6] }, stopped], /4 drafts, but a block of 4/],
    ['more accepted than drafted', [prefill, { ...middle, drafted: [2] }, stopped], /2 drafts accepted of 1/],
    ['nothing committed', [prefill, { ...middle, committed: [] }, stopped], /commits no token/],
    [
      'more committed than accepted',
      [prefill, { ...middle, committed: [2, 3, 4, 5] }, stopped],
      /4 tokens committed, but 2/,
    ],
    [
      'an accepted draft replaced',
      [prefill, { ...middle, committed: [2, 8, 4] }, stopped],
      /draft 1 counts as accepted/,
    ],
    [
      'a rejected draft committed',
      [prefill, { ...middle, committed: [2, 3, 5] }, stopped],
      /draft 2 counts as rejected/,
    ],
    [
      'a token after the stop',
      [prefill, middle, { ...stopped, committed: [6, STOP, 7] }],
      /1 tokens committed after the stop/,
    ],
    [
      'going on after a stop',
      [prefill, { ...middle, committed: [2, 3, STOP] }, stopped],
      /goes on after the stop token/,
    ],
    [
      'a stop without a stop token',
      [prefill, middle, { ...stopped, committed: [6], drafted: [6, 7, 8] }],
      /no stop token/,
    ],
    [
      'an early end by length',
      [prefill, middle, { ...stopped, committed: [6, 7], drafted: [6, 7, 8], finish: 'length' }],
      /ends by length after 6 of 10/,
    ],
    [
      'a round cut without an end',
      [prefill, { ...middle, committed: [2, 3] }, stopped],
      /are 3 tokens, 2 were committed/,
    ],
    ['rounds after the end', [prefill, { ...stopped, index: 1 }, { ...stopped, index: 2 }], /rounds follow after/],
    [
      'a clock that runs ahead',
      [prefill, { ...middle, ns: { ...NS, total: 5000 } }, stopped],
      /claims 5000 ns, the harness waited 20/,
    ],
    [
      'parts longer than the whole',
      [prefill, { ...middle, ns: { draft: 2000, verify: 3, total: 10 } }, stopped],
      /longer than the whole/,
    ],
    ['no end', [prefill, middle], /neither ended nor failed/],
  ])('%s is named', (_, rounds, message) => {
    const found = books(rounds);
    expect(found.join('\n')).toMatch(message);
  });

  it('the token limit and the context are limits', () => {
    const decoding = { seed: '1', temperature: 0, topP: 1, topK: 0, maxTokens: 5, stopIds: [STOP] };
    expect(books([prefill, middle, stopped], { decoding }).join()).toMatch(/6 tokens emitted, the limit is 5/);
    expect(books([prefill, middle, stopped], { promptTokens: 60 }).join()).toMatch(/66 tokens of prompt and output/);
  });
});
