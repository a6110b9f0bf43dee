/** Writing to disk, with failures as one clear line. A document is written beside itself and renamed: it is the old or the new one. */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import type { z } from 'zod';
import { EnvironmentError } from '../engine.ts';

const REASONS: Record<string, string> = {
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the file system is read-only',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ENOTDIR: 'a part of the path is a file',
  EEXIST: 'it exists already',
  ENOENT: 'the system does not allow a folder there',
  EIO: 'the device failed',
};

/** Runs `action`; an error of the file system becomes an EnvironmentError that names `path` and the reason. */
export function onDisk<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === undefined) throw error;
    throw new EnvironmentError(`cannot write ${path}: ${REASONS[code] ?? code}`);
  }
}

/** mkdir -p, level by level: Node's own recursive form never returns below folders such as /proc. */
export function makeFolder(path: string): void {
  const there = onDisk(path, () => statSync(path, { throwIfNoEntry: false }));
  if (there?.isDirectory()) return;
  if (there !== undefined) throw new EnvironmentError(`cannot write ${path}: it is a file, not a folder`);
  if (!existsSync(dirname(path))) makeFolder(dirname(path));
  onDisk(path, () => mkdirSync(path));
}

/** All of `bytes` at the descriptor's position. */
export function writeAll(descriptor: number, bytes: Uint8Array): void {
  for (let offset = 0; offset < bytes.length; ) offset += writeSync(descriptor, bytes, offset);
}

/** Replaces the file in one step; what cannot be written leaves the old one and nothing beside it. */
export function writeWhole(path: string, text: string): void {
  const partial = `${path}.partial`;
  onDisk(path, () => {
    try {
      const descriptor = openSync(partial, 'w');
      try {
        writeAll(descriptor, Buffer.from(text));
        fsyncSync(descriptor);
      } finally {
        closeSync(descriptor);
      }
      renameSync(partial, path);
    } catch (error) {
      rmSync(partial, { force: true });
      throw error;
    }
  });
}

/** `value`, checked, as indented JSON. */
export function writeDocument<T>(path: string, schema: z.ZodType<T>, value: T): void {
  writeWhole(path, `${JSON.stringify(schema.parse(value), null, 2)}\n`);
}
