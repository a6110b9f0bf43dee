/**
 * Any fixture (zeros, ties, one-hot, equal and near-equal rows; any block; filters, stop ids, limits) inside the engine and in the
 * oracle: the exact laws by two listings that share no code, and round for round the same decisions from the same numbers, whether
 * drawn from a seed or read from a tape, so that any pattern of acceptance occurs.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Decoding, Engine, Round, Toy, VerificationRule } from '../../../harness/engine.ts';
import { oracleSource } from '../../../harness/mutants/oracle-engine.ts';
import type { Defect } from '../../../harness/oracle/defects.ts';
import { enumerate } from '../../../harness/oracle/enumerate.ts';
import { type Fixture, runLength } from '../../../harness/oracle/fixture.ts';
import { findDefect } from '../../../harness/oracle/judge.ts';
import { toyOf } from '../../../harness/oracle/toy.ts';
import { ToyModel, tablesOf } from '../../../native/engines.ts';
import { anyFixture, fixture, waitingProperty } from '../oracle/support.ts';
import { decode, finish } from './checkpoints.ts';
import { audit, replay } from './replayer.ts';
import { acceptedLaw, plainLaw } from './toys.ts';

const FILE = 'test/cpu/engine/random-toys.test.ts';
const RULES: readonly VerificationRule[] = ['match', 'reject', 'coupled'];
const anyRule = fc.constantFrom(...RULES);
const anySeed = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(String);
/** The largest is near enough to 1 to refuse what can be refused, and not so near that the last bit of a row decides. */
const anyTape = fc.array(
  fc.oneof(fc.double({ min: 0, max: 1 - 2 ** -20, noNaN: true }), fc.constantFrom(0, 2 ** -60, 1 - 2 ** -20)),
  { minLength: 1, maxLength: 12 },
);

interface Case {
  readonly toy: Toy;
  readonly fixture: Fixture;
  readonly decoding: Omit<Decoding, 'seed'>;
}

function caseOf(given: Fixture): Case {
  const { toy, fixture } = toyOf(given);
  const { temperature, topK, topP, stopIds } = fixture.decoding;
  const maxTokens = fixture.decoding.maxTokens ?? 16;
  return { toy: { ...toy, maxContext: 24 }, fixture, decoding: { temperature, topK, topP, stopIds, maxTokens } };
}

/** What two engines must agree on. */
const decided = (rounds: readonly Round[]) =>
  rounds.map(({ kind, committed, drafted, accepted, finish }) => ({
    kind,
    committed: [...committed],
    drafted: [...drafted],
    accepted,
    finish,
  }));

waitingProperty(
  FILE,
  'the listed laws are those of another listing',
  fc.tuple(anyFixture, anyRule),
  { seed: 6101, runs: 150 },
  async ([given, rule]) => {
    const { toy, fixture } = toyOf(given);
    const length = runLength(fixture);
    const { temperature, topK, topP, stopIds } = fixture.decoding;
    const decoding = { temperature, topK, topP, stopIds, maxTokens: length };
    const other = { name: '', tables: tablesOf(toy), prompt: fixture.prompt, decoding };
    const { law, firstRound } = enumerate(fixture, rule);
    const plain = plainLaw(other);
    expect(law.size).toBe(plain.size);
    for (const [key, mass] of law) expect(plain.get(key.replaceAll(' ', ','))).toBeCloseTo(mass, 11);
    if (rule !== 'reject' || temperature === 0 || firstRound === null) return;
    acceptedLaw(other).forEach((mass, j) => {
      expect(firstRound[j]).toBeCloseTo(mass, 11);
    });
  },
);

async function both(
  { toy, fixture: data, decoding }: Case,
  rule: VerificationRule,
  seed: string,
  tape: readonly number[] | null,
  defect: Defect | null = null,
): Promise<[Round[], Round[]]> {
  const options = tape === null ? {} : { tape };
  const model = await ToyModel.load(tablesOf(toy));
  const engine = await model.engine({ rule, replay: true }).openToy!(toy, options);
  const oracle = await (await oracleSource(data, rule, defect).open({})).openToy!(toy, options);
  const run = async (one: Engine) => finish(await one.open(data.prompt, { ...decoding, seed }));
  const rounds: [Round[], Round[]] = [await run(engine), await run(oracle)];
  await model.close();
  return rounds;
}

