/** Token equality of two sessions that must emit the same: the first difference, named so that a person can look it up. */
import type { SessionTrace } from '../bundle/reader.ts';

export interface Difference {
  readonly prompt: string;
  /** Index among the generated tokens, from 0. */
  readonly position: number;
  /** null where that side had already ended. */
  readonly plain: number | null;
  readonly speculative: number | null;
  /** Up to eight generated tokens before the difference, the same on both sides. */
  readonly context: readonly number[];
}

export interface EqualityResult {
  readonly prompts: number;
  /** Tokens compared and found equal. */
  readonly equalTokens: number;
  readonly differences: readonly Difference[];
  /** Prompts that could not be compared, because a side is missing or failed. */
  readonly uncompared: readonly string[];
}

export function generatedTokens(trace: SessionTrace): number[] {
  return trace.rounds.flatMap((round) => round.committed);
}

/** First index at which two outputs differ, or null. An output that ends early differs at its end. */
export function firstDifference(plain: readonly number[], speculative: readonly number[]): number | null {
  const length = Math.max(plain.length, speculative.length);
  for (let i = 0; i < length; i++) if (plain[i] !== speculative[i]) return i;
  return null;
}

/** `pairs`: one entry a prompt; a null side was never run to its end. */
export function compareOutputs(
  pairs: readonly {
    readonly prompt: string;
    readonly plain: SessionTrace | null;
    readonly speculative: SessionTrace | null;
  }[],
): EqualityResult {
  const differences: Difference[] = [];
  const uncompared: string[] = [];
  let equalTokens = 0;
  for (const { prompt, plain, speculative } of pairs) {
    const failed = [plain, speculative].some((side) => side === null || side.fault !== null);
    const a = plain === null ? [] : generatedTokens(plain);
    const b = speculative === null ? [] : generatedTokens(speculative);
    // A session that failed half-way still refutes when what it emitted already differs.
    const comparable = failed ? Math.min(a.length, b.length) : Math.max(a.length, b.length);
    const at = firstDifference(a.slice(0, comparable), b.slice(0, comparable));
    if (at === null) {
      equalTokens += comparable;
      if (failed) uncompared.push(prompt);
    } else {
      equalTokens += at;
      differences.push({
        prompt,
        position: at,
        plain: a[at] ?? null,
        speculative: b[at] ?? null,
        context: a.slice(Math.max(0, at - 8), at),
      });
    }
  }
  return { prompts: pairs.length, equalTokens, differences, uncompared };
}

export function describeDifference(difference: Difference): string {
  const name = (id: number | null): string => (id === null ? 'the end' : `token ${id}`);
  const context = difference.context.length === 0 ? 'at the start' : `after ${difference.context.join(' ')}`;
  return (
    `prompt ${difference.prompt}, position ${difference.position}: ` +
    `plain gives ${name(difference.plain)}, speculation ${name(difference.speculative)}, ${context}`
  );
}
