/** `bench_kernels`, the bench for a machine without Node, compiles wherever the CUDA engines do; without a GPU it says so in one line and exits 3. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const BUILD = fileURLToPath(new URL('../../../build', import.meta.url));
const cache = path.join(BUILD, 'CMakeCache.txt');
const cuda =
  existsSync(path.join(BUILD, 'Release/kilotoken_cuda.node')) &&
  existsSync(cache) &&
  /^CMAKE_CUDA_COMPILER:/m.test(readFileSync(cache, 'utf8'));

test.skipIf(!cuda)('compiles, and without a GPU exits 3 (needs nvcc)', { timeout: 600_000 }, () => {
  execFileSync('cmake', ['--build', BUILD, '--target', 'bench_kernels'], { stdio: ['ignore', 'ignore', 'inherit'] });
  const run = spawnSync(path.join(BUILD, 'gpu/bench_kernels'), [], {
    encoding: 'utf8',
    env: { ...process.env, CUDA_VISIBLE_DEVICES: '' },
  });
  expect(`${run.stdout}${run.stderr}`).toMatch(/^error: [^\n]+\n$/);
  expect(run.status).toBe(3);
});
