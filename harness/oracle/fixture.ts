/**
 * A fixture: a target and a draft small enough that every outcome can be listed, as a data file. The target is a Markov
 * model of order m, the draft factorises like DFlash: the rows of all slots depend on the committed prefix only, never
 * on each other's tokens. Rows differ by context and by slot, so a row taken from the wrong place changes the law.
 *
 * A context is the last m tokens read as a number in base V, the oldest the most significant digit.
 */
import { z } from 'zod';
import { InputError } from '../engine.ts';
import { jsonOf } from '../input.ts';
import { hasPenalties } from './rows.ts';

export const FIXTURE_FORMAT = 'kilotoken/fixture@1';

/** How far a row of probabilities may be from adding up to 1. Rows are renormalised after the check. */
export const ROW_TOLERANCE = 1e-9;

/** Sequences of the run, V^tokens: each is a cell of the law. */
const MOST_SEQUENCES = 2 ** 17;

/** Paths through rounds: (states a round can start from) * V^block. */
const MOST_PATHS = 2 ** 20;

const Token = z.int().min(0);
/** Beyond these a sum of logit, bias and penalties could leave binary64. */
const LARGEST_LOGIT = 1e6;
const LARGEST_PENALTY = 1e3;

const Value = z.number().min(-LARGEST_LOGIT).max(LARGEST_LOGIT);
const Penalty = z.number().min(-LARGEST_PENALTY).max(LARGEST_PENALTY);

const DecodingFields = z.strictObject({
  temperature: z.number().min(0).describe('0 is greedy'),
  topK: z.int().min(0).describe('0 keeps all; ties keep the lowest ids'),
  topP: z.number().gt(0).max(1).describe('1 keeps all; the shortest prefix that reaches it, ties by id'),
  repetitionPenalty: z
    .number()
    .min(1 / LARGEST_PENALTY)
    .max(LARGEST_PENALTY)
    .describe('over prompt and output; 1 changes nothing'),
  presencePenalty: Penalty.describe('over the output; 0 changes nothing'),
  frequencyPenalty: Penalty.describe('over the output, per occurrence; 0 changes nothing'),
  logitBias: z.array(z.strictObject({ token: Token, bias: Value })).describe('added to the target logits'),
  stopIds: z.array(Token).describe('emission ends with the first of these, itself emitted'),
  maxTokens: z.union([z.int().min(1), z.null()]).describe('null: as many as the run is long'),
});

export const FixtureFields = z.strictObject({
  format: z.literal(FIXTURE_FORMAT),
  name: z.string().min(1),
  note: z.string(),
  vocab: z.int().min(2).max(64),
  order: z.int().min(1).max(8),
  prompt: z.array(Token).min(1).describe('at least `order` ids'),
  rows: z.enum(['probabilities', 'logits']).describe('what the numbers of target and draft are'),
  target: z.array(z.array(Value)).describe('[vocab^order][vocab]: the row after each context'),
  draft: z
    .array(z.array(z.array(Value)))
    .describe('[vocab^order][block - 1][vocab]: by context of the committed prefix, anchor included, and slot'),
  block: z.int().min(1).max(16).describe('the anchor and its drafts; 1 is no speculation'),
  tokens: z.int().min(1).max(16).describe('how many emitted tokens the law is over'),
  decoding: DecodingFields,
});

export type Fixture = z.infer<typeof FixtureFields>;
export type FixtureDecoding = Fixture['decoding'];

/** JSON Schema (draft 2020-12) of the file, newline included. */
export function fixtureSchemaText(): string {
  const { $schema, ...rest } = z.toJSONSchema(FixtureFields, { target: 'draft-2020-12' });
  const title = 'A fixture of exact enumeration (kilotoken/fixture@1)';
  return `${JSON.stringify({ $schema, $id: 'schemas/fixture.schema.json', title, ...rest }, null, 2)}\n`;
}

/** Reads and checks a fixture file. Throws InputError with one line that names the place. */
export function readFixture(file: string): Fixture {
  return checkFixture(jsonOf(file), `fixture ${file}`);
}

