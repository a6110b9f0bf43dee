/**
 * The toy behind the engine's model interface: its rows are the tables' rows wherever a session stands, whatever was rolled back
 * before, and tables that are not what they say are refused in one line.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Decoding, VerificationRule } from '../../../harness/engine.ts';
import { ToyModel, type ToyTables } from '../../../native/engines.ts';
import { decode, GREEDY, randomIds, SAMPLED } from './checkpoints.ts';
import { draftRow, randomTables, targetRow, toyOf } from './toys.ts';

const RULES: readonly VerificationRule[] = ['match', 'reject', 'coupled'];

test.each(RULES)('every row of a session is the row of its prefix: %s', async (rule) => {
  const decoding: Decoding = { ...SAMPLED, temperature: 0.9, topP: 0.97, maxTokens: 60 };
  let rolledBack = 0;
  let keptAll = 0;
  for (let i = 0; i < 40; i++) {
    const tables = randomTables(String(300 + i), { vocab: 3 + (i % 3), order: 1 + (i % 3), block: 2 + (i % 7) });
    const model = await ToyModel.load(tables);
    const ids = randomIds(i, 3 + (i % 5), tables.vocab);
    for (const round of await decode(model.engine({ rule, replay: true }), ids, { ...decoding, seed: String(i) })) {
      const { p, q } = round.replay!;
      p.forEach((row, slot) => {
        const expected = targetRow(tables, [...ids, ...round.drafted.slice(0, slot)], decoding);
        for (const [id, value] of row.entries()) expect(Math.exp(value)).toBeCloseTo(expected[id]!, 12);
      });
      q.forEach((row, slot) => {
        const expected = draftRow(tables, ids, slot, decoding);
        for (const [id, value] of row.entries()) expect(Math.exp(value)).toBeCloseTo(expected[id]!, 12);
      });
      if (round.drafted.length > 0) round.accepted < round.drafted.length ? rolledBack++ : keptAll++;
      ids.push(...round.committed);
    }
    await model.close();
  }
  expect(Math.min(rolledBack, keptAll)).toBeGreaterThan(100);
});

test('scores are the unfiltered rows, for any number of rows a step', async () => {
  const { tables, prompt } = toyOf('e1');
  const engine = (await ToyModel.load(tables)).engine();
  const next = randomIds(3, 50, tables.vocab);
  const { logprobs } = await engine.score(prompt, next);
  logprobs.forEach((logprob, i) => {
    const row = targetRow(tables, [...prompt, ...next.slice(0, i)], { temperature: 1, topK: 0, topP: 1 });
    expect(logprob).toBeCloseTo(Math.log(row[next[i]!]!), 12);
  });
});

test('a toy fills its context and shrinks its blocks towards the end', async () => {
  const tables = { ...randomTables('77', { vocab: 4, order: 2, block: 8 }), maxContext: 16 };
  const model = await ToyModel.load(tables);
  for (const rule of RULES) {
    const rounds = await decode(model.engine({ rule }), [0, 1], { ...SAMPLED, maxTokens: 1000 });
    let tokens = 2;
    for (const round of rounds) {
      if (round.kind === 'decode') expect(round.drafted.length).toBe(Math.min(8, 16 - tokens) - 1);
      tokens += round.committed.length;
    }
    expect(tokens).toBe(16);
  }
});

test('what the card says', async () => {
  const { tables } = toyOf('e1');
  const model = await ToyModel.load(tables);
  const { card } = model.engine({ rule: 'reject' });
  expect(card).toMatchObject({
    name: 'toy-cpu',
    blockSize: 4,
    rule: 'reject',
    vocabSize: 4,
    maxContext: 64,
    defects: [],
  });
  for (const digest of [card.weightsDigest, card.draftDigest, card.buildDigest])
    expect(digest).toMatch(/^sha256:[0-9a-f]{64}$/);
  // The digest is of the values and the sizes, not of how they arrived.
  const single = { ...tables, targetLogits: new Float32Array(tables.targetLogits) };
  expect((await ToyModel.load(single)).engine().card.weightsDigest).toBe(card.weightsDigest);
  const other = new Float32Array(tables.targetLogits);
  other[5]! += 1e-3;
  expect((await ToyModel.load({ ...tables, targetLogits: other })).engine().card.weightsDigest).not.toBe(
    card.weightsDigest,
  );
  const plain = await ToyModel.load({ ...tables, block: 1, draftLogits: new Float32Array(0) });
  expect(plain.engine().card).toMatchObject({ blockSize: 1, draftDigest: 'none', weightsDigest: card.weightsDigest });
  expect(() => plain.engine({ blockSize: 2 })).toThrow(/the toy has no draft/);
  expect(() => model.engine({ blockSize: 5 })).toThrow(/1 \.\. 4 can be decoded/);
});

describe('bad tables', () => {
  const good: ToyTables = {
    vocab: 2,
    order: 1,
    block: 3,
    maxContext: 8,
    targetLogits: new Float32Array(4),
    draftLogits: new Float32Array(8),
  };
  const NaN32 = new Float32Array([0, 0, Number.NaN, 0]);
  test.each<[string, object, RegExp]>([
    ['a short target', { targetLogits: new Float32Array(3) }, /targetLogits has 3 entries, .* need 4/],
    ['a long draft', { draftLogits: new Float32Array(9) }, /draftLogits has 9 entries, .* need 8/],
    ['a draft without a block', { block: 1 }, /draftLogits has 8 entries, .* need 0/],
    ['NaN', { targetLogits: NaN32 }, /targetLogits\[2\] is neither/],
    ['+infinity', { draftLogits: new Float64Array(8).fill(1e300) }, /draftLogits\[0\] is neither/],
    ['no token', { targetLogits: new Float32Array([0, 0, -Infinity, -Infinity]) }, /row 1 holds no token/],
    ['no vocabulary', { vocab: 0 }, /vocab must lie/],
    ['order 0', { order: 0 }, /order must lie/],
    ['order 65', { order: 65 }, /order must lie/],
    ['too many contexts', { order: 40 }, /more than 16777216 entries/],
    ['a huge vocabulary', { vocab: 2 ** 24 }, /more than 16777216 entries/],
    ['block 0', { block: 0 }, /block must lie/],
    ['block 65', { block: 65 }, /block must lie/],
    ['no context', { maxContext: 1 }, /context must lie/],
    ['a fraction', { vocab: 2.5 }, /vocab must be an integer/],
    ['a list', { targetLogits: [0, 0, 0, 0] }, /targetLogits must be a Float64Array/],
    ['integers', { targetLogits: new Int32Array(4) }, /targetLogits must be a Float64Array/],
  ])('%s', async (_, change, message) => {
    await expect(ToyModel.load({ ...good, ...change })).rejects.toMatchObject({ name: 'InputError' });
    await expect(ToyModel.load({ ...good, ...change })).rejects.toThrow(message);
  });

  test('anything at all: an InputError or a toy that decodes, never a crash', async () => {
    const count = fc.oneof(
      fc.integer({ min: -1, max: 4 }),
      fc.constantFrom(2 ** 24, 2 ** 31, 2 ** 53, 1e300, 0.5, Number.NaN),
    );
    const logit = fc.oneof(
      { weight: 40, arbitrary: fc.double({ min: -8, max: 8, noNaN: true }) },
      { weight: 5, arbitrary: fc.constant(Number.NEGATIVE_INFINITY) },
      { weight: 1, arbitrary: fc.constantFrom(Number.NaN, 1e300) },
    );
    const table = fc.oneof(
      fc.integer({ min: 0, max: 64 }).map((n) => new Float32Array(n)),
      fc.array(logit, { maxLength: 64 }).map((values) => Float64Array.from(values)),
      fc.anything(),
    );
    const fits = fc
      .record({
        vocab: fc.integer({ min: 1, max: 4 }),
        order: fc.integer({ min: 1, max: 2 }),
        block: fc.integer({ min: 1, max: 4 }),
      })
      .chain(({ vocab, order, block }) => {
        const exactly = (length: number) =>
          fc.array(logit, { minLength: length, maxLength: length }).map((v) => Float64Array.from(v));
        const target = vocab ** order * vocab;
        return fc.record({
          vocab: fc.constant(vocab),
          order: fc.constant(order),
          block: fc.constant(block),
          maxContext: fc.integer({ min: 2, max: 9 }),
          targetLogits: exactly(target),
          draftLogits: exactly(target * (block - 1)),
          allowNan: fc.boolean(),
        });
      });
    const loose = fc.record({
      vocab: count,
      order: count,
      block: count,
      maxContext: count,
      targetLogits: table,
      draftLogits: table,
    });
    let decoded = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fits, loose, fc.anything()),
        fc.constantFrom(...RULES),
        fc.boolean(),
        async (tables, rule, greedy) => {
          let model: ToyModel;
          try {
            model = await ToyModel.load(tables as ToyTables);
          } catch (error) {
            expect((error as Error).name).toBe('InputError');
            return;
          }
          try {
            const rounds = await decode(model.engine({ rule, replay: true }), [0], {
              ...(greedy ? GREEDY : SAMPLED),
              maxTokens: 12,
            });
            for (const token of rounds.flatMap((round) => round.committed)) expect(token).toBeLessThan(model.vocab);
            decoded += 1;
          } catch (error) {
            expect((tables as ToyTables).allowNan).toBe(true);
            expect((error as Error).name).toBe('LogitsError');
          }
          await model.close();
        },
      ),
      { seed: 5501, numRuns: 400 },
    );
    expect(decoded).toBeGreaterThan(20);
  });
});
