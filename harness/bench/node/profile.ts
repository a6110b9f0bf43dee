/**
 * Acceptance as an assumption. The draft of a synthetic model has no taste, so its proposals are replaced by a plain continuation that
 * was recorded before, corrupted so that the expected acceptance length is a stated one. Verification, acceptance, rollback and all of
 * their time are real; only the share of right proposals is assumed.
 *
 * With c_i the chance that draft i is right given that those before it are, tokens committed per round of block B are expected to be
 * 1 + c_1 + c_1 c_2 + ... + c_1 ... c_(B-1). With all c_i = q that is (1 - q^B) / (1 - q); `constantChance` solves it for q.
 */
import { z } from 'zod';
import { InputError } from '../../engine.ts';
import { Random } from '../../stats/philox.ts';

export const BLOCK = 8;

export const Profile = z.strictObject({
  name: z.string().min(1),
  /** Expected tokens a round at block 8. */
  target: z.number().min(1).max(BLOCK),
  /** c_1 .. c_7. */
  chances: z.array(z.number().min(0).max(1)).length(BLOCK - 1),
  source: z.string().min(1),
});
export type Profile = z.infer<typeof Profile>;

/** Expected tokens a round, for the first block - 1 of the chances. */
export function expectedCommitted(chances: readonly number[], block: number): number {
  let survival = 1;
  let sum = 1;
  for (let i = 0; i < block - 1; i++) {
    survival *= chances[i]!;
    sum += survival;
  }
  return sum;
}

/** The q with 1 + q + ... + q^7 = target, for target in 1 .. 8; the left side rises with q, so halving finds it to the last bit. */
export function constantChance(target: number): number {
  if (!(target >= 1 && target <= BLOCK))
    throw new InputError(`an acceptance length of ${target} is outside 1 .. ${BLOCK}`);
  let low = 0;
  let high = 1;
  for (;;) {
    const middle = (low + high) / 2;
    if (middle <= low || middle >= high) break;
    const value = expectedCommitted(new Array<number>(BLOCK - 1).fill(middle), BLOCK);
    if (value < target) low = middle;
    else high = middle;
  }
  return high;
}

function constant(name: string, target: number, source: string): Profile {
  return { name, target, chances: new Array<number>(BLOCK - 1).fill(constantChance(target)), source };
}

const PUBLISHED =
  'acceptance length that the vendor published for its own model and prompts; equal chance at every place';

/** The three published lengths, and every draft right. The first is what sweeps and ablation run at. */
export const PROFILES: readonly Profile[] = [
  constant('coding', 6.3, PUBLISHED),
  constant('math', 5.56, PUBLISHED),
  constant('agent', 4.29, PUBLISHED),
  constant('all', BLOCK, 'every draft right: the most that a block of 8 can yield'),
];

/** A profile from what a file holds: seven conditional chances. Throws InputError. */
export function profileFromJson(value: unknown, name: string): Profile {
  const chances = z
    .array(z.number().min(0).max(1))
    .length(BLOCK - 1)
    .safeParse(value);
  if (!chances.success)
    throw new InputError(
      `profile ${name} must be a list of ${BLOCK - 1} chances in 0 .. 1, one for each place behind the anchor`,
    );
  return {
    name,
    target: expectedCommitted(chances.data, BLOCK),
    chances: chances.data,
    source: `given as ${BLOCK - 1} conditional chances`,
  };
}

export interface Corrupted {
  /** By place in the output: what is proposed there. */
  readonly proposals: readonly number[];
  /** Accepted drafts of each round that begins before the last place, in order. */
  readonly accepted: readonly number[];
}

/** Streams of the generator: which drafts are right, and what stands where one is wrong. */
const COINS = 0x70726f66;
const WRONG = 0x70726f67;

/**
 * `plain`: the recorded output, [n] ids, the prefill's token first. Rounds are walked as the engine will walk them: the anchor of
 * the first round is place 0; a round with a accepted drafts commits a + 1 tokens, the last of which is the next anchor. Of the
 * drafts of a round those before the first wrong one are right, by the round's own draws. Places that no round reaches as a decisive
 * draft (a correction or a bonus token) hold a wrong id, so that an engine whose rounds begin elsewhere is seen.
 */
export function corrupt(
  plain: readonly number[],
  vocab: number,
  profile: Profile,
  block: number,
  seed: string,
): Corrupted {
  const random = new Random(seed, COINS);
  const other = new Random(seed, WRONG);
  const wrong = (id: number): number => (id + 1 + other.below(vocab - 1)) % vocab;
  const proposals = plain.map(wrong);
  const accepted: number[] = [];
  for (let anchor = 0; anchor < plain.length - 1; ) {
    let right = 0;
    while (right < block - 1 && anchor + right + 1 < plain.length && random.uniform() < profile.chances[right]!) {
      right += 1;
      proposals[anchor + right] = plain[anchor + right]!;
    }
    accepted.push(right);
    anchor += right + 1;
  }
  return { proposals, accepted };
}
