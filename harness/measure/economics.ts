/** What a speed buys: time for a task of N tokens, how many tries fit where one did before, and what it costs by a user's own prices. */

/** Time to the first token and from token to token, seconds. */
export interface Pace {
  readonly first: number;
  readonly perToken: number;
}

/** Seconds for a task of `tokens` >= 1: the first, then all others at the pace of decoding. */
export function taskSeconds(pace: Pace, tokens: number): number {
  return pace.first + (tokens - 1) * pace.perToken;
}

/** Tokens within `seconds`, by the same formula turned around; 0 when not even the first arrives. */
export function tokensWithin(pace: Pace, seconds: number): number {
  return seconds < pace.first ? 0 : 1 + (seconds - pace.first) / pace.perToken;
}

/** How many tries of `tokens`, one after another, end within the time that one try of the baseline takes. */
export function triesWithin(baseline: Pace, pace: Pace, tokens: number): number {
  return Math.floor(taskSeconds(baseline, tokens) / taskSeconds(pace, tokens) + 1e-12);
}

/** Price a token at a rate of tokens a second, of a machine that costs `perHour`; in millionths' units: per million tokens. */
export function pricePerMillion(perHour: number, tokensPerSecond: number): number {
  return (perHour / 3600 / tokensPerSecond) * 1e6;
}
