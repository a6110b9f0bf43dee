/**
 * The plain reference over several ranks, by its C++ programs on a Hopper GPU: ops against double and against the one-GPU engine, ranks of a
 * small shape on one GPU, the true shape on one GPU, two processes on two. Several GPUs: `build/gpu/reference_parallel check 2`. Without the programs or a GPU
 * every test here is skipped, and counted as skipped.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { gpuReport } from '../../native/engines.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const PROGRAMS = path.join(ROOT, 'build/gpu');

/** Why nothing can run here, or null. */
function lack(): string | null {
  if (!existsSync(path.join(ROOT, 'build/Release/kilotoken_cuda.node'))) return 'the CUDA engines are not built';
  if (!existsSync(path.join(PROGRAMS, 'reference_parallel'))) return 'npm run build:cuda was not run';
  return gpuReport().lack || null;
}
const missing = lack();

function gpuCount(): number {
  const listed = spawnSync('nvidia-smi', ['--list-gpus'], { encoding: 'utf8' });
  return listed.status === 0 ? listed.stdout.trim().split('\n').length : 0;
}

describe.skipIf(missing !== null)(
  `the plain reference over ranks, ${missing === null ? 'on this GPU' : `SKIPPED: ${missing}`}`,
  () => {
    test.each([
      ['reference_standard', []],
      ['reference_parallel', ['local']],
      ['reference_parallel', ['check', '1']],
    ] as const)('%s %j', { timeout: 300_000 }, (program, args) => {
      const run = spawnSync(path.join(PROGRAMS, program), args, { encoding: 'utf8' });
      expect(`${run.stdout}${run.stderr}`).toMatch(/: \d+ checks passed, 0 failed\n$/);
      expect(run.status).toBe(0);
    });

    test.skipIf(gpuCount() < 2)(
      'two processes meet, decode, and end when one is killed (needs two GPUs)',
      { timeout: 300_000 },
      () => {
        const run = spawnSync(path.join(ROOT, 'test/gpu/reference_ranks.sh'), [PROGRAMS], { encoding: 'utf8' });
        expect(run.stdout).not.toContain('FAILED');
        expect(run.status).toBe(0);
      },
    );
  },
);
