/**
 * What a machine without a usable GPU is told: one line and exit code 3. Driver libraries that fail in known ways stand in the place of the
 * real one. Needs the CUDA addon, which setup builds where there is nvcc; skipped aloud elsewhere.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const ADDON = path.join(ROOT, 'build/Release/kilotoken_cuda.node');
const built = existsSync(ADDON) && existsSync(path.join(ROOT, 'dist/native/cuda.js'));
const withAddon = test.skipIf(!built);

const folder = mkdtempSync(path.join(tmpdir(), 'kilotoken-driver-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeAll(() => {
  mkdirSync(path.join(folder, 'stub'));
  const stub = path.join(ROOT, 'test/cpu/cuda/driver_stub.c');
  const library = path.join(folder, 'stub/libcuda.so.1');
  if (built) execFileSync(process.env.CC ?? 'cc', ['-shared', '-fPIC', '-w', stub, '-o', library]);
});

function cli(args: readonly string[], env: Record<string, string>) {
  return spawnSync(process.execPath, [path.join(ROOT, 'bin/kilotoken.mjs'), ...args], {
    encoding: 'utf8',
    env: { ...process.env, LD_LIBRARY_PATH: path.join(folder, 'stub'), ...env },
  });
}

const GENERATE = ['generate', '--engine', 'reference-cuda', '--ids', '1,2', '--max-tokens', '1'];

withAddon.each([
  [
    'an old driver',
    { STUB_VERSION: '12040' },
    /^error: the NVIDIA driver is missing or older than this build's CUDA \d+\.\d+\n$/,
  ],
  ['no GPU', { STUB_INIT: '100' }, /^error: no CUDA device: the driver finds no GPU\n$/],
  ['a library and a driver that do not fit', { STUB_INIT: '803' }, /^error: the GPU cannot be used: .*driver.*\n$/],
  ['a driver that does not start', { STUB_INIT: '999' }, /^error: the GPU cannot be used: .*\n$/],
])('%s: one line, exit code 3 (needs the CUDA addon)', (_, env, line) => {
  const run = cli(GENERATE, env);
  expect(run.stderr).toMatch(line);
  expect([run.status, run.stdout]).toEqual([3, '']);
});

const SLICE = ['--engine', 'stack-cuda', '--model', 'pro-synthetic:layers=2,rank=0/8,experts=fp8'];

withAddon.each([['audit'], ['verify']])(
  '%s of a slice without a GPU: one line, exit code 3 (needs the CUDA addon)',
  (verb) => {
    const run = cli([verb, ...SLICE], { STUB_INIT: '100' });
    expect([run.status, run.stdout, run.stderr]).toEqual([
      3,
      '',
      expect.stringMatching(/^error: no CUDA device: the driver finds no GPU\n$/),
    ]);
  },
);

withAddon('doctor says what is in the way, and fails only when a GPU is required (needs the CUDA addon)', () => {
  const env = { STUB_VERSION: '12040' };
  const said = cli(['doctor'], env);
  expect(said.stdout).toMatch(/^absent {2}cuda engines +built with CUDA .*older than/m);
  expect(cli(['doctor', '--require', 'gpu'], env).status).toBe(3);
});

test('a slice without a GPU engine, or one that is not understood, is the caller`s fault', () => {
  if (!existsSync(path.join(ROOT, 'dist/bin/kilotoken.js'))) return;
  for (const args of [
    ['generate', '--model', 'pro-synthetic:layers=2', '--ids', '1'],
    ['generate', '--model', 'pro-synthetic:rank=1/8', '--ids', '1', '--engine', 'reference-cuda'],
    ['generate', '--model', 'pro-synthetic:layers=2,depth=3', '--ids', '1', '--engine', 'reference-cuda'],
    ['generate', '--model', 'pro-synthetic:layers=2', '--prompt', 'hi', '--engine', 'reference-cuda'],
    ['score', '--tokens', '-', '--engine', 'reference-cuda'],
    ['audit', '--model', 'pro-synthetic:layers=2'],
    ['audit', '--model', 'pro-synthetic:layers=2', '--engine', 'reference-cuda'],
    ['verify', '--model', 'pro-synthetic:layers=2', '--engine', 'nano-cpu'],
    ['verify', '--model', 'pro-synthetic:layers=2', '--engine', './engine.mjs'],
  ]) {
    const run = cli(args, {});
    expect([args.join(' '), run.status, run.stderr.split('\n').length]).toEqual([args.join(' '), 2, 2]);
  }
});
