/**
 * Decode speed of one scenario from timed sessions. Prefill lies outside: its round is neither counted nor timed. The
 * clock is the harness's own, read around each step.
 */
import type { SessionTrace } from '../bundle/reader.ts';

/** Sums of one prompt over its repeats, one arm. */
export interface PromptSpeed {
  readonly prompt: string;
  /** Tokens kept by decode rounds. */
  readonly tokens: number;
  readonly rounds: number;
  readonly decodeSeconds: number;
  readonly promptTokens: number;
  readonly prefillSeconds: number;
}

export function promptSpeeds(traces: readonly SessionTrace[]): PromptSpeed[] {
  const byPrompt = new Map<string, { -readonly [K in keyof PromptSpeed]: PromptSpeed[K] }>();
  for (const { row, rounds, fault } of traces) {
    if (fault !== null) continue;
    let sums = byPrompt.get(row.prompt);
    if (sums === undefined) {
      sums = { prompt: row.prompt, tokens: 0, rounds: 0, decodeSeconds: 0, promptTokens: 0, prefillSeconds: 0 };
      byPrompt.set(row.prompt, sums);
    }
    for (const round of rounds) {
      if (round.kind === 'prefill') {
        sums.promptTokens += row.promptTokens;
        sums.prefillSeconds += round.wallNs / 1e9;
      } else {
        sums.tokens += round.committed.length;
        sums.rounds += 1;
        sums.decodeSeconds += round.wallNs / 1e9;
      }
    }
  }
  return [...byPrompt.values()].filter((sums) => sums.rounds > 0);
}

/** The prompts both arms have, in one order, so that a bootstrap can resample pairs. */
export function pairByPrompt(
  plain: readonly PromptSpeed[],
  speculative: readonly PromptSpeed[],
): { readonly plain: PromptSpeed[]; readonly speculative: PromptSpeed[] } {
  const other = new Map(speculative.map((sums) => [sums.prompt, sums]));
  const both = plain.filter((sums) => other.has(sums.prompt));
  return { plain: both, speculative: both.map((sums) => other.get(sums.prompt)!) };
}

/** Ratio of pooled decode rates, speculation over plain, on a multiset of paired prompts. */
export function speedupOf(
  plain: readonly PromptSpeed[],
  speculative: readonly PromptSpeed[],
): (indices: ArrayLike<number>) => number {
  return (indices) => {
    let plainTokens = 0;
    let plainSeconds = 0;
    let tokens = 0;
    let seconds = 0;
    for (let i = 0; i < indices.length; i++) {
      const a = plain[indices[i]!]!;
      const b = speculative[indices[i]!]!;
      plainTokens += a.tokens;
      plainSeconds += a.decodeSeconds;
      tokens += b.tokens;
      seconds += b.decodeSeconds;
    }
    return tokens / seconds / (plainTokens / plainSeconds);
  };
}
