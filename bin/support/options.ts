/** Option values, parsed strictly: `12abc` is not 12. Commander turns what these throw into one line and exit code 2. */
import { existsSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { InvalidArgumentError, Option } from 'commander';
import { requirePlainFiles } from '../../harness/bundle/plain-files.ts';
import type { Shard } from '../../harness/bundle/rows.ts';
import { parseShard } from '../../harness/bundle/shards.ts';
import { isPublished } from './published.ts';

export function wholeNumber(least: number, most = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || value > most) {
      const range = most === Number.MAX_SAFE_INTEGER ? `at least ${least}` : `${least} to ${most}`;
      throw new InvalidArgumentError(`It must be a whole number, ${range}.`);
    }
    return value;
  };
}

export function realNumber(least: number, most: number, open = false): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value < least || value > most || (open && value === least)) {
      throw new InvalidArgumentError(`It must be a number ${open ? 'above' : 'from'} ${least} to ${most}.`);
    }
    return value;
  };
}

/** A run that somebody handed over: nothing of it is opened before it is seen to be files. Throws InputError. */
export function runDirectory(path: string): string {
  requirePlainFiles(path);
  return path;
}

/** The values of an option that may be given several, each read by `one`. */
export function listOf<T>(one: (text: string) => T): (text: string, before?: readonly T[]) => readonly T[] {
  return (text, before = []) => [...before, one(text)];
}

/** A file that is written when the work is done: that it can be is seen before the work begins. */
export function outputFile(path: string): string {
  const folder = dirname(resolve(path));
  if (!isFolder(folder)) throw new InvalidArgumentError(`There is no folder ${folder}.`);
  if (isFolder(path)) throw new InvalidArgumentError('It is a folder, not a file.');
  if (existsSync(path) && isPublished(path))
    throw new InvalidArgumentError('It is published; results/ is append-only.');
  return path;
}

const isFolder = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;

/** `i/n`. */
export function shard(text: string): Shard {
  try {
    return parseShard(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

/** An unsigned 64-bit integer, kept as text because a JavaScript number cannot hold it. */
export function seed(text: string): string {
  if (!/^\d{1,20}$/.test(text) || BigInt(text) > 0xffff_ffff_ffff_ffffn) {
    throw new InvalidArgumentError('It must be a whole number from 0 to 18446744073709551615.');
  }
  return BigInt(text).toString();
}

export const activationsOption = (): Option =>
  new Option('--activations <format>', "activation format (default: the checkpoint's own)").choices(['bf16', 'fp8']);

export const ruleOption = (): Option =>
  new Option('--rule <rule>', 'how drafts are checked').choices(['match', 'reject', 'coupled']).default('match');
