/** Results go to stdout, everything else to stderr. Colour only for a terminal, and never against NO_COLOR. */
import { writeFileSync } from 'node:fs';
import { onDisk } from '../../harness/bundle/disk.ts';

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** A file that the caller asked for, after the work. Throws EnvironmentError, one line. */
export function writeOutput(path: string, text: string, how: 'whole' | 'append' = 'whole'): void {
  onDisk(path, () => writeFileSync(path, text, { flag: how === 'whole' ? 'w' : 'a' }));
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

const colour = process.stdout.isTTY === true && !process.env.NO_COLOR;

export function paint(style: 'bold' | 'green' | 'red' | 'yellow' | 'dim', text: string): string {
  if (!colour) return text;
  const code = { bold: 1, green: 32, red: 31, yellow: 33, dim: 2 }[style];
  return `\x1b[${code}m${text}\x1b[0m`;
}

/** Left-aligned columns, except where `right` says otherwise. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (right.includes(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
