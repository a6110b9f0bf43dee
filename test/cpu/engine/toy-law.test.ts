/**
 * The decode loop of the real engine on toys whose law can be listed. Under `reject` emitted sequences follow the law of plain
 * decoding and the first round's accepted count its own: Pearson's chi-square, cells expected below 5 pooled, alpha = 1e-5 a test,
 * seeds fixed. `match`, `coupled` and greedy decoding emit the very tokens of plain decoding under every seed.
 * The twins hold the same counts against laws a little off, which must be rejected.
 */
import { beforeAll, describe, expect, test } from 'vitest';
import type { VerificationRule } from '../../../harness/engine.ts';
import { enumerate } from '../../../harness/oracle/enumerate.ts';
import { ToyModel } from '../../../native/engines.ts';
import { decode, finish, randomIds, tokensOf } from './checkpoints.ts';
import { chiSquare, count, keyed, type Observed, observe } from './laws.ts';
import { acceptedLaw, plainLaw, randomTables, type Toy, targetRow, toyOf } from './toys.ts';

const ALPHA = 1e-5;
const SESSIONS = 3000;

const RANDOM_SHAPES = [
  { vocab: 3, order: 1, block: 2, temperature: 1.3, topK: 0, topP: 1, stopIds: [], maxTokens: 6 },
  { vocab: 4, order: 2, block: 4, temperature: 0.7, topK: 3, topP: 1, stopIds: [1], maxTokens: 5 },
  { vocab: 5, order: 2, block: 6, temperature: 1, topK: 0, topP: 0.9, stopIds: [], maxTokens: 4 },
  { vocab: 6, order: 1, block: 8, temperature: 1.1, topK: 4, topP: 0.95, stopIds: [5, 0], maxTokens: 4 },
];

const TOYS: Toy[] = [
  ...['e1', 'e2', 'block-8', 'limit', 'logits', 'near-equal', 'one-hot', 'stop', 'ties', 'zeros'].map(toyOf),
  ...RANDOM_SHAPES.map(({ vocab, order, block, ...decoding }, i) => ({
    name: `random ${i}`,
    tables: randomTables(String(900 + i), { vocab, order, block }),
    prompt: randomIds(i, order, vocab),
    decoding,
  })),
];

describe.each(TOYS.map((toy, i) => ({ name: toy.name, toy, seed: 100_000 * (i + 1) })))(
  'reject on $name',
  ({ toy, seed }) => {
    let observed: Observed;
    beforeAll(async () => {
      const model = await ToyModel.load(toy.tables);
      observed = await observe(toy, model.engine({ rule: 'reject' }), SESSIONS, seed);
      await model.close();
    });

    test('emitted sequences follow the law of plain decoding', () => {
      const law = plainLaw(toy);
      expect([...law.values()].reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 10);
      expect([...observed.emitted.keys()].filter((key) => !law.has(key))).toEqual([]);
      expect(chiSquare(observed.emitted, law)).toBeGreaterThan(ALPHA);
    });

    test('the accepted count of a round follows its own', () => {
      const law = acceptedLaw(toy);
      expect(law.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 10);
      expect([...observed.accepted.keys()].filter((j) => law[Number(j)]! === 0)).toEqual([]);
      expect(chiSquare(observed.accepted, keyed(law))).toBeGreaterThan(ALPHA);
    });
  },
);

describe('twins', () => {
  let observed: Observed;
  beforeAll(async () => {
    const toy = toyOf('e1');
    const model = await ToyModel.load(toy.tables);
    observed = await observe(toy, model.engine({ rule: 'reject' }), SESSIONS, 1);
    await model.close();
  });

  test('a law with one target row out of sixteen turned by one token is rejected', () => {
    const { tables } = observed.toy;
    const targetLogits = Float64Array.from(tables.targetLogits);
    const row = targetLogits.slice(4 * 6, 4 * 7);
    for (let id = 0; id < 4; id++) targetLogits[4 * 6 + id] = row[(id + 1) % 4]!;
    const law = plainLaw({ ...observed.toy, tables: { ...tables, targetLogits } });
    expect(chiSquare(observed.emitted, law)).toBeLessThan(ALPHA);
  });

  test('the law of accepted counts with draft rows one slot late is rejected', () => {
    const { tables } = observed.toy;
    const draftLogits = Float64Array.from(tables.draftLogits, (_, i) => {
      const slot = Math.floor(i / 4) % 3;
      return tables.draftLogits[slot === 0 ? i : i - 4]!;
    });
    expect(chiSquare(observed.accepted, keyed(acceptedLaw(observed.toy)))).toBeGreaterThan(ALPHA);
    const late = acceptedLaw({ ...observed.toy, tables: { ...tables, draftLogits } });
    expect(chiSquare(observed.accepted, keyed(late))).toBeLessThan(ALPHA);
  });
});

