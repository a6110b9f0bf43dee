/**
 * The weights of pro-synthetic: the same bytes whichever way they are asked for, shards that are parts of the whole, the spread that was
 * asked for, and the published number of parameters. Compiles synthetic_probe.cpp once per content.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const PROBE = path.join(ROOT, 'test/cpu/cuda/synthetic_probe.cpp');

function build(): string {
  const compiler = process.env.CXX ?? 'c++';
  const hash = createHash('sha256').update(compiler).update(readFileSync(PROBE));
  for (const name of readdirSync(path.join(ROOT, 'core')).sort())
    hash.update(readFileSync(path.join(ROOT, 'core', name)));
  const folder = path.join(ROOT, 'build/synthetic-probe', hash.digest('hex').slice(0, 16));
  const program = path.join(folder, 'synthetic_probe');
  if (existsSync(program)) return program;
  mkdirSync(folder, { recursive: true });
  const unfinished = `${program}.${process.pid}`; // the rename is atomic, should two runs build at once
  execFileSync(compiler, ['-std=c++20', '-O2', '-ffp-contract=off', '-w', `-I${ROOT}`, PROBE, '-o', unfinished]);
  renameSync(unfinished, program);
  return program;
}

let program: string;
beforeAll(() => {
  program = build();
}, 600_000);

function probe(what: string): string {
  const run = spawnSync(program, [what], { encoding: 'utf8' });
  expect(run.stdout).toMatch(/ok\n$/);
  expect(run.status).toBe(0);
  return run.stdout;
}

test('any byte and any row can be made again alone; another seed, layer or tensor has other bytes', () => {
  // What seed 7 means for every tensor of a small shape. It may change only together with the model's name.
  expect(probe('recomputed')).toContain('digest 06d57489ddfa4649');
});

test('a shard of 2 or 4 ranks holds the very bytes of its part, for MXFP4 and for FP8 experts', () => {
  probe('shards');
});

test('values have the mean squares asked for, codes are balanced, neighbours uncorrelated, nothing is NaN', () => {
  expect(probe('distribution')).toMatch(/router: mean square/);
});

test('the whole shape has the published number of parameters', () => {
  const text = probe('counts');
  expect(text).toContain(
    'experts 1000190509056 qkv 11670650880 o 7046430720 router 162817920 embedding and head 1874853888 dense 301989888',
  );
  expect(text).toContain('draft 2768316288\nglobal layers 10\ntaps 0 15 31 47 69');
});
