/** Files that a caller names, read whole: whatever is wrong with one is a line that names it and says what. */
import { readFileSync } from 'node:fs';
import { InputError } from './engine.ts';

const REASONS: Record<string, string> = {
  ENOENT: 'no such file',
  ENOTDIR: 'no such file: a part of the path is a file',
  EISDIR: 'is a folder, not a file',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
};

/** Why a file could not be read, in words. */
export function unreadable(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code ?? 'unknown error';
  return REASONS[code] ?? `cannot be read (${code})`;
}

/** Throws InputError. */
export function bytesOf(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new InputError(`${path}: ${unreadable(error)}`);
  }
}

/** Throws InputError. */
export function jsonOf(path: string): unknown {
  const text = bytesOf(path).toString('utf8');
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new InputError(`${path}: is not JSON: ${(error as Error).message}`);
  }
}
