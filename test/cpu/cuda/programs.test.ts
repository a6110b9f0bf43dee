/**
 * The GPU test programs compile wherever the CUDA engines do, and on a machine without a GPU each says so in one line and exits 3. Skipped
 * aloud where setup found no nvcc.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const BUILD = path.join(ROOT, 'build');
const cache = path.join(BUILD, 'CMakeCache.txt');
const cuda =
  existsSync(path.join(BUILD, 'Release/kilotoken_cuda.node')) &&
  existsSync(cache) &&
  /^CMAKE_CUDA_COMPILER:/m.test(readFileSync(cache, 'utf8'));

test.skipIf(!cuda)(
  'every program compiles without a spill; without a GPU it exits 3 (needs nvcc)',
  { timeout: 600_000 },
  () => {
    execFileSync('cmake', ['--build', BUILD, '--target', 'kilotoken_gpu_tests'], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    for (const [program, ...args] of [
      ['reference_ops'],
      ['reference_standard'],
      ['reference_rows', 'slices'],
      ['reference_parallel', 'local'],
      ['faults', 'trap'],
    ]) {
      const run = spawnSync(path.join(BUILD, 'gpu', program!), args, {
        encoding: 'utf8',
        env: { ...process.env, CUDA_VISIBLE_DEVICES: '' },
      });
      expect(`${run.stdout}${run.stderr}`).toMatch(/^error: [^\n]+\n$/);
      expect(run.status).toBe(3);
    }
  },
);
