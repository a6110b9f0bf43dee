/**
 * The ledger of figures (`suites/figures.json`): which words of which document quote a figure of the record, and how each follows from a
 * judged report. It holds no figure itself: what is said is read in the document, what is so is computed from the raw rows.
 */
import { z } from 'zod';
import { InputError } from '../engine.ts';
import { jsonOf } from '../input.ts';
import { firstIssue } from '../suite/jsonl.ts';
import { SLOT } from './prose.ts';

/** Where ledger and record lie in a checkout. */
export const FIGURES_LEDGER = 'suites/figures.json';
export const RECORD = 'results';

/**
 * How a figure follows from the record. A text is a path into a judged report: the run (a name of `runs`, or its path within results/),
 * then steps behind ` > `. A step is a member's name; in a list, the id, name or op of an entry; `member=value`, which keeps what has it;
 * or `*`, all. A path may lead to several values only where a list of them is asked for (sum, least, most, same, count).
 */
export type Expression =
  | number
  | string
  | { readonly sum: readonly Expression[] }
  | { readonly least: readonly Expression[] }
  | { readonly most: readonly Expression[] }
  | { readonly same: readonly Expression[] }
  | { readonly count: readonly Expression[] }
  | { readonly product: readonly Expression[] }
  | { readonly ratio: readonly [Expression, Expression] }
  | { readonly difference: readonly [Expression, Expression] }
  | { readonly percent: Expression }
  | { readonly nearest: readonly [Expression, number] }
  | { readonly log: string; readonly line: string };

const Pattern = z.string().refine((text) => {
  try {
    return new RegExp(text, 'u') instanceof RegExp;
  } catch {
    return false;
  }
}, 'is no regular expression');

const Expression: z.ZodType<Expression> = z.lazy(() =>
  z.union([
    z.number(),
    z.string().min(1),
    z.strictObject({ sum: z.array(Expression).min(1) }),
    z.strictObject({ least: z.array(Expression).min(1) }),
    z.strictObject({ most: z.array(Expression).min(1) }),
    z.strictObject({ same: z.array(Expression).min(1) }).describe('a value that all have'),
    z.strictObject({ count: z.array(Expression).min(1) }),
    z.strictObject({ product: z.array(Expression).min(2) }),
    z.strictObject({ ratio: z.tuple([Expression, Expression]) }),
    z.strictObject({ difference: z.tuple([Expression, Expression]) }),
    z.strictObject({ percent: Expression }).describe('a share as percent'),
    z.strictObject({ nearest: z.tuple([Expression, z.number().positive()]) }).describe('rounded to a multiple'),
    z
      .strictObject({ log: z.string().min(1), line: Pattern })
      .describe('of each line of a log of results/ that fits: the number in its group, or 1 where it has none'),
  ]),
);

const Words = z.string().min(1);

const Quote = z
  .strictObject({
    quote: Words.describe('the exact words of the document, with {} for each figure; line breaks are spaces'),
    from: z.array(Expression).optional().describe('how the figures follow, one for each {} in order'),
    consistent: z.array(z.string().min(1)).min(1).optional().describe('paths to verdicts that the words rest on'),
    below: z.tuple([Expression, Expression]).optional().describe('what the words say to be less than what'),
  })
  .refine(
    ({ quote, from = [] }) => quote.split(SLOT).length - 1 === from.length,
    'needs an expression for each {} of its quote',
  )
  .refine(
    ({ from = [], consistent, below }) => from.length > 0 || (consistent ?? below) !== undefined,
    'says of nothing what it rests on',
  );

const Range = z.strictObject({
  from: Words.describe('the words with which it begins'),
  to: Words.optional().describe('the words before which it ends; without, the end of the document'),
});

const Part = z.strictObject({
  document: z.string().min(1).describe('path within the checkout'),
  within: Range.optional().describe('where its quotes stand; without, in the whole document'),
  runs: z.record(z.string().regex(/^[a-z][a-z0-9-]*$/), z.string().min(1)).describe('names for runs of results/'),
  complete: z.array(Range).describe('where every number must be a figure of this ledger or be named as no measurement'),
  figures: z.array(Quote),
  noMeasurement: z
    .array(z.strictObject({ words: Words.regex(/\p{L}/u, 'must tell the number from others'), why: Words }))
    .describe('numbers that nothing measured, each among words that tell it from others'),
});

export const FigureLedger = z.strictObject({ $schema: z.string().optional(), parts: z.array(Part).min(1) });

export type Range = z.infer<typeof Range>;
export type Quote = z.infer<typeof Quote>;
export type Part = z.infer<typeof Part>;
export type FigureLedger = z.infer<typeof FigureLedger>;

/** Throws InputError naming the file and the first field that does not fit. */
export function readLedger(path: string): FigureLedger {
  const result = FigureLedger.safeParse(jsonOf(path));
  if (!result.success) throw new InputError(`${path}: ${firstIssue(result.error)}`);
  return result.data;
}

/** JSON Schema (draft 2020-12) of the ledger, newline included. */
export function figuresSchemaText(): string {
  const { $schema, ...rest } = z.toJSONSchema(FigureLedger, { target: 'draft-2020-12' });
  const title = 'The ledger of figures: what the documents quote, and how it follows from the record';
  return `${JSON.stringify({ $schema, $id: 'schemas/figures.schema.json', title, ...rest }, null, 2)}\n`;
}
