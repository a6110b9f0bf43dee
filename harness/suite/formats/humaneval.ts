/** HumanEval (Chen et al. 2021, arXiv:2107.03374): `HumanEval.jsonl`, a Python signature and docstring a row. */
import { z } from 'zod';
import { parseRow } from '../jsonl.ts';
import { type Format, haveKeys } from './format.ts';

const Question = z.object({ task_id: z.string().min(1), prompt: z.string().min(1), entry_point: z.string().min(1) });

export const humaneval: Format = {
  name: 'humaneval',
  matches: (rows) => haveKeys(rows, ['task_id', 'prompt', 'entry_point']),
  read: (rows, path) => ({
    prompts: rows.map((row) => {
      const { task_id, prompt } = parseRow(Question, row, path);
      const content = `Complete the following Python function.\n\`\`\`python\n${prompt.trim()}\n\`\`\``;
      return { id: task_id, tags: ['python', 'lang:en'], messages: [{ role: 'user' as const, content }] };
    }),
    notes: [
      'Each stub is sent as a user message: "Complete the following Python function." and the stub in a code fence.',
    ],
  }),
};
