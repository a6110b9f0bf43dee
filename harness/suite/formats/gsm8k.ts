/** GSM8K (Cobbe et al. 2021, arXiv:2110.14168): `test.jsonl` or `train.jsonl`, question and worked answer a row. */
import { z } from 'zod';
import { parseRow } from '../jsonl.ts';
import { BOXED, type Format, haveKeys } from './format.ts';

const Question = z.object({ question: z.string().min(1), answer: z.string() });

export const gsm8k: Format = {
  name: 'gsm8k',
  matches: (rows) => haveKeys(rows, ['question', 'answer']),
  read: (rows, path) => ({
    prompts: rows.map((row) => ({
      // Rows have no id of their own; the line is what tells them apart.
      id: `gsm8k-${row.line}`,
      tags: ['word-problem', 'lang:en'],
      messages: [{ role: 'user' as const, content: `${parseRow(Question, row, path).question}\n${BOXED}` }],
    })),
    notes: [`Each question is followed by a line: "${BOXED}"`],
  }),
};