test.each(['e1', 'e2', 'block-8', 'stop', 'zeros'])('two listings of the law agree: %s', (name) => {
  const toy = toyOf(name);
  const listed = enumerate(toy.fixture, 'reject');
  const law = plainLaw(toy);
  for (const [key, p] of listed.law) expect(law.get(key.replaceAll(' ', ',')) ?? 0).toBeCloseTo(p, 6); // the toy's logits are binary32
  const mean = acceptedLaw(toy).reduce((sum, p, j) => sum + p * (j + 1), 0);
  expect(mean).toBeCloseTo(listed.acceptance!.firstRound, 5);
});

describe('token for token', () => {
  const cases: [string, VerificationRule, number | null][] = [
    ['match', 'match', null],
    ['coupled', 'coupled', null],
    ['greedy under match', 'match', 0],
    ['greedy under reject', 'reject', 0],
    ['greedy under coupled', 'coupled', 0],
  ];
  test.each(cases)('%s equals plain decoding for every block', async (_, rule, temperature) => {
    let several = 0;
    for (const [i, toy] of [...TOYS, toyOf('greedy')].entries()) {
      const model = await ToyModel.load(toy.tables);
      const settings = { ...toy.decoding, maxTokens: 24, temperature: temperature ?? (toy.decoding.temperature || 1) };
      for (let s = 0; s < 25; s++) {
        const decoding = { ...settings, seed: String(7000 * i + s) };
        const prompt = randomIds(s, toy.prompt.length, toy.tables.vocab);
        const plain = await decode(model.engine({ blockSize: 1, rule }), prompt, decoding);
        const blockSize = 2 + (s % (toy.tables.block - 1));
        const rounds = await decode(model.engine({ blockSize, rule }), prompt, decoding);
        expect(tokensOf(rounds)).toEqual(tokensOf(plain));
        expect(rounds.at(-1)!.finish).toBe(plain.at(-1)!.finish);
        several += rounds.filter((round) => round.accepted > 1).length;
      }
      await model.close();
    }
    expect(several).toBeGreaterThan(100);
  });

  test('plain decoding samples by inverse CDF or Gumbel noise: both have the law', async () => {
    const toy = toyOf('e1');
    const model = await ToyModel.load(toy.tables);
    const law = plainLaw(toy);
    for (const rule of ['match', 'coupled', 'reject'] as const) {
      const emitted = new Map<string, number>();
      const engine = model.engine({ rule, blockSize: rule === 'coupled' ? 4 : 1 });
      for (let s = 0; s < SESSIONS; s++)
        count(emitted, tokensOf(await decode(engine, toy.prompt, { ...toy.decoding, seed: String(s) })).join());
      expect(chiSquare(emitted, law)).toBeGreaterThan(ALPHA);
    }
  });

  test('a fork in mid-session continues by the rows of its own history', async () => {
    const { tables, prompt, decoding } = toyOf('block-8');
    const model = await ToyModel.load(tables);
    for (const rule of ['match', 'reject', 'coupled'] as const) {
      const settings = { ...decoding, maxTokens: 30, seed: '5' };
      const session = await model.engine({ rule, replay: true }).open(prompt, settings);
      const ids = [...prompt, ...(await session.step()).committed, ...(await session.step()).committed];
      const fork = await session.fork();
      const rest = await finish(session);
      expect(tokensOf(await finish(fork))).toEqual(tokensOf(rest));
      for (const round of rest) {
        const row = targetRow(tables, ids, decoding);
        for (const [id, p] of row.entries()) expect(Math.exp(round.replay!.p[0]![id]!)).toBeCloseTo(p, 12);
        ids.push(...round.committed);
      }
    }
  });
});
