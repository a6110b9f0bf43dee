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
import type { Decoding, Round, VerificationRule } from '../../../harness/engine.ts';
import { CpuModel, ToyModel } from '../../../native/engines.ts';
import { argmax, inverseCdf } from '../../support/oracle/decode.ts';
import { gumbel, STREAM, uniform } from '../../support/oracle/random.ts';
import { checkpoint, decode, randomIds, tinyVocabulary } from './checkpoints.ts';
import { randomTables } from './toys.ts';

const STREAMS: Readonly<Record<string, number>> = {
  target: STREAM.targetSample,
  draft: STREAM.draftSample,
  accept: STREAM.acceptCoin,
  residual: STREAM.residualSample,
};

interface Played {
  readonly rule: VerificationRule;
  readonly blockSize: number;
  readonly decoding: Decoding;
  readonly prompt: readonly number[];
  readonly maxContext: number;
  readonly rounds: readonly Round[];
}

/** Rows are logarithms: exp(log p) is off by a few units of 2^-53, so decisions closer than this are not held against anyone. */
const GUARD = 1e-13;

class Replayer {
  readonly round: Round;
  readonly played: Played;
  closeCalls = 0;
  #uniforms = 0;
  #noise = 0;

  constructor(played: Played, round: Round) {
    this.played = played;
    this.round = round;
  }

  uniform(stream: string): number {
    const use = this.round.replay!.uniforms[this.#uniforms++];
    if (use?.stream !== stream) throw new Error(`the replay holds ${use?.stream} where ${stream} was drawn`);
    return use.u;
  }

  pick(row: Float64Array, stream: string): number {
    const u = this.uniform(stream);
    let cumulative = 0;
    for (const p of row) {
      cumulative += p;
      if (Math.abs(cumulative - u) < GUARD) this.closeCalls += 1;
    }
    return inverseCdf(row, u);
  }

  noisy(log: Float64Array, of: 'draft' | 'target'): number {
    const use = this.round.replay!.noise![this.#noise++];
    if (use?.of !== of) throw new Error(`the replay holds noise of ${use?.of} where ${of} was drawn`);
    return argmax(log.map((value, id) => value - Math.log(-Math.log(use.u[id]!))));
  }

  /** The target's own token, as equality rules draw it. */
  target(log: Float64Array): number {
    if (this.played.decoding.temperature === 0) return argmax(log);
    return this.played.rule === 'coupled' ? this.noisy(log, 'target') : this.pick(log.map(Math.exp), 'target');
  }

  decide(emitted: number, length: number) {
    const { round, played } = this;
    const { p, q } = round.replay!;
    const sampled = played.decoding.temperature > 0;
    const drafted = round.drafted.map((draft, i) => {
      if (!sampled || played.rule === 'match') return draft; // the draft's argmax; its row decides nothing else
      return played.rule === 'coupled' ? this.noisy(q[i]!, 'draft') : this.pick(q[i]!.map(Math.exp), 'draft');
    });
    const tokens: number[] = [];
    let accepted = 0;
    const byRejection = sampled && played.rule === 'reject' && played.blockSize > 1 && round.kind === 'decode';
    for (let i = 0; ; i++) {
      const row = p[i]!.map(Math.exp);
      const draft = drafted[i];
      if (!byRejection) {
        const token = this.target(p[i]!);
        tokens.push(token);
        if (token !== draft) break;
      } else if (draft === undefined) {
        tokens.push(this.pick(row, 'residual'));
        break;
      } else {
        const u = this.uniform('accept');
        const qd = Math.exp(q[i]![draft]!);
        if (Math.abs(u * qd - row[draft]!) < GUARD) this.closeCalls += 1;
        if (!(u * qd < row[draft]!)) {
          const rest = row.map((value, id) => Math.max(value - Math.exp(q[i]![id]!), 0));
          const mass = rest.reduce((sum, value) => sum + value, 0);
          tokens.push(this.pick(mass > GUARD ? rest.map((value) => value / mass) : row, 'residual'));
          break;
        }
        tokens.push(draft);
      }
      accepted += 1;
    }
    if (this.#uniforms !== round.replay!.uniforms.length || this.#noise !== (round.replay!.noise ?? []).length)
      throw new Error('the replay holds numbers that decided nothing');
    const { stopIds, maxTokens } = played.decoding;
    const within = tokens.slice(0, maxTokens - emitted);
    const stop = within.findIndex((token) => stopIds.includes(token));
    const committed = stop < 0 ? within : within.slice(0, stop + 1);
    const full = emitted + committed.length >= maxTokens || length + committed.length >= played.maxContext;
    return { drafted, committed, accepted, finish: stop >= 0 ? 'stop' : full ? 'length' : null };
  }
}

/** Decisions that differ from the rounds', and decisions too close to call. */
function replay(played: Played): { differ: number; closeCalls: number } {
  let emitted = 0;
  let differ = 0;
  let closeCalls = 0;
  for (const round of played.rounds) {
    const replayer = new Replayer(played, round);
    const again = replayer.decide(emitted, played.prompt.length + emitted);
    const { drafted, committed, accepted, finish } = round;
    if (JSON.stringify(again) !== JSON.stringify({ drafted, committed, accepted, finish })) differ += 1;
    closeCalls += replayer.closeCalls;
    emitted += committed.length;
  }
  return { differ, closeCalls };
}

/** Every number read, by its counter, with the reads that this rule does not allow. */
function audit({ rule, decoding, rounds }: Played): { read: number; repeated: string[]; wrong: string[] } {
  const seed = BigInt(decoding.seed);
  const seen = new Set<string>();
  const repeated: string[] = [];
  const wrong: string[] = [];
  let read = 0;
  const note = (counter: string, u: number, expected: number, mayRepeat: boolean) => {
    read += 1;
    if (seen.has(counter) && !mayRepeat) repeated.push(counter);
    if (!mayRepeat) seen.add(counter);
    if (u !== expected) wrong.push(counter);
  };
  for (const { replay } of rounds) {
    for (const { stream, position, round, draw, u } of replay!.uniforms) {
      expect(draw).toBe(0);
      note(`${stream} ${position} ${round}`, u, uniform(seed, position, STREAMS[stream]!, round), false);
    }
    for (const { of, position, round, u } of replay!.noise ?? []) {
      expect(round).toBe(0);
      expect(rule).toBe('coupled');
      u.forEach((value, token) => {
        note(`noise ${position} ${token}`, -Math.log(-Math.log(value)), gumbel(seed, position, token), of === 'draft');
      });
    }
  }
  return { read, repeated, wrong };
}

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
