/**
 * The programs for a GPU host without Node compile wherever the CUDA engines do; on a machine without a GPU those that read
 * no file say so in one line and exit 3. Skipped aloud where setup found no nvcc. In one test file, because two builds in one folder
 * disturb each other.
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
/** Some fifteen programs for one compiler process on a slow core; what is tested is that they compile, not how fast. */
const COMPILING = 3_600_000;

test.skipIf(!cuda)(
  'every program compiles without a spill; without a GPU those that read no file exit 3 (needs nvcc)',
  { timeout: COMPILING },
  () => {
    execFileSync('cmake', ['--build', BUILD, '--target', 'kilotoken_gpu_tests', 'bench_kernels', 'bench_collectives'], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    for (const [program, ...args] of [
      ['reference_ops'],
      ['reference_standard'],
      ['reference_rows', 'slices'],
      ['reference_parallel', 'local'],
      ['faults', 'trap'],
      ['parallel_faults', 'missing'],
      ['instruction_fetch'],
      ['stack_attention'],
      ['stack_bench'],
      ['stack_experts'],
      ['stack_faults', 'nan'],
      ['stack_layer'],
      ['stack_ops'],
      ['stack_parallel'],
      ['bench_kernels'],
      ['bench_collectives'],
    ]) {
      const run = spawnSync(path.join(BUILD, 'gpu', program!), args, {
        encoding: 'utf8',
        env: { ...process.env, CUDA_VISIBLE_DEVICES: '' },
      });
      expect(`${run.stdout}${run.stderr}`).toMatch(/^error: [^\n]+\n$/);
      expect(run.status).toBe(3);
    }
    // Bytes are counted before anything is made, so this one needs no GPU. 131 GB: experts in FP8 / 8, o_proj and head in BF16 / 8, the embedding whole.
    const needs = execFileSync(path.join(BUILD, 'gpu/reference_parallel'), ['need', '139'], { encoding: 'utf8' });
    expect(needs).toMatch(/fp8 {3}experts, {2}8 ranks: 70 layers; .*weights 131\.1 GB/);
    expect(needs).toMatch(/mxfp4 experts, {2}4 ranks: 70 layers; /);
    expect(needs).toMatch(/fp8 {3}experts, {2}1 ranks: 10 layers; 70 take {3}962\.1 GiB/);
  },
);
