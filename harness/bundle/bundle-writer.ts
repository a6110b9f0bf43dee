/**
 * What the writers of an audit's and of a node benchmark's bundle share: the directory, the clock, the first and the last event. Plan and
 * manifest stand before the first row; the manifest at the end names the sha256 of every file's rows.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../engine.ts';
import { makeFolder } from './disk.ts';
import type { RowFileSet } from './row-file-set.ts';
import type { EventRow, RunFile } from './rows.ts';

export abstract class BundleWriter {
  readonly directory: string;
  readonly #now: () => bigint;
  readonly #origin: bigint;
  protected abstract readonly files: Pick<RowFileSet<never>, 'flush' | 'close' | 'describe'>;

  /**
   * `directory` is created and must not hold a run already. `now`: monotonic nanoseconds; its reading at this moment is 0 of every `t_ns`.
   * Throws InputError or EnvironmentError with one clear line.
   */
  protected constructor(directory: string, now: () => bigint) {
    this.directory = directory;
    this.#now = now;
    this.#origin = now();
    if (existsSync(join(directory, 'manifest.json')))
      throw new InputError(`${directory} already holds a run; choose another directory`);
    makeFolder(directory);
  }

  abstract event(row: EventRow): void;

  /** Nanoseconds since the run began, of a reading of the clock (default: now). */
  t(reading: bigint = this.#now()): number {
    return Number(reading - this.#origin);
  }

  /** Everything taken so far is on disk afterwards. */
  flush(): void {
    this.files.flush();
  }

  /** The event before all others; `head` is the digest of all that the manifest says before the first token. */
  protected begin(run: string, head: string): void {
    this.event({ t_ns: 0, kind: 'run-start', run, head });
    this.flush();
  }

  /** The event behind all others; the files are closed whatever happens. What the last manifest says of time and files. */
  protected end(event: { readonly status: string; readonly [key: string]: unknown }): {
    readonly seconds: number;
    readonly files: RunFile[];
  } {
    const ended = this.t();
    try {
      this.event({ t_ns: ended, kind: 'run-end', ...event });
      this.flush();
    } finally {
      this.files.close();
    }
    return { seconds: ended / 1e9, files: this.files.describe() };
  }
}
