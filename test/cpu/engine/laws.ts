/** Counts of what an engine emits, held against a law that was listed. */
import type { Engine } from '../../../harness/engine.ts';
import { gammaQ } from '../../../harness/stats/chisquare.ts';
import { decode, tokensOf } from './checkpoints.ts';
import type { Toy } from './toys.ts';

/** p-value of counts against a law over the same keys; mass outside the law is a failure of its own. */
export function chiSquare(counts: ReadonlyMap<string, number>, law: ReadonlyMap<string, number>): number {
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  let statistic = 0;
  let cells = 0;
  const add = (count: number, expected: number) => {
    statistic += (count - expected) ** 2 / expected;
    cells += 1;
  };
  const pooled = { count: 0, expected: 0 };
  for (const [key, p] of law) {
    const count = counts.get(key) ?? 0;
    if (p * total >= 5) add(count, p * total);
    else {
      pooled.count += count;
      pooled.expected += p * total;
    }
  }
  if (pooled.expected >= 5) add(pooled.count, pooled.expected);
  return cells < 2 ? 1 : gammaQ((cells - 1) / 2, statistic / 2);
}

export const keyed = (values: readonly number[]) => new Map(values.map((value, key) => [String(key), value]));
export const count = (counts: Map<string, number>, key: string) => counts.set(key, (counts.get(key) ?? 0) + 1);

export interface Observed {
  readonly toy: Toy;
  readonly emitted: Map<string, number>;
  /** Accepted in the first decode round. */
  readonly accepted: Map<string, number>;
}

/** `sessions` runs of the toy with seeds from `seed` on. */
export async function observe(toy: Toy, engine: Engine, sessions: number, seed: number): Promise<Observed> {
  const emitted = new Map<string, number>();
  const accepted = new Map<string, number>();
  for (let s = 0; s < sessions; s++) {
    const rounds = await decode(engine, toy.prompt, { ...toy.decoding, seed: String(seed + s) });
    count(emitted, tokensOf(rounds).join());
    if (rounds.length > 1) count(accepted, String(rounds[1]!.accepted));
  }
  return { toy, emitted, accepted };
}
