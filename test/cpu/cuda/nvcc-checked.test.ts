/** The compiler launcher of the CUDA build: what ptxas only mentions must fail, everything else must pass through. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const SCRIPT = fileURLToPath(new URL('../../../scripts/nvcc-checked.sh', import.meta.url));
const FINE = '    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads';

/** A compiler that prints `lines` and exits with `code`. */
function compile(lines: readonly string[], code = 0) {
  return spawnSync(SCRIPT, ['sh', '-c', `printf '%s\\n' "$@" >&2; exit ${code}`, 'compiler', ...lines], {
    encoding: 'utf8',
  });
}

test('a clean compilation passes and says nothing', () => {
  const run = compile([
    "ptxas info    : Compiling entry function 'f' for 'sm_90a'",
    FINE,
    'ptxas info    : Used 40 registers',
  ]);
  expect([run.status, run.stdout]).toEqual([0, '']);
});

test('warnings of other kinds are shown and pass', () => {
  const run = compile(['file.cu(3): warning #177-D: variable declared but never referenced', FINE]);
  expect([run.status, run.stdout]).toEqual([0, 'file.cu(3): warning #177-D: variable declared but never referenced\n']);
});

test.each([
  ['spilled stores', '    24 bytes stack frame, 24 bytes spill stores, 0 bytes spill loads'],
  ['spilled loads', '    8 bytes stack frame, 0 bytes spill stores, 12 bytes spill loads'],
  [
    'tensor core instructions made serial',
    'ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized',
  ],
  ['the same by another number', 'ptxas warning : C7520 wgmma serialized'],
])('%s fail the build', (_, line) => {
  const run = compile([FINE, line, FINE]);
  expect(run.status).toBe(1);
  expect(run.stdout).toContain(line);
  expect(run.stdout).toMatch(/^error: ptxas spills/m);
});

test("the compiler's own failure passes through with its text", () => {
  const run = compile(['file.cu(3): error: expected a ";"'], 2);
  expect([run.status, run.stdout]).toEqual([2, 'file.cu(3): error: expected a ";"\n']);
});
