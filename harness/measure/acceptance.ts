/**
 * Acceptance length: tokens a verify step yields. The bonus (or correction) token counts, so the range is 1 .. block.
 *   raw   accepted + 1, whatever was cut afterwards: the drafter's view
 *   kept  tokens committed after the cut at a stop or at the token limit: the user's view
 *   micro pooled over rounds; macro mean of per-prompt means
 * The prefill round is no verify step and is left out.
 */
import type { RoundRow } from '../bundle/rows.ts';

export interface PromptRounds {
  readonly prompt: string;
  readonly rounds: readonly RoundRow[];
}

export interface AcceptanceSums {
  readonly prompts: number;
  readonly rounds: number;
  /** Per prompt with at least one decode round, in the order given. */
  readonly perPrompt: readonly {
    readonly prompt: string;
    readonly rounds: number;
    readonly raw: number;
    readonly kept: number;
  }[];
  /** histogram[a] = rounds with a accepted drafts, a = 0 .. block - 1. */
  readonly histogram: readonly number[];
  /** survival[i] = share of rounds that accepted more than i drafts, i = 0 .. block - 2. */
  readonly survival: readonly number[];
}

export function acceptanceSums(prompts: readonly PromptRounds[], blockSize: number): AcceptanceSums {
  const perPrompt: { prompt: string; rounds: number; raw: number; kept: number }[] = [];
  const histogram = new Array<number>(blockSize).fill(0);
  const survivors = new Array<number>(blockSize - 1).fill(0);
  let total = 0;
  for (const { prompt, rounds } of prompts) {
    const sums = { prompt, rounds: 0, raw: 0, kept: 0 };
    for (const round of rounds) {
      if (round.kind !== 'decode') continue;
      sums.rounds += 1;
      sums.raw += round.accepted + 1;
      sums.kept += round.committed.length;
      histogram[round.accepted] = (histogram[round.accepted] ?? 0) + 1;
      for (let i = 0; i < Math.min(round.accepted, blockSize - 1); i++) survivors[i]! += 1;
    }
    total += sums.rounds;
    if (sums.rounds > 0) perPrompt.push(sums);
  }
  return {
    prompts: perPrompt.length,
    rounds: total,
    perPrompt,
    histogram,
    survival: survivors.map((n) => (total === 0 ? 0 : n / total)),
  };
}

/**
 * The identities of an acceptance row, counted two ways: rounds through the histogram, the mean through the survivals.
 * Returns what does not hold, in words; empty when all do.
 */
export function acceptanceIdentities(sums: AcceptanceSums, blockSize: number): string[] {
  const broken: string[] = [];
  const counted = sums.histogram.reduce((a, b) => a + b, 0);
  if (counted !== sums.rounds) broken.push(`the histogram counts ${counted} rounds of ${sums.rounds}`);
  if (sums.histogram.length > blockSize)
    broken.push(`a round accepted ${sums.histogram.length - 1} drafts in a block of ${blockSize}`);
  if (sums.rounds === 0) return broken;
  const raw = sums.perPrompt.reduce((a, p) => a + p.raw, 0) / sums.rounds;
  const kept = sums.perPrompt.reduce((a, p) => a + p.kept, 0) / sums.rounds;
  const bySurvival = 1 + sums.survival.reduce((a, b) => a + b, 0);
  if (Math.abs(bySurvival - raw) > 1e-9)
    broken.push(`1 + sum of survivals is ${bySurvival}, the acceptance length ${raw}`);
  if (raw > blockSize || raw < 1) broken.push(`acceptance length ${raw} is outside 1 .. ${blockSize}`);
  if (kept > raw + 1e-9) broken.push(`kept acceptance length ${kept} exceeds the raw one, ${raw}`);
  if (sums.survival.some((s, i) => i > 0 && s > sums.survival[i - 1]!)) broken.push('survival rises with the position');
  return broken;
}
