/**
 * The row files of one bundle, written side by side: batched, flushed together in the order of their names here, so that a reader never
 * meets a row that names one of an earlier file which is not there yet.
 */
import { join } from 'node:path';
import type { z } from 'zod';
import { RowFile } from './row-file.ts';
import type { RunFile } from './rows.ts';

/** Rows wait at most so long to be written, milliseconds. */
const FLUSH_MS = 1_000;

/** By name; one of them is events.jsonl, whose rows name nobody. */
export type RowSchemas = { readonly 'events.jsonl': z.ZodType } & Readonly<Record<string, z.ZodType>>;

export class RowFileSet<S extends RowSchemas> {
  readonly #files: ReadonlyMap<keyof S, RowFile<unknown>>;
  #flushed = performance.now();

  /** Creates every file, empty. Throws EnvironmentError where one cannot be. */
  constructor(directory: string, schemas: S) {
    this.#files = new Map(
      Object.entries(schemas).map(([name, schema]) => [name, new RowFile(join(directory, `${name}.gz`), name, schema)]),
    );
  }

  /** As append, but written no sooner than the row that is appended next: a part of something that is to be read whole. */
  hold<N extends keyof S>(name: N, row: z.infer<S[N]>): void {
    this.#files.get(name)!.append(row);
  }

  /** Throws a ZodError, and keeps nothing, when the row is not what its schema says. */
  append<N extends keyof S>(name: N, row: z.infer<S[N]>): void {
    const full = this.#files.get(name)!.append(row);
    if (full || performance.now() - this.#flushed > FLUSH_MS) this.flush();
  }

  /** Everything taken so far is on disk afterwards. */
  flush(): void {
    try {
      for (const file of this.#files.values()) file.flush();
    } catch (error) {
      // Rows name rows of the files before theirs: after a hole in one, none but the events go on.
      for (const [name, file] of this.#files) if (name !== 'events.jsonl') file.stop();
      throw error;
    }
    this.#flushed = performance.now();
  }

  close(): void {
    for (const file of this.#files.values()) file.close();
  }

  /** What the manifest says of them. */
  describe(): RunFile[] {
    return [...this.#files.values()].map((file) => file.describe());
  }
}
