/**
 * What a drafter without a model would have reached on the same output: prompt lookup. At each round the last n tokens
 * (n = 3, then 2, then 1) are looked up in prompt and output so far, and the tokens that followed the most recent
 * occurrence are the drafts. A trained draft that does not beat this has learnt nothing that matters.
 */

const LONGEST = 3;

export interface LookupSums {
  readonly rounds: number;
  /** Tokens kept, bonus counted. */
  readonly tokens: number;
}

/** Replays `output` (the first token belongs to the prefill) with blocks of `blockSize` tokens, anchor included. */
export function lookupAcceptance(prompt: readonly number[], output: readonly number[], blockSize: number): LookupSums {
  const text = [...prompt, ...output];
  let position = prompt.length + 1;
  let rounds = 0;
  while (position < text.length) {
    const source = lookup(text, position);
    let accepted = 0;
    if (source !== null) {
      // Draft tokens may themselves come from behind `position`: an overlapping copy, as in a loop.
      while (
        accepted < blockSize - 1 &&
        position + accepted < text.length &&
        copied(text, source, position, accepted) === text[position + accepted]
      ) {
        accepted += 1;
      }
    }
    position += Math.min(accepted + 1, text.length - position);
    rounds += 1;
  }
  return { rounds, tokens: Math.max(0, output.length - 1) };
}

/** Draft number i, copied from `source`; where the copy runs into the drafts themselves, it repeats its period. */
function copied(text: readonly number[], source: number, position: number, i: number): number {
  return text[source + (i % (position - source))]!;
}

/** Index of the token after the most recent earlier occurrence of the longest matching suffix, or null. */
function lookup(text: readonly number[], position: number): number | null {
  for (let n = Math.min(LONGEST, position - 1); n >= 1; n--) {
    for (let end = position - 1; end >= n; end--) {
      let same = true;
      for (let k = 1; k <= n && same; k++) same = text[end - k] === text[position - k];
      if (same) return end;
    }
  }
  return null;
}
