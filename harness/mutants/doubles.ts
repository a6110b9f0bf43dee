/**
 * Defects that live beside the sampler: in what a client makes of a stream, in what is counted behind a stop, in a switch that
 * forces acceptance and is admitted. Each is an engine that tells a truthful one's rounds wrongly, and where it is a figure, the
 * figure as the defect computes it beside a recount of the trace.
 */
import type { Engine, Round, Session } from '../engine.ts';

function retold(engine: Engine, tell: (round: Round) => Round): Engine {
  const told = (session: Session): Session => ({
    ...(session.decoding === undefined ? {} : { decoding: session.decoding }),
    step: async () => tell(await session.step()),
    fork: async () => told(await session.fork()),
    close: () => session.close(),
  });
  return { ...engine, open: async (prompt, decoding) => told(await engine.open(prompt, decoding)) };
}

/** H01: in the round that ends at a stop id, every draft counts as accepted. */
export const countsPastStop = (engine: Engine): Engine =>
  retold(engine, (round) => (round.finish === 'stop' ? { ...round, accepted: round.drafted.length } : round));

/** H03: a client that takes each chunk of a stream for one token. */
export const chunksAsTokens = (engine: Engine): Engine =>
  retold(engine, (round) => ({ ...round, committed: round.committed.slice(0, 1) }));

/** H04 where the card admits it, as a switch of a real server would be found by a probe. */
export const admitsSynthetic = (engine: Engine): Engine => ({
  ...engine,
  card: { ...engine.card, syntheticAcceptance: 'accept with probability 0.8' },
});

export interface Metric {
  readonly name: string;
  /** As the defect computes it, over the rounds of one session. */
  readonly claimed: (rounds: readonly Round[]) => number;
  /** From the tokens of the trace. */
  readonly recounted: (rounds: readonly Round[]) => number;
}

const decoded = (rounds: readonly Round[]): Round[] => rounds.filter(({ kind }) => kind === 'decode');
const tokens = (rounds: readonly Round[]): number => rounds.reduce((sum, { committed }) => sum + committed.length, 0);

export const METRICS: Readonly<Record<string, Metric>> = {
  H01: {
    name: 'tokens a verify step gives the user',
    claimed: (rounds) => decoded(rounds).reduce((sum, { accepted }) => sum + accepted + 1, 0) / decoded(rounds).length,
    recounted: (rounds) => tokens(decoded(rounds)) / decoded(rounds).length,
  },
  H03: { name: 'output tokens', claimed: (rounds) => rounds.length, recounted: tokens },
};

/** The same figures without the defect. */
export const CLEAN_METRICS: Readonly<Record<string, Metric>> = {
  H01: {
    ...METRICS.H01!,
    claimed: (rounds) =>
      decoded(rounds).reduce((sum, { committed }) => sum + committed.length, 0) / decoded(rounds).length,
  },
  H03: { ...METRICS.H03!, claimed: (rounds) => rounds.flatMap(({ committed }) => [...committed]).length },
};
