/** The files of a bundle that somebody handed over, looked at before one is opened: a folder cannot be read, and a pipe or a device never ends. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../engine.ts';

/** Throws InputError naming the first that is no regular file, by itself or behind a link. What is missing is for the reader to say. */
export function requirePlainFiles(directory: string): void {
  if (!statSync(directory, { throwIfNoEntry: false })?.isDirectory()) return;
  for (const name of readdirSync(directory).filter((entry) => /\.(json|jsonl|gz)$/.test(entry))) {
    const found = statSync(join(directory, name), { throwIfNoEntry: false });
    if (found === undefined || found.isFile()) continue;
    throw new InputError(
      `${join(directory, name)}: is ${found.isDirectory() ? 'a folder' : 'a device or a pipe'}, not a file`,
    );
  }
}
