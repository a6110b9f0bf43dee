/** MATH-500 (Lightman et al. 2023, arXiv:2305.20050; problems from MATH, arXiv:2103.03874): `test.jsonl`. */
import { z } from 'zod';
import { parseRow } from '../jsonl.ts';
import { BOXED, type Format, haveKeys, tag } from './format.ts';

const Question = z.object({
  problem: z.string().min(1),
  unique_id: z.string().min(1),
  subject: z.string().optional(),
  level: z.union([z.int(), z.string()]).optional(),
});

export const math500: Format = {
  name: 'math500',
  matches: (rows) => haveKeys(rows, ['problem', 'unique_id']),
  read: (rows, path) => ({
    prompts: rows.map((row) => {
      const { problem, unique_id, subject, level } = parseRow(Question, row, path);
      const tags = ['lang:en'];
      if (subject !== undefined) tags.push(tag('subject', subject));
      if (level !== undefined) tags.push(tag('level', level));
      return { id: unique_id, tags, messages: [{ role: 'user' as const, content: `${problem}\n${BOXED}` }] };
    }),
    notes: [`Each problem is followed by a line: "${BOXED}"`],
  }),
};