/** A value from outside into a fixture whose rows can be used. `label` opens the line of every error. */
export function checkFixture(value: unknown, label = 'fixture'): Fixture {
  const parsed = FixtureFields.safeParse(value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    const more = parsed.error.issues.length - 1;
    const rest = more > 0 ? ` (and ${more} more)` : '';
    throw new InputError(`${label}: ${placeOf(issue.path)}${issue.message}${rest}`);
  }
  const fixture = parsed.data;
  const fail = (line: string): never => {
    throw new InputError(`${label}: ${line}`);
  };
  checkSize(fixture, fail);
  checkTokens(fixture, fail);
  checkTables(fixture, fail);
  return fixture;
}

type Fail = (line: string) => never;

function placeOf(path: readonly PropertyKey[]): string {
  if (path.length === 0) return '';
  const text = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
  return `${text.replace(/^\./, '')}: `;
}

/** Tokens an enumerated session can emit at most. */
export function runLength({ tokens, decoding }: Fixture): number {
  return Math.min(tokens, decoding.maxTokens ?? tokens);
}

function checkSize(fixture: Fixture, fail: Fail): void {
  const { vocab, order, block, tokens } = fixture;
  const sequences = vocab ** tokens;
  if (sequences > MOST_SEQUENCES) {
    fail(`too large to enumerate: vocab^tokens is ${sequences}, the bound is ${MOST_SEQUENCES} sequences`);
  }
  // With penalties a round depends on everything emitted before it, without on its context alone.
  const starts = hasPenalties(fixture.decoding) ? vocab ** Math.max(tokens - 1, order) : vocab ** order;
  const paths = starts * vocab ** block;
  if (paths > MOST_PATHS) {
    fail(`too large to enumerate: ${starts} states * vocab^block is ${paths}, the bound is ${MOST_PATHS} paths`);
  }
}

function checkTokens({ vocab, order, prompt, decoding }: Fixture, fail: Fail): void {
  if (prompt.length < order) fail(`prompt: ${prompt.length} ids, and the order needs at least ${order}`);
  const within = (name: string, id: number): void => {
    if (id >= vocab) fail(`${name}: ${id} is not below vocab ${vocab}`);
  };
  for (const [i, id] of prompt.entries()) within(`prompt[${i}]`, id);
  for (const [i, id] of decoding.stopIds.entries()) within(`decoding.stopIds[${i}]`, id);
  for (const [i, { token }] of decoding.logitBias.entries()) within(`decoding.logitBias[${i}].token`, token);
  if (decoding.topK > vocab) fail(`decoding.topK: ${decoding.topK} is above vocab ${vocab}`);
}

function checkTables(fixture: Fixture, fail: Fail): void {
  const { vocab, order, block, target, draft } = fixture;
  const contexts = vocab ** order;
  const counted = (name: string, found: number, wanted: number, of: string): void => {
    if (found !== wanted) fail(`${name}: ${found} entries, ${of} needs ${wanted}`);
  };
  counted('target', target.length, contexts, 'vocab^order');
  counted('draft', draft.length, contexts, 'vocab^order');
  for (const [c, row] of target.entries()) checkRow(`target[${c}]`, row, fixture, fail);
  for (const [c, slots] of draft.entries()) {
    counted(`draft[${c}]`, slots.length, block - 1, 'block - 1');
    for (const [s, row] of slots.entries()) {
      counted(`draft[${c}][${s}]`, row.length, vocab, 'vocab');
      checkRow(`draft[${c}][${s}]`, row, fixture, fail);
    }
  }
}

function checkRow(name: string, row: readonly number[], fixture: Fixture, fail: Fail): void {
  if (row.length !== fixture.vocab) fail(`${name}: ${row.length} entries, vocab needs ${fixture.vocab}`);
  if (fixture.rows === 'logits') return;
  for (const [id, value] of row.entries()) if (value < 0) fail(`${name}[${id}]: ${value} is negative`);
  const sum = row.reduce((total, value) => total + value, 0);
  if (Math.abs(sum - 1) > ROW_TOLERANCE) fail(`${name}: adds up to ${sum}, not 1 (tolerance ${ROW_TOLERANCE})`);
}

/** Logits of a stored row: ln p, -Infinity for probability 0. What penalties act on, so the offset matters: ln p is it. */
export function logitsOf(fixture: Fixture, row: readonly number[]): readonly number[] {
  return fixture.rows === 'logits' ? row : row.map((value) => Math.log(value));
}
