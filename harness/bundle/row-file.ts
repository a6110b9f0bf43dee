/**
 * A row file being written: JSON lines in gzip members, appended whole. Members one after another are a gzip file (RFC 1952), so
 * `zcat` and every reader take it; a run that is killed loses at most the rows since the last member, and a member that could
 * not be written whole is cut off again. Memory is bounded by one batch; the sha256 of the rows runs along.
 */
import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { constants, gzipSync } from 'node:zlib';
import type { z } from 'zod';
import { onDisk, writeAll } from './disk.ts';
import type { RunFile } from './rows.ts';

/** Rows are compressed and written in batches of about this size. */
const BATCH_BYTES = 256 * 1024;

export class RowFile<T> {
  readonly #path: string;
  readonly #name: string;
  readonly #schema: z.ZodType<T>;
  readonly #descriptor: number;
  readonly #hash = createHash('sha256');
  #pending: string[] = [];
  #pendingChars = 0;
  #stored = 0;
  #bytes = 0;
  #rows = 0;
  #open = true;
  /** Nothing more is taken: rows behind a hole would not be rows of this run. */
  #stopped = false;

  /** `name`: as the manifest lists it; `path`: where the compressed rows go, must not exist. */
  constructor(path: string, name: string, schema: z.ZodType<T>) {
    this.#path = path;
    this.#name = name;
    this.#schema = schema;
    this.#descriptor = onDisk(path, () => openSync(path, 'wx'));
    // A file without rows is a gzip file too.
    this.#write(gzipSync(''));
  }

  /** True when a batch is full. Throws a ZodError, and keeps nothing, when the row is not what the schema says. */
  append(row: T): boolean {
    if (this.#stopped) return false;
    const line = `${JSON.stringify(this.#schema.parse(row))}\n`;
    this.#pending.push(line);
    this.#pendingChars += line.length;
    return this.#pendingChars >= BATCH_BYTES;
  }

  /** Throws EnvironmentError; the file then ends with its last whole member and the batch is gone. */
  flush(): void {
    if (this.#pendingChars === 0 || !this.#open || this.#stopped) return;
    const rows = Buffer.from(this.#pending.join(''));
    const count = this.#pending.length;
    this.#pending = [];
    this.#pendingChars = 0;
    const member = gzipSync(rows, { level: constants.Z_DEFAULT_COMPRESSION });
    this.#write(member);
    this.#hash.update(rows);
    this.#bytes += rows.length;
    this.#rows += count;
  }

  /** Takes no more rows. Those that wait are gone. */
  stop(): void {
    this.#stopped = true;
  }

  #write(member: Uint8Array): void {
    onDisk(this.#path, () => {
      try {
        writeAll(this.#descriptor, member);
      } catch (error) {
        this.#stopped = true;
        ftruncateSync(this.#descriptor, this.#stored);
        throw error;
      }
    });
    this.#stored += member.length;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    onDisk(this.#path, () => closeSync(this.#descriptor));
  }

  /** What was written so far. */
  describe(): RunFile {
    const sha256 = `sha256:${this.#hash.copy().digest('hex')}`;
    return { path: this.#name, sha256, bytes: this.#bytes, rows: this.#rows };
  }
}
