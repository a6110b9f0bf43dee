/**
 * Device code for a host compiler. It reads CUDA's launches nowhere, so each `kernel<<<grid, ...>>>(arguments);` becomes a call of a stand-in's own function,
 * `launch([&] { kernel(arguments); }, grid, ...);`, in a copy beside the objects.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
export const at = (name: string): string => path.join(ROOT, name);
export const COMPILER = process.env.CXX ?? 'c++';

/** What else a host compiler cannot read as CUDA has it, file by file. Every rule must meet something, or the kernels have changed. */
export type Rules = readonly (readonly [file: string, from: RegExp, to: string])[];

/** Writes the copy of the source `name` into `folder` and returns its path. Rules come before launches. */
export function forHost(name: string, folder: string, launch: string, rules: Rules = []): string {
  let text = readFileSync(at(name), 'utf8');
  for (const [file, from, to] of rules) {
    if (file !== name) continue;
    if (!from.test(text)) throw new Error(`${name} has no ${from}`);
    text = text.replace(from, to);
  }
  const copy = path.join(folder, `${path.basename(name, '.cu')}.cpp`);
  writeFileSync(copy, text.replace(/(\w+)<<<(.*?)>>>\((.*?)\);/gs, `${launch}([&] { $1($3); }, $2);`));
  return copy;
}

/** Names what is compiled of `files` with all headers below `rooms`: a program is compiled once per content. */
export function contentOf(rooms: readonly string[], files: readonly string[]): string {
  const headers = rooms.flatMap((room) =>
    readdirSync(at(room), { recursive: true, encoding: 'utf8' })
      .filter((name) => /\.(h|cuh)$/.test(name))
      .map((name) => `${room}/${name}`),
  );
  const hash = createHash('sha256').update(COMPILER);
  const own = ['test/cpu/cuda/launches.ts', 'test/cpu/cuda/cuda_types.h'];
  for (const name of [...own, ...files, ...headers.sort()]) hash.update(readFileSync(at(name)));
  return hash.digest('hex').slice(0, 16);
}
