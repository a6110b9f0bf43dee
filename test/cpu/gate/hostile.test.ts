/**
 * Engines that do whatever they like, inside this process: nothing of it may pass, and nothing may end the gate by an exception of
 * its own. Each kind has the check that must name it.
 */
import { describe, expect, it } from 'vitest';
import type { Engine, Round, RoundReplay, Session } from '../../../harness/engine.ts';
import { markovSource } from '../../../harness/engines/markov.ts';
import type { EngineSource } from '../../../harness/engines/plugin.ts';
import { CHAIN, find, gate, refutations } from './support.ts';

type Change = (honest: Engine) => Engine;

/** The speculative engine changed, or both with `both`. */
function hostile(change: Change, both = false): EngineSource {
  const source = markovSource(CHAIN);
  return {
    ...source,
    open: async (options) => {
      const engine = await source.open(options);
      return options.blockSize === 1 && !both ? engine : change(engine);
    },
  };
}

const withSession =
  (change: (session: Session) => unknown): Change =>
  (engine) => ({ ...engine, open: async (...args) => change(await engine.open(...args)) as Session });

const withRound = (change: (round: Round, index: number) => unknown): Change =>
  withSession((session) => {
    const wrap = (inner: Session): Session => {
      let index = 0;
      return {
        step: async () => change(await inner.step(), index++) as Round,
        fork: async () => wrap(await inner.fork()),
        close: () => inner.close(),
      };
    };
    return wrap(session);
  });

const withReplay = (change: (replay: RoundReplay) => unknown): Change =>
  withRound((round, index) => (index < 2 ? round : { ...round, replay: change(round.replay!) }));

const firstRow = (change: (row: Float64Array) => Float64Array) => (replay: RoundReplay) => ({
  ...replay,
  p: [change(replay.p[0]!), ...replay.p.slice(1)],
});
const bump = (by: number) =>
  firstRow((row) => row.map((value, x) => (x === 0 ? Math.log(Math.exp(value) + by) : value)));

