/** Runs the compiled command line as a child process, as a person or a script would. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '../..');
const SHIM = join(ROOT, 'bin/kilotoken.mjs');

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string;
  /** Sees stderr as it grows; may signal the process. */
  readonly watch?: (stderr: string, kill: (signal: NodeJS.Signals) => void) => void;
}

export function kilotoken(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  if (!existsSync(join(ROOT, 'dist/bin/kilotoken.js'))) throw new Error('dist/ is missing; run: npm run setup');
  const child = spawn(process.execPath, [SHIM, ...args], {
    cwd: ROOT,
    env: { ...process.env, FORCE_COLOR: undefined },
  });
  const text = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (chunk: string) => {
      text[name] += chunk;
      if (name === 'stderr') options.watch?.(text.stderr, (signal) => void child.kill(signal));
    });
  }
  child.stdin.end(options.input ?? '');
  return new Promise((done, fail) => {
    child.once('error', fail);
    child.once('close', (code, signal) => done({ code, signal, ...text }));
  });
}

/** stderr of a refused call: exactly one line, no stack trace. */
export function onlyLine(finished: Finished): string {
  const lines = finished.stderr.trimEnd().split('\n');
  if (lines.length !== 1) throw new Error(`expected one line on stderr, got:\n${finished.stderr}`);
  return lines[0]!;
}
