/**
 * Builds test/support/core_probe.cpp once per content of core/ (under build/core-probe/<hash>) and calls it. The program is a thin
 * door: packed records in, packed results out.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const CORE = path.join(ROOT, 'core');
const SOURCE = path.join(ROOT, 'test', 'support', 'core_probe.cpp');
const FLAGS = ['-std=c++20', '-O1', '-Wall', '-Wextra', '-Werror', '-ffp-contract=off'];

function build(): string {
  const compiler = process.env.CXX ?? 'c++';
  const headers = readdirSync(CORE)
    .filter((name) => name.endsWith('.h'))
    .sort();
  const hash = createHash('sha256').update([compiler, ...FLAGS].join(' '));
  for (const file of [...headers.map((name) => path.join(CORE, name)), SOURCE])
    hash.update(file).update(readFileSync(file));
  const folder = path.join(ROOT, 'build', 'core-probe', hash.digest('hex').slice(0, 16));
  const program = path.join(folder, 'core_probe');
  if (existsSync(program)) return program;
  mkdirSync(folder, { recursive: true });
  const unfinished = `${program}.${process.pid}`; // several test files may build at once; the rename is atomic
  execFileSync(compiler, [...FLAGS, `-I${CORE}`, SOURCE, '-o', unfinished], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  renameSync(unfinished, program);
  return program;
}

let program: string | null = null;

/** Runs one operation over all records of `input` and returns its packed results. */
export function probe(operation: string, input: ArrayBufferView): Buffer {
  program ??= build();
  const bytes = Buffer.from(input.buffer, input.byteOffset, input.byteLength);
  const run = spawnSync(program, [operation], { input: bytes, maxBuffer: 1 << 28 });
  if (run.status !== 0) throw new Error(`core_probe ${operation}: ${run.stderr.toString() || run.error?.message}`);
  return run.stdout;
}

function typed<T>(bytes: Buffer, make: (buffer: ArrayBuffer) => T): T {
  const copy = new Uint8Array(bytes); // aligned
  return make(copy.buffer as ArrayBuffer);
}

export const asU32 = (bytes: Buffer): Uint32Array => typed(bytes, (buffer) => new Uint32Array(buffer));
export const asI32 = (bytes: Buffer): Int32Array => typed(bytes, (buffer) => new Int32Array(buffer));
export const asU16 = (bytes: Buffer): Uint16Array => typed(bytes, (buffer) => new Uint16Array(buffer));
export const asF64 = (bytes: Buffer): Float64Array => typed(bytes, (buffer) => new Float64Array(buffer));

/** A row record: count, 8 bytes of parameters, elements. */
export function rowRecord(parameters: Float64Array | Uint32Array, elements: Float32Array | Float64Array): Buffer {
  const head = Buffer.alloc(12);
  head.writeUInt32LE(elements.length, 0);
  Buffer.from(parameters.buffer, parameters.byteOffset, parameters.byteLength).copy(head, 4);
  return Buffer.concat([head, Buffer.from(elements.buffer, elements.byteOffset, elements.byteLength)]);
}
