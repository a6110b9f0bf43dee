/**
 * Reads JSON Lines from a file that may be anything, and names the file and line of whatever is wrong with it.
 * A byte order mark and CRLF line ends are accepted; blank lines are skipped; everything else must be one JSON value a line.
 */
import { readFile } from 'node:fs/promises';
import type { z } from 'zod';
import { InputError } from '../engine.ts';
import { unreadable } from '../input.ts';

export interface Row {
  /** 1-based line in the file. */
  readonly line: number;
  readonly value: unknown;
}

/** Node's longest string is a little over 512 MiB; a prompt file near that size is a mistake. */
const MAX_BYTES = 256 * 2 ** 20;

/** Text of a UTF-8 file without its byte order mark. Throws InputError if there is none to read. */
export async function readText(path: string): Promise<string> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new InputError(`${path}: ${unreadable(error)}`);
  }
  if (bytes.length > MAX_BYTES) throw new InputError(`${path}: larger than ${MAX_BYTES / 2 ** 20} MiB`);
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) throw new InputError(`${path}: is gzip; unpack it first`);
  if (Buffer.from(bytes.subarray(0, 4)).toString('latin1') === 'PAR1') {
    throw new InputError(`${path}: is Parquet; export it as JSON Lines first`);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new InputError(`${path}: is not UTF-8 text`);
  }
}

/** The rows of a JSON Lines file, at least one. Throws InputError with `file:line`. */
export async function readJsonLines(path: string): Promise<Row[]> {
  const lines = (await readText(path)).split('\n');
  const rows: Row[] = [];
  lines.forEach((text, i) => {
    if (text.trim() === '') return;
    const line = i + 1;
    if (rows.length === 0 && text.trimStart().startsWith('[')) {
      throw new InputError(`${path}:${line}: begins a JSON array; one JSON object a line is expected`);
    }
    try {
      rows.push({ line, value: JSON.parse(text) });
    } catch {
      const cut = i >= lines.length - 2 && !text.trimEnd().endsWith('}') ? '; the file may be cut short' : '';
      throw new InputError(`${path}:${line}: is not a JSON object on one line${cut}`);
    }
  });
  if (rows.length === 0) throw new InputError(`${path}: holds no rows`);
  return rows;
}

/** `row` as `schema` has it. Throws InputError with `file:line` and the first field that does not fit. */
export function parseRow<T>(schema: z.ZodType<T>, row: Row, path: string): T {
  const result = schema.safeParse(row.value);
  if (result.success) return result.data;
  throw new InputError(`${path}:${row.line}: ${firstIssue(result.error)}`);
}

/** One line for the first thing wrong: `messages[2].content: is empty`. */
export function firstIssue(error: z.ZodError): string {
  const issue = error.issues[0];
  if (issue === undefined) return 'does not fit the schema';
  const field = issue.path.map((step) => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`)).join('');
  return field === '' ? issue.message : `${field.replace(/^\./, '')}: ${issue.message}`;
}
