/**
 * What every reader of a public benchmark's file is: a name, a look at the rows to tell whether they are its own, and
 * the way from rows to prompts. Nothing is downloaded and nothing of a benchmark is stored in this repository.
 */
import type { Row } from '../jsonl.ts';
import type { Prompt } from '../prompt.ts';

export interface FormatOutput {
  readonly prompts: readonly Prompt[];
  /** What was added to or left out of the rows, one sentence each. */
  readonly notes: readonly string[];
}

export interface Format {
  readonly name: string;
  /** Whether the rows have this format's shape. Looks at keys only; `read` does the checking. */
  matches(rows: readonly Row[]): boolean;
  /** Throws InputError with `file:line`. */
  read(rows: readonly Row[], path: string): Promise<FormatOutput> | FormatOutput;
}

/** Whether every row is an object that has all of `keys`. */
export function haveKeys(rows: readonly Row[], keys: readonly string[]): boolean {
  return rows.every(({ value }) => typeof value === 'object' && value !== null && keys.every((key) => key in value));
}

/** A facet as a tag: lower case, without white space. */
export function tag(name: string, value: string | number): string {
  return `${name}:${String(value).trim().toLowerCase().replace(/\s+/g, '-')}`;
}

/** The sentence that is commonly put after a mathematics question, so that answers can be told from reasoning. */
export const BOXED = 'Please reason step by step, and put your final answer within \\boxed{}.';
