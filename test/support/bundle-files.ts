/** Row files and documents of a bundle, read and changed as a person with a shell would: unpacked, edited, packed again. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';

/** The rows of `name` as text, however they are stored. */
export function rowsText(run: string, name: string): string {
  const plain = join(run, name);
  return existsSync(plain) ? readFileSync(plain, 'utf8') : gunzipSync(readFileSync(`${plain}.gz`)).toString('utf8');
}

/** The rows of `name` as values. */
export function rowsOf<T>(run: string, name: string): T[] {
  const text = rowsText(run, name).trimEnd();
  return text === '' ? [] : text.split('\n').map((line) => JSON.parse(line) as T);
}

export function writeRowsText(run: string, name: string, text: string): void {
  rmSync(join(run, name), { force: true });
  writeFileSync(join(run, `${name}.gz`), gzipSync(Buffer.from(text)));
}

export function writeRows(run: string, name: string, rows: readonly unknown[]): void {
  writeRowsText(run, name, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
}

/** Throws when `change` changes nothing: a test that damages must damage. */
export function editRows(run: string, name: string, change: (text: string) => string): void {
  const before = rowsText(run, name);
  const after = change(before);
  if (after === before) throw new Error(`${name} is what it was`);
  writeRowsText(run, name, after);
}

export function readDocument<T>(run: string, name: string): T {
  return JSON.parse(readFileSync(join(run, name), 'utf8')) as T;
}

/** Changes a JSON document in place, in the layout it had. */
export function editDocument<T>(run: string, name: string, change: (value: T) => void): void {
  const text = readFileSync(join(run, name), 'utf8');
  const value = JSON.parse(text) as T;
  change(value);
  const after = text.endsWith('\n') ? `${JSON.stringify(value, null, 2)}\n` : JSON.stringify(value);
  if (after === text) throw new Error(`${name} is what it was`);
  writeFileSync(join(run, name), after);
}
