/**
 * Reading small files of a checkpoint with every failure turned into one line that names the file. Sizes are bounded before
 * anything is allocated, and only regular files are opened, so that a pipe or a device cannot hang the reader.
 */
import { type FileHandle, open, stat } from 'node:fs/promises';
import { InputError, quote } from '../errors.ts';

export async function fileExists(file: string): Promise<boolean> {
  try {
    return (await stat(file)).isFile();
  } catch {
    return false;
  }
}

function reason(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOENT' || code === 'ENOTDIR') return 'not found';
  if (code === 'EACCES' || code === 'EPERM') return 'permission denied';
  if (code === 'EISDIR') return 'is a directory';
  return `cannot be read (${code ?? 'unknown error'})`;
}

/** Opens a regular file for reading, runs `use` and closes it. Throws InputError if it is missing or not a file. */
export async function withFile<T>(file: string, use: (handle: FileHandle, size: number) => Promise<T>): Promise<T> {
  let handle: FileHandle;
  let size: number;
  try {
    const status = await stat(file);
    if (!status.isFile()) throw new InputError(`${file}: not a regular file`);
    size = status.size;
    handle = await open(file, 'r');
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(`${file}: ${reason(error)}`);
  }
  try {
    return await use(handle, size);
  } catch (error) {
    if (error instanceof InputError) throw error;
    if ((error as NodeJS.ErrnoException).syscall !== undefined) throw new InputError(`${file}: ${reason(error)}`);
    throw error;
  } finally {
    await handle.close();
  }
}

/** Reads exactly `length` bytes at `position`; InputError naming `file` if it ends before. */
export async function readExactly(handle: FileHandle, position: number, length: number, file: string): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await handle.read(buffer, filled, length - filled, position + filled);
    if (bytesRead === 0) throw new InputError(`${file}: truncated, the file ends at byte ${position + filled}`);
    filled += bytesRead;
  }
  return buffer;
}

export async function readWhole(file: string, maxBytes: number): Promise<Buffer> {
  return withFile(file, async (handle, size) => {
    if (size > maxBytes)
      throw new InputError(`${file}: ${size} bytes, more than the ${maxBytes} a file of this kind may have`);
    return readExactly(handle, 0, size, file);
  });
}

/** Decodes UTF-8 strictly and parses JSON without repeated keys; InputError names the file. */
export function parseJson(bytes: Uint8Array, label: string): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new InputError(`${label}: not valid UTF-8`);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new InputError(`${label}: not valid JSON (${quote((error as Error).message)})`);
  }
  // JSON.parse keeps the last of two equal keys; every key has one colon outside strings, so a surplus colon is a lost key.
  if (countColons(bytes) !== countKeys(json))
    throw new InputError(`${label}: names something twice (a repeated JSON key)`);
  return json;
}

/** Colons of JSON text outside its strings. The text has been parsed already, so its quotes balance. */
function countColons(json: Uint8Array): number {
  let colons = 0;
  let inString = false;
  for (let i = 0; i < json.length; i++) {
    const byte = json[i];
    if (byte === 0x22) inString = !inString;
    else if (byte === 0x5c) i++;
    else if (byte === 0x3a && !inString) colons++;
  }
  return colons;
}

/** Keys of all objects within; a loop, because the nesting is the file's choice. */
function countKeys(json: unknown): number {
  let keys = 0;
  const open: unknown[] = [json];
  while (open.length > 0) {
    const value = open.pop();
    if (typeof value !== 'object' || value === null) continue;
    const isList = Array.isArray(value);
    for (const item of isList ? value : Object.values(value)) {
      if (!isList) keys++;
      if (typeof item === 'object') open.push(item);
    }
  }
  return keys;
}

export function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
