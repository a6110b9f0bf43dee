/**
 * Tokens inside a verbatim loop. A model that repeats itself is easy to draft for, so a high share beside an acceptance
 * length says that the length is not worth much.
 */

const LONGEST_PERIOD = 64;
const LEAST_COPIES = 3;
const LEAST_TOKENS = 12;

/**
 * How many tokens lie in a stretch that repeats with some period p <= 64 at least three times over and is at least
 * twelve tokens long.
 */
export function repeatedTokens(tokens: readonly number[]): number {
  const inLoop = new Uint8Array(tokens.length);
  const longest = Math.min(LONGEST_PERIOD, Math.floor(tokens.length / LEAST_COPIES));
  for (let period = 1; period <= longest; period++) {
    let start = period;
    for (let i = period; i <= tokens.length; i++) {
      if (i < tokens.length && tokens[i] === tokens[i - period]) continue;
      const first = start - period;
      if (i - first >= Math.max(LEAST_COPIES * period, LEAST_TOKENS)) inLoop.fill(1, first, i);
      start = i + 1;
    }
  }
  return inLoop.reduce((sum, flag) => sum + flag, 0);
}
