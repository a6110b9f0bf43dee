/**
 * Reads a run directory back. A row file may be stored as it was written or gzipped (`rounds.jsonl.gz`); its digest is that of the
 * rows, so compressing a run does not change what it is. Every row is validated; every file is compared with the manifest's sha256 when the run
 * was finished. A run that was killed has a manifest that says `running`: then, and only then, a last line without its
 * newline is dropped.
 */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import type { z } from 'zod';
import { InputError } from '../engine.ts';
import { digestOf, tokensDigest } from './digests.ts';
import { FaultRow, Manifest, PromptRow, RoundRow, SessionRow } from './rows.ts';
import { ROW_FILES, type RowFile } from './writer.ts';

/** One session with everything that happened in it. */
export interface SessionTrace {
  readonly row: SessionRow;
  readonly rounds: readonly RoundRow[];
  readonly fault: FaultRow | null;
}

export interface StoredRun {
  readonly manifest: Manifest;
  /** By prompt id. */
  readonly prompts: ReadonlyMap<string, PromptRow>;
  /** In the order they were opened, by session id. */
  readonly sessions: ReadonlyMap<string, SessionTrace>;
}

/** Throws InputError, naming file and line, when anything is missing, malformed or not what the manifest says. */
export async function readRun(directory: string): Promise<StoredRun> {
  const manifest = readManifest(directory);
  const finished = manifest.status !== 'running';
  if (finished) await checkDigests(directory, manifest);
  if (digestOf(manifest.plan) !== manifest.planDigest) {
    throw new InputError(`${directory}/manifest.json: the plan is not the one that was fixed before the run`);
  }

  const prompts = new Map<string, PromptRow>();
  await eachRow(directory, 'prompts.jsonl', PromptRow, finished, (row, where) => {
    if (prompts.has(row.id)) throw new InputError(`${where}: prompt ${row.id} appears twice`);
    if (tokensDigest(row.ids) !== row.digest) throw new InputError(`${where}: the digest is not that of the ids`);
    prompts.set(row.id, row);
  });

  const open = new Map<string, { row: SessionRow; rounds: RoundRow[]; fault: FaultRow | null }>();
  await eachRow(directory, 'sessions.jsonl', SessionRow, finished, (row, where) => {
    if (open.has(row.session)) throw new InputError(`${where}: session ${row.session} appears twice`);
    if (!prompts.has(row.prompt)) throw new InputError(`${where}: unknown prompt ${row.prompt}`);
    if (!(row.engine in manifest.engines)) throw new InputError(`${where}: unknown engine ${row.engine}`);
    open.set(row.session, { row, rounds: [], fault: null });
  });
  await eachRow(directory, 'rounds.jsonl', RoundRow, finished, (row, where) => {
    const trace = open.get(row.session);
    if (trace === undefined) throw new InputError(`${where}: unknown session ${row.session}`);
    if (row.index !== trace.rounds.length) {
      throw new InputError(
        `${where}: session ${row.session} has round ${row.index} where ${trace.rounds.length} is due`,
      );
    }
    trace.rounds.push(row);
  });
  await eachRow(directory, 'faults.jsonl', FaultRow, finished, (row, where) => {
    const trace = open.get(row.session);
    if (trace === undefined) throw new InputError(`${where}: unknown session ${row.session}`);
    trace.fault = row;
  });
  return { manifest, prompts, sessions: open };
}

export function readManifest(directory: string): Manifest {
  const path = join(directory, 'manifest.json');
  if (!existsSync(path)) throw new InputError(`${directory} is not a run directory: it has no manifest.json`);
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    throw new InputError(`${path} is not JSON`);
  }
  return validated(Manifest, value, path);
}

/** The bytes of a row file, unpacked; null when there is neither the file nor its gzipped form. */
function rowsOf(directory: string, name: RowFile): { path: string; bytes: Readable } | null {
  const plain = join(directory, name);
  if (existsSync(plain)) return { path: plain, bytes: createReadStream(plain) };
  const packed = `${plain}.gz`;
  if (!existsSync(packed)) return null;
  const unpacked = createGunzip();
  createReadStream(packed)
    .on('error', (error) => unpacked.destroy(error))
    .pipe(unpacked);
  return { path: packed, bytes: unpacked };
}

/** Runs `use` over a row file; a file that cannot be unpacked is named. */
async function unpacking<T>(path: string, use: () => Promise<T>): Promise<T> {
  try {
    return await use();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (code.startsWith('Z_')) throw new InputError(`${path} is not a whole gzip file`);
    throw error;
  }
}

async function checkDigests(directory: string, manifest: Manifest): Promise<void> {
  const listed = new Map(manifest.files.map((file) => [file.path, file]));
  for (const name of ROW_FILES) {
    const file = listed.get(name);
    if (file === undefined) throw new InputError(`${directory}/manifest.json does not list ${name}`);
    const rows = rowsOf(directory, name);
    if (rows === null) throw new InputError(`${join(directory, name)} is missing`);
    const hash = createHash('sha256');
    await unpacking(rows.path, async () => {
      for await (const chunk of rows.bytes) hash.update(chunk as Buffer);
    });
    if (`sha256:${hash.digest('hex')}` !== file.sha256) {
      throw new InputError(
        `${rows.path} does not hold the rows the run wrote: their sha256 differs from the manifest's`,
      );
    }
  }
}

async function eachRow<T>(
  directory: string,
  name: RowFile,
  schema: z.ZodType<T>,
  finished: boolean,
  use: (row: T, where: string) => void,
): Promise<void> {
  const rows = rowsOf(directory, name);
  if (rows === null) {
    // A run killed while it was being set up has no rows yet.
    if (!finished) return;
    throw new InputError(`${join(directory, name)} is missing`);
  }
  const { path } = rows;
  const lines = createInterface({ input: rows.bytes, crlfDelay: Number.POSITIVE_INFINITY });
  let previous: string | null = null;
  let number = 0;
  const take = (text: string): void => {
    number += 1;
    const where = `${path}:${number}`;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw new InputError(`${where} is not JSON`);
    }
    use(validated(schema, value, where), where);
  };
  for await (const line of lines) {
    if (previous !== null) take(previous);
    previous = line;
  }
  if (previous === null) return;
  if (finished || isJson(previous)) take(previous);
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function validated<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new InputError(`${where}: ${issue.path.join('.') || 'value'}: ${issue.message}`);
}
