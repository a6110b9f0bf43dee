/** The token files of `score` and `draft`: `{"cases":[{"ids":[...]},...]}`, checked to the last id before a model sees them. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { InputError } from '../../harness/engine.ts';
import { unreadable } from '../../harness/input.ts';

const Cases = z.object({ cases: z.array(z.object({ ids: z.array(z.int()) })).min(1) });

export interface CaseLimits {
  readonly vocab: number;
  readonly maxContext: number;
  readonly leastIds: number;
}

/** `path` may be `-` for stdin. Throws InputError naming the case. */
export function readCases(path: string, limits: CaseLimits): number[][] {
  const name = path === '-' ? 'stdin' : path;
  let text: string;
  try {
    text = readFileSync(path === '-' ? 0 : path, 'utf8');
  } catch (error) {
    throw new InputError(`${name}: ${unreadable(error)}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new InputError(`${name} is not JSON: ${(error as Error).message}`);
  }
  const result = Cases.safeParse(value);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    const where = issue.path.length === 0 ? '' : ` ${issue.path.join('.')}:`;
    throw new InputError(`${name}:${where} ${issue.message}; expected {"cases":[{"ids":[...]},...]}`);
  }
  const cases = result.data.cases.map((entry) => entry.ids);
  cases.forEach((ids, i) => {
    const bad = ids.findIndex((id) => id < 0 || id >= limits.vocab);
    if (ids.length < limits.leastIds) {
      const needed = `${limits.leastIds} token${limits.leastIds === 1 ? '' : 's'}`;
      throw new InputError(`${name}: case ${i} has ${ids.length} tokens; at least ${needed} needed`);
    }
    if (bad >= 0) {
      throw new InputError(`${name}: case ${i}: token ${ids[bad]} at ${bad} is outside 0 .. ${limits.vocab - 1}`);
    }
    if (ids.length > limits.maxContext) {
      throw new InputError(`${name}: case ${i} has ${ids.length} tokens, the context is ${limits.maxContext}`);
    }
  });
  return cases;
}

/** The wanted number of candidates, refused when the vocabulary has fewer. */
export function checkTopK(topK: number, vocab: number): number {
  if (topK > vocab) throw new InputError(`--top-k ${topK} exceeds the vocabulary of ${vocab}`);
  return topK;
}
