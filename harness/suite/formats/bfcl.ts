/**
 * BFCL, the Berkeley Function-Calling Leaderboard (Patil et al. 2025; gorilla repository, `BFCL_v4_*.json`, which are
 * JSON Lines in spite of the name). Rows either carry their functions or, in the multi-turn files, name classes whose
 * functions lie in `multi_turn_func_doc/` beside the file.
 */
import { access } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { InputError } from '../../engine.ts';
import { parseRow, type Row, readJsonLines } from '../jsonl.ts';
import type { Tool } from '../prompt.ts';
import { firstTurnNote } from './fastchat.ts';
import { type Format, haveKeys } from './format.ts';

const FunctionDoc = z.object({
  name: z.string().min(1),
  description: z.string().default(''),
  parameters: z.record(z.string(), z.json()),
});

const Turn = z.array(z.object({ role: z.enum(['system', 'user', 'assistant']), content: z.string().min(1) }));

const Question = z.object({
  id: z.string().min(1),
  question: z.array(Turn).min(1),
  function: z.array(FunctionDoc).optional(),
  involved_classes: z.array(z.string()).optional(),
  excluded_function: z.array(z.string()).optional(),
  /** Turn (as text) to the functions that are offered only from that turn on. */
  missed_function: z.record(z.string(), z.array(z.string())).optional(),
});

/** Class to file name, where the file is not the class in snake case. */
const DOC_FILES: Readonly<Record<string, string>> = {
  GorillaFileSystem: 'gorilla_file_system',
  MathAPI: 'math_api',
  MemoryAPI_kv: 'memory_kv',
  MemoryAPI_rec_sum: 'memory_rec_sum',
  MemoryAPI_vector: 'memory_vector',
  MessageAPI: 'message_api',
  TicketAPI: 'ticket_api',
  TradingBot: 'trading_bot',
  TravelAPI: 'travel_booking',
  TwitterAPI: 'posting_api',
  VehicleControlAPI: 'vehicle_control',
  WebSearchAPI: 'web_search',
};

/** BFCL's type names (of Python, Java and JavaScript) to JSON Schema's; what has no counterpart loses its type. */
const SCHEMA_TYPES: Readonly<Record<string, string>> = {
  dict: 'object',
  object: 'object',
  hashmap: 'object',
  hashtable: 'object',
  array: 'array',
  tuple: 'array',
  list: 'array',
  arraylist: 'array',
  set: 'array',
  queue: 'array',
  stack: 'array',
  string: 'string',
  char: 'string',
  integer: 'integer',
  long: 'integer',
  short: 'integer',
  byte: 'integer',
  bigint: 'integer',
  float: 'number',
  double: 'number',
  number: 'number',
  boolean: 'boolean',
  null: 'null',
};

export const bfcl: Format = {
  name: 'bfcl',
  matches: (rows) =>
    haveKeys(rows, ['id', 'question']) &&
    rows.every(({ value }) => Array.isArray((value as { question: unknown }).question)),
  async read(rows, path) {
    const docs = new Map<string, z.infer<typeof FunctionDoc>[]>();
    const questions = rows.map((row) => parseRow(Question, row, path));
    const prompts = [];
    for (const [i, question] of questions.entries()) {
      const row = rows[i]!;
      const messages = question.question[0]!;
      if (messages.length === 0) throw new InputError(`${path}:${row.line}: the first turn holds no message`);
      const held = new Set([
        ...(question.excluded_function ?? []),
        ...Object.values(question.missed_function ?? {}).flat(),
      ]);
      const functions = question.function ?? (await classFunctions(question.involved_classes ?? [], row, path, docs));
      const tools = functions.filter((doc) => !held.has(doc.name)).map(toTool);
      prompts.push({ id: question.id, tags: [], messages, ...(tools.length === 0 ? {} : { tools }) });
    }
    const several = questions.filter((question) => question.question.length > 1).length;
    return {
      prompts,
      notes: [
        'Function names keep letters, digits, _ and -; any other character becomes _. Type names become those of JSON Schema.',
        ...firstTurnNote(several),
      ],
    };
  },
};

async function classFunctions(
  classes: readonly string[],
  row: Row,
  path: string,
  docs: Map<string, z.infer<typeof FunctionDoc>[]>,
) {
  const functions = [];
  for (const name of classes) {
    let known = docs.get(name);
    if (known === undefined) {
      const file = join(dirname(path), 'multi_turn_func_doc', `${DOC_FILES[name] ?? name}.json`);
      try {
        await access(file);
      } catch {
        throw new InputError(`${path}:${row.line}: names the class ${name}, whose functions should lie in ${file}`);
      }
      known = (await readJsonLines(file)).map((doc) => parseRow(FunctionDoc, doc, file));
      docs.set(name, known);
    }
    functions.push(...known);
  }
  return functions;
}

function toTool(doc: z.infer<typeof FunctionDoc>): Tool {
  return {
    type: 'function',
    function: {
      name: doc.name.replace(/[^a-zA-Z0-9_-]/g, '_').slice(0, 64),
      description: doc.description,
      parameters: { ...(toSchema(doc.parameters) as Record<string, z.core.util.JSONType>), type: 'object' },
    },
  };
}

/** A copy of BFCL's parameter description as JSON Schema. `properties` maps names to schemas, so a parameter may be called `type`. */
function toSchema(node: unknown): unknown {
  if (typeof node !== 'object' || node === null || Array.isArray(node)) return node;
  const schema: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(node)) {
    if (key === 'type' && typeof value === 'string') {
      const type = SCHEMA_TYPES[value.toLowerCase()];
      if (type !== undefined) schema[key] = type;
    } else if (key === 'properties' && typeof value === 'object' && value !== null) {
      schema[key] = Object.fromEntries(Object.entries(value).map(([name, child]) => [name, toSchema(child)]));
    } else if (key === 'items' || key === 'additionalProperties') {
      schema[key] = toSchema(value);
    } else {
      schema[key] = value;
    }
  }
  return schema;
}
