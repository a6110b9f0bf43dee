/**
 * Reference scores: log-probabilities of texts stated beforehand, by another implementation or by a build that was checked against
 * one. A fault of the network that both modes share (an attention sink lost, nibbles swapped) keeps speculation lossless with respect
 * to a wrong model; no comparison of the two modes can show it, a number stated beforehand can.
 */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { z } from 'zod';
import { type Engine, InputError } from '../engine.ts';
import type { Identity } from './acceptance.ts';
import type { Observer } from './observer.ts';
import type { Check } from './result.ts';

/** Natural log; what FP32 sums in another order may move through a whole network (the bound of the golden rows). */
const TOLERANCE = 2 ** -10;

const Text = z.object({
  ids: z.array(z.int().nonnegative()).min(2),
  /** [ids - 1]: of ids[i + 1] after ids[..i]. */
  nextLogprobs: z.array(z.number()),
});
const File = z.array(
  z.looseObject({
    card: z
      .looseObject({ weightsDigest: z.string(), numerics: z.looseObject({ id: z.string() }) })
      .nullable()
      .default(null),
    texts: z.array(Text).min(1),
  }),
);

export interface ReferenceScores {
  readonly source: string;
  readonly texts: readonly { readonly ids: readonly number[]; readonly nextLogprobs: readonly number[] }[];
}

/**
 * The statement of a file about these weights and numerics; null if it makes none. Statements without a card are about anyone.
 * @throws InputError for a file that is none
 */
export function readReference(path: string, identity: Omit<Identity, 'draftDigest'>): ReferenceScores | null {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new InputError(`cannot read reference scores from ${path}: ${(error as Error).message}`);
  }
  const parsed = File.safeParse(Array.isArray(value) ? value : [value]);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new InputError(`${path}: ${issue.path.join('.')}: ${issue.message}`);
  }
  for (const { texts } of parsed.data) {
    const wrong = texts.findIndex(({ ids, nextLogprobs }) => nextLogprobs.length !== ids.length - 1);
    if (wrong >= 0) throw new InputError(`${path}: text ${wrong} needs one score for each id but the first`);
  }
  const found = parsed.data.find(
    ({ card }) =>
      card === null || (card.weightsDigest === identity.weightsDigest && card.numerics.id === identity.numerics.id),
  );
  return found === undefined ? null : { source: basename(path), texts: found.texts };
}

export async function checkReference(
  engine: Engine,
  stated: ReferenceScores | null,
  observer: Observer,
): Promise<Check> {
  const base = {
    id: 'reference scores',
    question: 'Does the engine score texts as was stated beforehand?',
    n: 0,
    of: 'tokens',
    logE: null,
    decisive: false,
    wouldHaveCaught: null,
  };
  if (stated === null) {
    const evidence =
      'Nobody stated scores for these weights and numerics: a fault that both modes share could not be told.';
    return { ...base, outcome: 'not testable here', evidence };
  }
  let n = 0;
  let largest = 0;
  let worst = '';
  for (const [i, { ids, nextLogprobs }] of stated.texts.entries()) {
    if (observer.broken) break;
    const score = await observer.mayRefuse('reference', 'score', () => engine.score(ids.slice(0, 1), ids.slice(1)));
    if (score?.logprobs?.length !== nextLogprobs.length) {
      const evidence = `Text ${i} of ${stated.source} is not scored.`;
      return { ...base, n, outcome: n === 0 ? 'not testable here' : 'inconclusive', evidence };
    }
    score.logprobs.forEach((value, at) => {
      n += 1;
      const apart = Math.abs(value - nextLogprobs[at]!);
      // Something that is no number is the worst, and stays it.
      if (apart >= largest || Number.isNaN(apart)) {
        [largest, worst] = [apart, `text ${i}, token ${at + 1}: ${value}, stated ${nextLogprobs[at]}`];
      }
    });
  }
  const said = `${n} tokens of ${stated.texts.length} texts (${stated.source}); largest difference ${largest.toExponential(1)}, tolerance ${TOLERANCE}`;
  if (!(largest <= TOLERANCE)) return { ...base, n, outcome: 'refuted', evidence: `${said}; ${worst}.` };
  return {
    ...base,
    n,
    outcome: 'consistent',
    evidence: `${said}.`,
    wouldHaveCaught: `a network that scores any of these tokens otherwise by more than ${TOLERANCE} nats`,
  };
}
