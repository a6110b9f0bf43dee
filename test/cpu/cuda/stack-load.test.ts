/**
 * How experts get into the stack, without a GPU: the host code of `stack-cuda` and the kernels that pack weights are compiled against a stand-in for
 * CUDA (host/cuda_runtime.h), under the address and undefined-behaviour sanitizers, and every element of every expert is read back from
 * its page. What cannot be held must be refused in one line. Compiles stack_load_probe.cpp once per content.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkStack } from '../../../native/cuda.ts';
import { at, COMPILER, contentOf, forHost, ROOT } from './launches.ts';

/** Host code as it stands, and device code whose launches have to be rewritten for a host compiler. */
const HOST = [
  'kernels/weights.cu',
  'kernels/program.cu',
  'native/cuda/stack_source.cpp',
  'native/engine/tensors.cpp',
  'reference/cpu/linear_weights.cpp',
  'test/cpu/cuda/stack_load_probe.cpp',
];
const DEVICE = ['kernels/pack/pack.cu', 'kernels/synthetic/source.cu'];
const HEADERS = ['core', 'kernels', 'native/cuda', 'native/engine', 'reference/cpu', 'test/cpu/cuda/host', 'test/gpu'];

const folder = mkdtempSync(path.join(tmpdir(), 'kilotoken-stack-load-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function build(): string {
  const content = contentOf(HEADERS, [...HOST, ...DEVICE, 'test/cpu/cuda/stack-load.test.ts']);
  const output = at(`build/stack-load-probe/${content}`);
  const file = path.join(output, 'stack_load_probe');
  if (existsSync(file)) return file;
  mkdirSync(output, { recursive: true });
  const rewritten = DEVICE.map((name) => forHost(name, folder, 'launch_on_host'));
  const include = ['test/cpu/cuda/host', '', 'kernels', ...DEVICE.map(path.dirname)].map((name) => `-I${at(name)}`);
  const flags = ['-std=c++20', '-O1', '-w', '-fsanitize=address,undefined', '-fno-sanitize-recover=undefined'];
  const unfinished = `${file}.${process.pid}`; // the rename is atomic, should two runs build at once
  execFileSync(COMPILER, [...flags, ...include, '-x', 'c++', ...HOST.map(at), ...rewritten, '-o', unfinished]);
  renameSync(unfinished, file);
  return file;
}

let program: string;
beforeAll(() => {
  program = build();
}, 600_000);

/** What the probe compared; fails with its findings. */
function probe(...args: string[]): string {
  const run = spawnSync(program, args, {
    cwd: ROOT,
    encoding: 'utf8',
    env: { ...process.env, ASAN_OPTIONS: 'detect_leaks=0' },
  });
  expect(`${run.stdout}${run.stderr}`).toMatch(/(^|\n)\d+ elements compared, 0 findings\n$/);
  expect(run.status).toBe(0);
  return run.stdout;
}

const written = existsSync(at('dist/native/checkpoint/index.js'));
describe.skipIf(!written)(`nano${written ? '' : ', SKIPPED: needs npm run build:ts'}`, () => {
  // Width 64: scales of FP8 for 128 of k and 128 rows cover more than a matrix has.
  test.each(['fp4', 'fp8'])(
    '%s: every element of every expert lies where the kernels look for it',
    { timeout: 120_000 },
    (format) => {
      const spec = path.join(folder, `${format}.spec`);
      execFileSync(process.execPath, ['test/gpu/write-spec.mjs', `checkpoints/nano/${format}`, spec], { cwd: ROOT });
      expect(probe('checkpoint', spec)).toMatch(/^3932160 elements/);
    },
  );
});

test('pro-synthetic slices, MXFP4 and FP8, whole and as ranks of 2 and 4', { timeout: 120_000 }, () => {
  probe('slices');
});

test('every small shape, and every hidden size and width up to 8192 x 16384: held exactly or refused', {
  timeout: 120_000,
}, () => {
  const [held, refused] = /^(\d+) shapes held, (\d+) refused$/m
    .exec(probe('shapes', path.join(folder, 'weights')))!
    .slice(1);
  expect(Number(held)).toBeGreaterThan(1000);
  expect(Number(refused)).toBeGreaterThan(1000);
});

test.each([
  ['mxfp4', 'fp8', null],
  ['fp8-128x128', 'fp8', null],
  ['fp8-128x128+mxfp4', 'fp8', null],
  ['bf16', 'fp8', 'the stack holds MXFP4 and FP8 experts, these are bf16'],
  ['bf16+mxfp4', 'fp8', 'the stack holds MXFP4 and FP8 experts, these are bf16+mxfp4'],
  ['none', 'fp8', 'the stack holds MXFP4 and FP8 experts, these are none'],
  ['fp8-128x128', 'bf16', 'the stack rounds activations to FP8; it has no --activations bf16'],
] as const)('experts %s with activations %s', (experts, activations, refusal) => {
  const check = () => checkStack('stack-cuda', experts, activations);
  if (refusal === null) expect(check).not.toThrow();
  else expect(check).toThrow(expect.objectContaining({ name: 'InputError', message: refusal }));
  expect(() => checkStack('reference-cuda', experts, activations)).not.toThrow();
});
