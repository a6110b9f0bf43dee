/**
 * Reads a row file as a stream, plain or gzipped: memory does not grow with the file. The sha256 of the rows is made on the way. Of
 * a run that was killed, a member or a line that was cut off at the end is left out; anywhere else it is an error.
 */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { constants, createGunzip } from 'node:zlib';
import type { z } from 'zod';
import { InputError } from '../engine.ts';

const NEWLINE = 0x0a;

export interface RowsRead {
  /** As `sha256sum` of the unpacked rows. */
  readonly sha256: string;
  readonly bytes: number;
  readonly rows: number;
  /** A last line without its end was dropped. */
  readonly cut: boolean;
  /** The first row that was malformed or that `use` refused; rows behind it were not looked at. */
  readonly failure: InputError | null;
}

/** Where the rows of `name` are stored; null when there is neither the file nor its gzipped form. */
export function rowPath(directory: string, name: string): string | null {
  const plain = join(directory, name);
  if (existsSync(plain)) return plain;
  const packed = `${plain}.gz`;
  return existsSync(packed) ? packed : null;
}

/**
 * `tolerant`: the run did not finish. `use` gets each row and its `file:line` and may throw InputError. The whole file is read, and
 * its digest made, whatever its rows are. Throws InputError when it cannot be unpacked.
 */
export async function readRows<T>(
  path: string,
  schema: z.ZodType<T>,
  tolerant: boolean,
  use: (row: T, where: string) => void,
): Promise<RowsRead> {
  const hash = createHash('sha256');
  let bytes = 0;
  let rows = 0;
  let failure: InputError | null = null;
  const take = (line: string): void => {
    rows += 1;
    if (failure !== null) return;
    const where = `${path}:${rows}`;
    try {
      use(validated(schema, parsed(line, where), where), where);
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      failure = error;
    }
  };
  let rest: Buffer = Buffer.alloc(0);
  try {
    for await (const chunk of unpacked(path, tolerant)) {
      hash.update(chunk);
      bytes += chunk.length;
      let block: Buffer = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      const end = block.lastIndexOf(NEWLINE);
      if (end >= 0) {
        const lines = block.toString('utf8', 0, end).split('\n');
        for (const line of lines) take(line);
        block = block.subarray(end + 1);
      }
      rest = Buffer.from(block);
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (code.startsWith('Z_')) throw new InputError(`${path} is not a whole gzip file`);
    throw error;
  }
  let cut = false;
  if (rest.length > 0) {
    const last = rest.toString('utf8');
    if (!tolerant || isJson(last)) take(last);
    else cut = true;
  }
  return { sha256: `sha256:${hash.digest('hex')}`, bytes, rows, cut, failure };
}

function unpacked(path: string, tolerant: boolean): Readable {
  const stored = createReadStream(path, { highWaterMark: 256 * 1024 });
  if (!path.endsWith('.gz')) return stored;
  // With a sync flush at the end, an archive that was cut off gives what it held instead of an error.
  const flush = tolerant ? { finishFlush: constants.Z_SYNC_FLUSH } : {};
  const gunzip = createGunzip({ chunkSize: 256 * 1024, ...flush });
  stored.on('error', (error) => gunzip.destroy(error)).pipe(gunzip);
  return gunzip;
}

function parsed(line: string, where: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new InputError(`${where} is not JSON`);
  }
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** `value` as `schema` has it. Throws InputError with `where` and the first field that does not fit. */
export function validated<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new InputError(`${where}: ${issue.path.join('.') || 'value'}: ${issue.message}`);
}
