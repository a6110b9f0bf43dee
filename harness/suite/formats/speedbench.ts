/**
 * SPEED-Bench (nvidia/SPEED-Bench, arXiv:2604.09557). It is published as Parquet in which part of the rows hold a
 * placeholder for text that its preparation script fetches from the original sources; the script writes one
 * `<config>.jsonl` with `messages` in place of `turns`. Both spellings are read, Parquet is not, and a row that still
 * holds the placeholder is refused.
 */
import { z } from 'zod';
import { InputError } from '../../engine.ts';
import { parseRow } from '../jsonl.ts';
import { firstTurnNote } from './fastchat.ts';
import { type Format, haveKeys, tag } from './format.ts';

const PLACEHOLDER = 'FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE';

const Question = z
  .object({
    question_id: z.string().min(1),
    category: z.string().min(1),
    sub_category: z.string().nullish(),
    difficulty: z.string().nullish(),
    turns: z.array(z.string().min(1)).min(1).optional(),
    messages: z
      .array(z.object({ role: z.literal('user'), content: z.string().min(1) }))
      .min(1)
      .optional(),
  })
  .refine((row) => (row.turns === undefined) !== (row.messages === undefined), 'needs either turns or messages');

export const speedbench: Format = {
  name: 'speed-bench',
  matches: (rows) =>
    haveKeys(rows, ['question_id', 'category', 'src_id']) &&
    (haveKeys(rows, ['turns']) || haveKeys(rows, ['messages'])),
  read: (rows, path) => {
    let several = 0;
    const prompts = rows.map((row) => {
      const { question_id, category, sub_category, difficulty, turns, messages } = parseRow(Question, row, path);
      const texts = turns ?? messages!.map((message) => message.content);
      if (texts.some((text) => text.includes(PLACEHOLDER))) {
        throw new InputError(
          `${path}:${row.line}: still holds a placeholder; fill it in with SPEED-Bench's preparation script`,
        );
      }
      if (texts.length > 1) several += 1;
      const tags = [tag('category', category)];
      if (sub_category) tags.push(tag('sub_category', sub_category));
      if (difficulty) tags.push(tag('difficulty', difficulty));
      return { id: question_id, tags, messages: [{ role: 'user' as const, content: texts[0]! }] };
    });
    return { prompts, notes: firstTurnNote(several) };
  },
};
