/**
 * Writes a run directory. Rows are appended as whole lines in one write, so a run that is killed leaves a readable
 * prefix; the JSON documents are written beside themselves and renamed, so each is either the old or the new one.
 */
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { z } from 'zod';
import { EnvironmentError, InputError } from '../engine.ts';
import { Report } from '../report/schema.ts';
import { sha256 } from '../suite/canonical.ts';
import { FaultRow, Manifest, PromptRow, RoundRow, type RunFile, SessionRow, Verdicts } from './rows.ts';

/** A batch of rows is flushed at this size or when its session ends. */
const FLUSH_BYTES = 64 * 1024;

export const ROW_FILES = ['prompts.jsonl', 'sessions.jsonl', 'rounds.jsonl', 'faults.jsonl'] as const;
export type RowFile = (typeof ROW_FILES)[number];

class JsonLines<T> {
  readonly #descriptor: number;
  readonly #path: string;
  readonly #schema: z.ZodType<T>;
  #pending = '';

  constructor(path: string, schema: z.ZodType<T>) {
    this.#path = path;
    this.#schema = schema;
    this.#descriptor = onDisk(path, () => openSync(path, 'wx'));
  }

  /** Throws a ZodError, and writes nothing, when the row is not what the schema says. */
  append(row: T): void {
    this.#pending += `${JSON.stringify(this.#schema.parse(row))}\n`;
    if (this.#pending.length >= FLUSH_BYTES) this.flush();
  }

  flush(): void {
    if (this.#pending === '') return;
    const bytes = Buffer.from(this.#pending);
    onDisk(this.#path, () => {
      for (let offset = 0; offset < bytes.length; ) offset += writeSync(this.#descriptor, bytes, offset);
    });
    this.#pending = '';
  }

  close(): void {
    this.flush();
    closeSync(this.#descriptor);
  }
}

export class RunWriter {
  readonly directory: string;
  readonly #prompts: JsonLines<PromptRow>;
  readonly #sessions: JsonLines<SessionRow>;
  readonly #rounds: JsonLines<RoundRow>;
  readonly #faults: JsonLines<FaultRow>;

  /** `directory` must not hold a run already. Throws InputError or EnvironmentError with one clear line. */
  constructor(directory: string, manifest: Manifest) {
    this.directory = directory;
    if (existsSync(join(directory, 'manifest.json'))) {
      throw new InputError(`${directory} already holds a run; choose another directory`);
    }
    onDisk(directory, () => makeFolder(directory));
    this.writeManifest(manifest);
    this.#prompts = new JsonLines(join(directory, 'prompts.jsonl'), PromptRow);
    this.#sessions = new JsonLines(join(directory, 'sessions.jsonl'), SessionRow);
    this.#rounds = new JsonLines(join(directory, 'rounds.jsonl'), RoundRow);
    this.#faults = new JsonLines(join(directory, 'faults.jsonl'), FaultRow);
  }

  prompt(row: PromptRow): void {
    this.#prompts.append(row);
  }

  /** On disk at once, so that a reader never meets a round of an unknown session. */
  session(row: SessionRow): void {
    this.#sessions.append(row);
    this.#sessions.flush();
  }

  round(row: RoundRow): void {
    this.#rounds.append(row);
  }

  fault(row: FaultRow): void {
    this.#faults.append(row);
  }

  flush(): void {
    this.#prompts.flush();
    this.#sessions.flush();
    this.#rounds.flush();
    this.#faults.flush();
  }

  closeRows(): void {
    this.flush();
    for (const file of [this.#prompts, this.#sessions, this.#rounds, this.#faults]) file.close();
  }

  writeManifest(manifest: Manifest): void {
    writeDocument(join(this.directory, 'manifest.json'), Manifest, manifest);
  }
}

export function writeVerdicts(directory: string, verdicts: Verdicts): void {
  writeDocument(join(directory, 'verdicts.json'), Verdicts, verdicts);
}

export function writeReport(directory: string, report: Report): void {
  writeDocument(join(directory, 'report.json'), Report, report);
}

/** Path, sha256 and size of each named file of a run directory. */
export function describeFiles(directory: string, names: readonly string[]): RunFile[] {
  return names.map((path) => {
    const bytes = readFileSync(join(directory, path));
    return { path, sha256: sha256(bytes), bytes: bytes.length };
  });
}

function writeDocument<T>(path: string, schema: z.ZodType<T>, value: T): void {
  const text = `${JSON.stringify(schema.parse(value), null, 2)}\n`;
  onDisk(path, () => {
    writeFileSync(`${path}.partial`, text);
    renameSync(`${path}.partial`, path);
  });
}

/** mkdir -p, level by level: Node's own recursive form never returns below folders such as /proc. */
function makeFolder(path: string): void {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  mkdirSync(path);
}

function onDisk<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    const reason: Record<string, string> = {
      ENOSPC: 'no space left on the device',
      EROFS: 'the file system is read-only',
      EACCES: 'permission denied',
      EPERM: 'permission denied',
      ENOTDIR: 'a part of the path is a file',
      EEXIST: 'it exists already',
      ENOENT: 'the system does not allow a folder there',
    };
    throw new EnvironmentError(`cannot write ${path}: ${reason[code] ?? code}`);
  }
}