waitingProperty(
  FILE,
  'the engine decides as the oracle does from the same seed',
  fc.tuple(anyFixture, anyRule, anySeed),
  { seed: 6102, runs: 300 },
  async ([given, rule, seed]) => {
    const [engine, oracle] = await both(caseOf(given), rule, seed, null);
    expect(decided(engine)).toEqual(decided(oracle));
  },
);

waitingProperty(
  FILE,
  'the engine decides as the oracle does from the same tape',
  fc.tuple(anyFixture, fc.constantFrom<VerificationRule>('match', 'reject'), anyTape),
  { seed: 6103, runs: 500 },
  async ([given, rule, tape]) => {
    const [engine, oracle] = await both(caseOf(given), rule, '1', tape);
    expect(decided(engine)).toEqual(decided(oracle));
  },
);

waitingProperty(
  FILE,
  'rounds follow from their rows and numbers',
  fc.tuple(anyFixture, anyRule, anySeed),
  { seed: 6104, runs: 200 },
  async ([given, rule, seed]) => {
    const { toy, fixture, decoding } = caseOf(given);
    const model = await ToyModel.load(tablesOf(toy));
    const asked = { ...decoding, seed };
    const rounds = await decode(model.engine({ rule, replay: true }), fixture.prompt, asked);
    const { maxContext, block: blockSize } = toy;
    const played = { rule, blockSize, decoding: asked, prompt: fixture.prompt, maxContext, rounds };
    expect(replay(played).differ).toBe(0);
    expect(audit(played)).toMatchObject({ repeated: [], wrong: [] });
    await model.close();
  },
);

const PLAIN = { seed: '1', temperature: 1, topP: 1, topK: 0, stopIds: [] };
/** Two tokens, alike everywhere. */
const COINS: Toy = {
  vocab: 2,
  order: 1,
  block: 2,
  maxContext: 8,
  target: [
    [0, 0],
    [0, 0],
  ],
  draft: [[[0, 0]], [[0, 0]]],
};

test.each(['M24', 'M27', 'M30', 'M12'])('the twin: an oracle with %s decides otherwise somewhere', async (id) => {
  let differ = 0;
  for (let seed = 0; seed < 120; seed++) {
    const [engine, oracle] = await both(caseOf(fixture('e1')), 'reject', String(seed), null, findDefect(id));
    if (JSON.stringify(decided(engine)) !== JSON.stringify(decided(oracle))) differ += 1;
  }
  expect(differ).toBeGreaterThan(0);
});

describe('tapes', () => {
  test('are read in order and from the first again; a fork reads on where it was made', async () => {
    const model = await ToyModel.load(tablesOf(COINS));
    const engine = model.engine({ rule: 'match', blockSize: 1 }, [0.25, 0.75, 0.75]);
    const session = await engine.open([0], { ...PLAIN, maxTokens: 7 });
    const first = [await session.step(), await session.step()].flatMap(({ committed }) => [...committed]);
    const fork = await session.fork();
    const rest = (await finish(session)).flatMap(({ committed }) => [...committed]);
    expect([...first, ...rest]).toEqual([0, 1, 1, 0, 1, 1, 0]);
    expect((await finish(fork)).flatMap(({ committed }) => [...committed])).toEqual(rest);
    await model.close();
  });

  test('what is no uniform is refused', async () => {
    const model = await ToyModel.load(tablesOf(COINS));
    for (const u of [1, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      const engine = model.engine({ rule: 'match' }, [0.5, u]);
      await expect(engine.open([0], { ...PLAIN, maxTokens: 1 })).rejects.toThrow(/tape must be numbers in \[0, 1\)/);
    }
    await model.close();
  });
});

test('a decoding field that the engine does not know is refused, not dropped', async () => {
  const model = await ToyModel.load(tablesOf(COINS));
  const decoding = { ...PLAIN, maxTokens: 1, repetitionPenalty: 1.1 };
  await expect(model.engine().open([0], decoding)).rejects.toMatchObject({
    name: 'InputError',
    message: 'decoding field "repetitionPenalty" is not supported by this engine',
  });
  await model.close();
});
