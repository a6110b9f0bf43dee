/**
 * Engines that are wrong in one known way. A harness that passes any of them is broken; its tests say so. Each wraps a
 * truthful engine and changes what one session says, from round `from` on.
 */
import type { Engine, Round, Session } from '../engine.ts';

export type Lie =
  /** Tokens go on after the stop token. */
  | 'past-stop'
  /** One draft more than was accepted is reported. */
  | 'accepted-plus-one'
  /** More tokens than the block can yield. */
  | 'too-many-tokens'
  /** The session goes on past its token limit. */
  | 'past-limit'
  /** One emitted token is another. */
  | 'wrong-token'
  /** The output ends early and claims a stop. */
  | 'early-end'
  /** The engine's clock runs ahead of time. */
  | 'slow-clock'
  /** A count is not a number. */
  | 'nan-count'
  /** A token id outside the vocabulary. */
  | 'foreign-token'
  | 'throws'
  | 'throws-on-open'
  | 'hangs'
  | 'hangs-on-open';

export const LIES: readonly Lie[] = [
  'past-stop',
  'accepted-plus-one',
  'too-many-tokens',
  'past-limit',
  'wrong-token',
  'early-end',
  'slow-clock',
  'nan-count',
  'foreign-token',
  'throws',
  'throws-on-open',
  'hangs',
  'hangs-on-open',
];

export function lyingEngine(honest: Engine, lie: Lie, from = 2): Engine {
  const wrap = (session: Session, startRound: number): Session => {
    let round = startRound;
    return {
      step: async () => {
        const index = round++;
        if (index >= from && lie === 'throws') throw new Error('the device is gone');
        if (index >= from && lie === 'hangs') return new Promise<Round>(() => {});
        if (index > from && lie === 'past-limit') return runaway(honest);
        const told = await session.step();
        return index >= from || (lie === 'past-stop' && told.finish === 'stop') ? tell(told, lie, honest) : told;
      },
      fork: async () => wrap(await session.fork(), round),
      close: () => session.close(),
    };
  };
  return {
    card: honest.card,
    open: async (prompt, decoding) => {
      if (lie === 'throws-on-open') throw new Error('no such device');
      if (lie === 'hangs-on-open') return new Promise<Session>(() => {});
      return wrap(await honest.open(prompt, decoding), 0);
    },
    score: (prefix, next) => honest.score(prefix, next),
    close: () => honest.close(),
  };
}

function tell(round: Round, lie: Lie, honest: Engine): Round {
  const other = (id: number): number => (id + 1) % honest.card.vocabSize;
  switch (lie) {
    case 'past-stop':
      return round.finish === 'stop' ? { ...round, committed: [...round.committed, 0] } : round;
    case 'accepted-plus-one':
      return { ...round, accepted: round.accepted + 1 };
    case 'too-many-tokens':
      return { ...round, committed: [...round.committed, 0, 0] };
    case 'past-limit':
      return { ...round, finish: null };
    case 'wrong-token':
      return { ...round, committed: [...round.committed.slice(0, -1), other(round.committed.at(-1)!)] };
    case 'early-end':
      return { ...round, finish: 'stop' };
    case 'slow-clock':
      return { ...round, hostNs: { ...round.hostNs, total: round.hostNs.total + 1e12 } };
    case 'nan-count':
      return { ...round, accepted: Number.NaN };
    case 'foreign-token':
      return { ...round, committed: [...round.committed.slice(0, -1), honest.card.vocabSize] };
    default:
      return round;
  }
}

function runaway(honest: Engine): Round {
  const ns = { draft: 0, verify: 0, total: 0 };
  const drafted = new Array<number>(honest.card.blockSize - 1).fill(0);
  const committed = new Array<number>(honest.card.blockSize).fill(0);
  return { kind: 'decode', committed, drafted, accepted: drafted.length, finish: null, deviceNs: null, hostNs: ns };
}
