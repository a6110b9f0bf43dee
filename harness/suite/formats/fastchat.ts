/**
 * FastChat's question file, which two benchmarks share: MT-Bench (Zheng et al. 2023, arXiv:2306.05685) and Spec-Bench
 * (Xia et al. 2024, arXiv:2401.07851), which holds MT-Bench's questions and five categories more.
 */
import { z } from 'zod';
import { parseRow, type Row } from '../jsonl.ts';
import { type Format, type FormatOutput, haveKeys, tag } from './format.ts';

const Question = z.object({
  question_id: z.union([z.int(), z.string().min(1)]),
  category: z.string().min(1),
  turns: z.array(z.string().min(1)).min(1),
});

const ONLY_IN_SPEC_BENCH = ['translation', 'summarization', 'qa', 'math_reasoning', 'rag'];

function read(name: string, rows: readonly Row[], path: string): FormatOutput {
  const questions = rows.map((row) => parseRow(Question, row, path));
  const several = questions.filter((question) => question.turns.length > 1).length;
  return {
    prompts: questions.map(({ question_id, category, turns }) => ({
      id: `${name}-${question_id}`,
      tags: [tag('category', category)],
      messages: [{ role: 'user' as const, content: turns[0]! }],
    })),
    notes: firstTurnNote(several),
  };
}

/** Later turns answer a reply that differs from model to model, so one prompt cannot hold them. */
export function firstTurnNote(rowsWithMore: number): string[] {
  return rowsWithMore === 0 ? [] : [`Only the first turn is asked; ${rowsWithMore} of the rows have more.`];
}

const isFastChat = (rows: readonly Row[]) => haveKeys(rows, ['question_id', 'category', 'turns']);
const isSpecBench = (rows: readonly Row[]) =>
  rows.some((row) => ONLY_IN_SPEC_BENCH.includes((row.value as { category?: unknown }).category as string));

export const mtbench: Format = {
  name: 'mt-bench',
  matches: (rows) => isFastChat(rows) && !isSpecBench(rows),
  read: (rows, path) => read('mt-bench', rows, path),
};

export const specbench: Format = {
  name: 'spec-bench',
  matches: (rows) => isFastChat(rows) && isSpecBench(rows),
  read: (rows, path) => read('spec-bench', rows, path),
};
