/**
 * A fixture as a toy behind the seam: the same rows inside a real engine. Engines hold logits in binary32, so the law to compare
 * with is that of the rounded fixture, which comes with the toy.
 */
import { type Engine, InputError, type Toy, type VerificationRule } from '../engine.ts';
import { type Counts, type Pearson, pearson } from './empirical.ts';
import { enumerate } from './enumerate.ts';
import { type Fixture, logitsOf, runLength } from './fixture.ts';
import { keyOf, type Law } from './plain.ts';
import { hasPenalties } from './rows.ts';

export interface FixtureToy {
  readonly toy: Toy;
  /** Rows as the engine holds them, bias within the target's: what is enumerated. */
  readonly fixture: Fixture;
}

/**
 * A logit bias goes into the target's table, where it is the same thing. Penalties depend on what was emitted and cannot.
 * @throws InputError for a fixture with penalties
 */
export function toyOf(fixture: Fixture): FixtureToy {
  if (hasPenalties(fixture.decoding)) {
    throw new InputError(
      `fixture ${fixture.name}: repetition, presence and frequency penalties are not supported by this engine; the oracle has them`,
    );
  }
  const { vocab, order, block, prompt, decoding } = fixture;
  const bias = new Array<number>(vocab).fill(0);
  for (const entry of decoding.logitBias) bias[entry.token]! += entry.bias;
  const target = fixture.target.map((row) => logitsOf(fixture, row).map((value, id) => Math.fround(value + bias[id]!)));
  const draft = fixture.draft.map((slots) => slots.map((row) => logitsOf(fixture, row).map(Math.fround)));
  // No block of a run is shortened by the end of the context.
  const maxContext = Math.max(2, prompt.length + runLength(fixture) + block);
  return {
    toy: { vocab, order, block, maxContext, target, draft },
    fixture: { ...fixture, rows: 'logits', target, draft, decoding: { ...decoding, logitBias: [] } },
  };
}

export interface Sampled {
  readonly sessions: number;
  readonly emitted: Counts;
  /** Accepted drafts in the first decode round, by number. */
  readonly accepted: Counts;
}

/** Sessions with seeds `first`, `first` + 1, ... of an engine over the toy. */
export async function sampleToy(engine: Engine, fixture: Fixture, sessions: number, first: number): Promise<Sampled> {
  const emitted = new Map<string, number>();
  const accepted = new Map<string, number>();
  const count = (counts: Map<string, number>, key: string): void => void counts.set(key, (counts.get(key) ?? 0) + 1);
  const { temperature, topK, topP, stopIds } = fixture.decoding;
  const decoding = { temperature, topK, topP, stopIds, maxTokens: runLength(fixture) };
  for (let i = 0; i < sessions; i++) {
    const session = await engine.open(fixture.prompt, { ...decoding, seed: String(first + i) });
    const tokens: number[] = [];
    for (let index = 0, over = false; !over; index++) {
      const round = await session.step();
      tokens.push(...round.committed);
      if (index === 1) count(accepted, String(round.accepted));
      // A session that does not end shows in its tokens, which the law does not know.
      over = round.finish !== null || tokens.length > decoding.maxTokens || round.committed.length === 0;
    }
    await session.close();
    count(emitted, keyOf(tokens));
  }
  return { sessions, emitted, accepted };
}

export interface ToyComparison {
  readonly emitted: Pearson;
  /** Null where a run has no decode round. */
  readonly accepted: Pearson | null;
  /** Mean raw acceptance length of the first decode round: counted, and exact. */
  readonly firstRound: { readonly counted: number; readonly exact: number } | null;
}

/** What sessions emitted against the exact law of plain decoding, and what they accepted against that of the rule. */
export function compareToy(sampled: Sampled, fixture: Fixture, rule: VerificationRule): ToyComparison {
  const exact = enumerate(fixture, rule);
  const { firstRound } = exact;
  const emitted = pearson(sampled.emitted, exact.reference);
  if (firstRound === null) return { emitted, accepted: null, firstRound: null };
  const law: Law = new Map(firstRound.flatMap((mass, j) => (mass > 0 ? [[String(j), mass] as const] : [])));
  const accepted = pearson(sampled.accepted, law);
  const counted = [...sampled.accepted].reduce((sum, [j, count]) => sum + (Number(j) + 1) * count, 0) / accepted.n;
  return {
    emitted,
    accepted,
    firstRound: { counted, exact: firstRound.reduce((sum, mass, j) => sum + mass * (j + 1), 0) },
  };
}