describe.each([
  ['rows', 'a row of NaN', withReplay(firstRow((row) => row.map(() => Number.NaN)))],
  ['rows', 'one NaN', withReplay(firstRow((row) => row.with(2, Number.NaN)))],
  ['rows', 'a negative probability, whose logarithm is NaN', withReplay(bump(-2))],
  ['rows', 'a row that adds up to more than 1', withReplay(bump(0.01))],
  ['rows', 'a row that adds up to 0', withReplay(firstRow((row) => row.map(() => Number.NEGATIVE_INFINITY)))],
  ['rows', 'infinite log-probabilities', withReplay(firstRow((row) => row.with(0, Number.POSITIVE_INFINITY)))],
  ['rows', 'a row that is too short', withReplay(firstRow((row) => row.slice(1)))],
  ['rows', 'too few rows', withReplay((replay) => ({ ...replay, p: [] }))],
  ['rows', 'more draft rows than drafts', withReplay((replay) => ({ ...replay, q: [...replay.q, ...replay.p] }))],
  ['rows', 'rows that stop coming', withReplay(() => undefined)],
  ['rows', 'rows that are no rows', withReplay((replay) => ({ ...replay, p: ['row', 7] }))],
  ['rows', 'no list of rows', withReplay(() => ({}))],
  ['rows', 'a replay that is a number', withReplay(() => 7)],
  ['rows', 'uniforms that are no list', withReplay((replay) => ({ ...replay, uniforms: null }))],
  ['replay', 'numbers that stop coming', withReplay((replay) => ({ ...replay, uniforms: [] }))],
  [
    'counters',
    'one counter for all',
    withReplay((replay) => ({ ...replay, uniforms: replay.uniforms.map((use) => ({ ...use, position: 0 })) })),
  ],
  [
    'counters',
    'a uniform that is another',
    withReplay((replay) => ({ ...replay, uniforms: replay.uniforms.map((use) => ({ ...use, u: 0.5 })) })),
  ],
  ['sessions', 'no session', withSession(() => null)],
  ['sessions', 'a session without verbs', withSession(() => ({}))],
  [
    'sessions',
    'a session that cannot be closed',
    withSession((session) => ({ step: () => session.step(), fork: () => session.fork() })),
  ],
  ['sessions', 'no round', withRound(() => undefined)],
  ['sessions', 'a text as a round', withRound(() => 'round')],
  ['sessions', 'no tokens', withRound((round) => ({ ...round, committed: undefined }))],
  ['sessions', 'fractional tokens', withRound((round) => ({ ...round, committed: [0.5] }))],
  ['sessions', 'negative tokens', withRound((round) => ({ ...round, committed: [-1] }))],
  ['sessions', 'a count that is no number', withRound((round) => ({ ...round, accepted: 'many' }))],
  ['sessions', 'an infinite count', withRound((round) => ({ ...round, accepted: Number.POSITIVE_INFINITY }))],
  ['sessions', 'negative time', withRound((round) => ({ ...round, hostNs: { draft: 0, verify: 0, total: -1 } }))],
  ['books', 'a round without a token', withRound((round, index) => (index < 2 ? round : { ...round, committed: [] }))],
  ['books', 'two prefills', withRound((round) => ({ ...round, kind: 'prefill' }))],
  ['books', 'every draft said to be accepted', withRound((round) => ({ ...round, accepted: round.drafted.length }))],
  ['books', 'drafts hidden', withRound((round) => ({ ...round, drafted: [], accepted: 0 }))],
  [
    'books',
    'a block larger than declared',
    withRound((round, index) => (index < 1 ? round : { ...round, drafted: [...round.drafted, 1, 1] })),
  ],
  ['score', 'no scores for tokens', (engine: Engine) => ({ ...engine, score: async () => ({ logprobs: [] }) })],
  [
    'score',
    'positive scores',
    (engine: Engine) => ({
      ...engine,
      score: async (_: unknown, next: readonly number[]) => ({ logprobs: next.map(() => 1) }),
    }),
  ],
  [
    'score',
    'NaN as a score',
    (engine: Engine) => ({
      ...engine,
      score: async (_: unknown, next: readonly number[]) => ({ logprobs: next.map(() => Number.NaN) }),
    }),
  ],
  ['score', 'scores that are no list', (engine: Engine) => ({ ...engine, score: async () => ({}) as never })],
  [
    'sessions',
    'a hang when it is closed',
    withSession((session) => ({ ...bound(session), close: () => new Promise(() => {}) })),
  ],
  [
    'sessions',
    'a throw that is no error',
    withSession((session) => ({ ...bound(session), step: () => Promise.reject(null) })),
  ],
  [
    'sessions',
    'a synchronous throw',
    withSession((session) => ({
      ...bound(session),
      step: () => {
        throw new Error('now');
      },
    })),
  ],
  [
    'sessions',
    'a fork that is the session itself',
    withSession((session) => ({ ...bound(session), fork: async () => session })),
  ],
] as [string, string, Change][])('%s: %s', (id, _, change) => {
  it('is refuted, by name', async () => {
    const result = await gate(hostile(change), {
      stepMs: 250,
      budget: {
        prompts: 4,
        equalityPrompts: 4,
        equalityTokens: 12,
        lawTokens: 600,
        toyTokens: 200,
        toyEqualitySessions: 4,
      },
    });
    expect(result.verdict).toBe('refuted');
    expect(
      refutations(result),
      JSON.stringify(
        result.checks.filter((one) => /refuted|incons/.test(one.outcome)),
        null,
        1,
      ),
    ).toContain(id);
  });
});

function bound(session: Session): Session {
  return { step: () => session.step(), fork: () => session.fork(), close: () => session.close() };
}

describe('rows that lie and follow from themselves', () => {
  const off = (row: Float64Array): Float64Array => {
    // A swap keeps a law a law.
    const [a, b] = [row[0]!, row[1]!];
    return row.with(0, b).with(1, a);
  };
  it('are seen beside the plain engine and its scores, in both modes alike', async () => {
    const lie = withRound((round) => ({ ...round, replay: { ...round.replay!, p: round.replay!.p.map(off) } }));
    const result = await gate(hostile(lie, true));
    expect(refutations(result)).toContain('rows');
    expect(find(result, 'rows').evidence).toContain('score');
  });
  it('are seen even where they hide in one token of a hundred', async () => {
    let n = 0;
    const lie = withRound((round) =>
      n++ % 100 === 7 ? { ...round, replay: { ...round.replay!, p: round.replay!.p.map(off) } } : round,
    );
    // The first decision that does not follow, or a token of probability 0, ends it before the rows are compared.
    expect(refutations(await gate(hostile(lie, true)))).toContain('replay');
  });
});
