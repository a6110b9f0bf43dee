/**
 * Replay: every round decided once more from what it carries (rows, uniforms, noise) and nothing else of the engine, for every
 * rule; every number it drew recomputed by an independent Philox; and an audit of the counters.
 *
 * Which counters may be read twice in a session: none of `match`, `reject` or plain decoding. Under `coupled` the noise of a
 * position may be read once for the target's token and any number of times for drafts (a draft shares its position's noise with
 * the target, and one that was not kept is drafted anew). Across a session, its forks and plain decoding with the same seed,
 * counters are the same by design.
 */
import { describe, expect, test } from 'vitest';
import type { VerificationRule } from '../../../harness/engine.ts';
import { CpuModel, ToyModel } from '../../../native/engines.ts';
import { checkpoint, decode, randomIds, tinyVocabulary } from './checkpoints.ts';
import { audit, type Played, replay } from './replayer.ts';
import { randomTables } from './toys.ts';

const RULES: readonly VerificationRule[] = ['match', 'reject', 'coupled'];
const SETTINGS = [
  { temperature: 1, topP: 1, topK: 0, stopIds: [] },
  { temperature: 0.7, topP: 0.9, topK: 3, stopIds: [1] },
  { temperature: 1.4, topP: 0.95, topK: 0, stopIds: [0, 2] },
  { temperature: 0, topP: 1, topK: 0, stopIds: [] },
];

async function plays(rule: VerificationRule): Promise<Played[]> {
  const played: Played[] = [];
  for (let i = 0; i < 120; i++) {
    const shape = { vocab: 3 + (i % 4), order: 1 + (i % 2), block: 2 + (i % 7) };
    const tables = { ...randomTables(String(i), shape), maxContext: 24 };
    const model = await ToyModel.load(tables);
    const blockSize = i % 5 === 0 ? 1 : shape.block;
    const seed = String(2n ** 64n - 1n - BigInt(1000 * i));
    const decoding = { ...SETTINGS[i % SETTINGS.length]!, seed, maxTokens: i % 3 === 0 ? 7 : 100 };
    const prompt = randomIds(i, 2 + (i % 9), shape.vocab);
    const rounds = await decode(model.engine({ rule, blockSize, replay: true }), prompt, decoding);
    played.push({ rule, blockSize, decoding, prompt, maxContext: 24, rounds });
    await model.close();
  }
  return played;
}

describe.each(RULES)('%s', (rule) => {
  test('rounds decided again come out the same, and no decision was close', async () => {
    let rounds = 0;
    for (const played of await plays(rule)) {
      expect(replay(played)).toEqual({ differ: 0, closeCalls: 0 });
      rounds += played.rounds.length;
    }
    expect(rounds).toBeGreaterThan(500);
  });

  test('every number is Philox at its counter, and none is read twice', async () => {
    let read = 0;
    for (const played of await plays(rule)) {
      const result = audit(played);
      expect(result).toMatchObject({ repeated: [], wrong: [] });
      if (played.decoding.temperature === 0) expect(result.read).toBe(0);
      read += result.read;
    }
    expect(read).toBeGreaterThan(500);
  });

  test('the same of a checkpoint', async () => {
    const model = await CpuModel.load(await checkpoint('tiny', tinyVocabulary(6)));
    for (const [i, settings] of SETTINGS.entries()) {
      const decoding = { ...settings, seed: String(i), maxTokens: 30 };
      const prompt = randomIds(i, 5, 6);
      const rounds = await decode(model.engine({ rule, replay: true }), prompt, decoding);
      const played = { rule, blockSize: 8, decoding, prompt, maxContext: 64, rounds };
      expect(replay(played)).toEqual({ differ: 0, closeCalls: 0 });
      expect(audit(played)).toMatchObject({ repeated: [], wrong: [] });
    }
    await model.close();
  });

  test('twin: a round that was decided otherwise is seen', async () => {
    for (const played of (await plays(rule)).slice(0, 20)) {
      const [first, ...rest] = played.rounds;
      const other = { ...first!, committed: [(first!.committed[0]! + 1) % 3] };
      expect(replay({ ...played, rounds: [other, ...rest] }).differ).toBeGreaterThan(0);
    }
  });
});

test('twin: a coin that decides two drafts, and a number that is not Philox, are seen', async () => {
  const played = (await plays('reject')).find(({ rounds }) => rounds.some((round) => round.accepted >= 2))!;
  const at = played.rounds.findIndex((round) => round.accepted >= 2);
  const round = played.rounds[at]!;
  const uniforms = [...round.replay!.uniforms];
  const coins = [...uniforms.keys()].filter((i) => uniforms[i]!.stream === 'accept');
  uniforms[coins[1]!] = uniforms[coins[0]!]!;
  const other = { ...round, replay: { ...round.replay!, uniforms } };
  expect(audit({ ...played, rounds: played.rounds.with(at, other) }).repeated.length).toBe(1);
  uniforms[coins[1]!] = { ...round.replay!.uniforms[coins[1]!]!, u: 0.5 };
  expect(audit({ ...played, rounds: played.rounds.with(at, other) }).wrong.length).toBe(1);
});
