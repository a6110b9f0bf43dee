/**
 * The stack's device code without a GPU: kernels/ as it stands, compiled for the host over a GPU in software (simt/machine.h), where every thread is a fiber, the
 * schedule is drawn from a seed and asynchronous operations are late. The very programs of test/gpu run on it: every operation and whole layers against
 * double, the mistakes planted in them, and nano, decoded. What this cannot see is in machine.h. Compiles once per content, some two minutes of one core.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { at, COMPILER, contentOf, forHost, ROOT, type Rules } from './launches.ts';

const SIMT = 'test/cpu/cuda/simt';

/** Launches in these, and the host's clock, are rewritten. */
const KERNELS = [
  'kernels/persistent/kernel.cu',
  'kernels/pack/pack.cu',
  'kernels/synthetic/source.cu',
  'kernels/stack.cu',
  'kernels/weights.cu',
  'kernels/program.cu',
  'kernels/ranks.cpp',
];
const STACK = [...KERNELS, `${SIMT}/machine.cpp`];
const ENGINE = [
  'native/cuda/stack_source.cpp',
  ...['tensors', 'load', 'model', 'decodable'].map((name) => `native/engine/${name}.cpp`),
  ...['attention_layer', 'decode', 'draft', 'ffn', 'linear_weights', 'sampling', 'target', 'toy'].map(
    (name) => `reference/cpu/${name}.cpp`,
  ),
];
const PROGRAMS: Record<string, string[]> = {
  stack_ops: [
    ...STACK,
    'test/gpu/stack_ops.cu',
    ...['attention', 'experts', 'linear', 'resident', 'residual', 'sampling'].map(
      (name) => `test/gpu/stack_ops/${name}.cu`,
    ),
  ],
  stack_layer: [...STACK, 'test/gpu/stack_layer.cpp', 'test/gpu/stack_layer/layer.cpp'],
  simt_decode: [...STACK, ...ENGINE, 'test/cpu/cuda/simt_decode.cpp'],
  simt_probe: [`${SIMT}/machine.cpp`, 'test/cpu/cuda/simt_probe.cpp'],
};

/** What a host compiler cannot read as CUDA has it, and what must not go by the clock of the machine. */
const RULES: Rules = [
  [
    'kernels/persistent/kernel.cu',
    /extern __shared__ __align__\(128\) uint8_t memory\[\];/,
    'uint8_t* const memory = simt::shared_memory();',
  ],
  // A variable that is declared shared is one of the block's, outside what is asked for at launch; nobody takes its address in shared memory.
  [
    'kernels/persistent/kernel.cu',
    /__shared__ Pass pass;/,
    'static_assert(sizeof(Pass) <= 256);\nPass& pass = *reinterpret_cast<Pass*>(simt::static_memory());',
  ],
  [
    'kernels/persistent/kernel.cu',
    /void\* arguments\[\] = \{&launch\};\s*return cudaLaunchCooperativeKernel\(.*?\);/s,
    'simt_launch([launch] { stack_kernel(launch); }, dim3(blocks), dim3(kThreads), sizeof(Shared), stream);\nreturn cudaGetLastError();',
  ],
  [
    'kernels/persistent/kernel.cu',
    /stack_kernel<<<(.*?)>>>\(launch\);/s,
    'simt_launch([launch] { stack_kernel(launch); }, $1);',
  ],
  ['kernels/ranks.cpp', /using Clock = std::chrono::steady_clock;/, 'using Clock = simt::HostClock;'],
];

const folder = mkdtempSync(path.join(tmpdir(), 'kilotoken-simt-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function compile(output: string): Promise<void> {
  const flags = ['-std=c++20', '-O2', '-w', '-ffp-contract=off', '-include', 'cuda_runtime.h'];
  const include = [SIMT, '', 'kernels', 'test/gpu', 'test/gpu/stack_ops'].map((name) => `-I${at(name)}`);
  const jobs: string[][] = [];
  const objects = new Map<string, string>();
  const add = (name: string, source: string, ...more: string[]) => {
    const object = path.join(folder, `${name.replaceAll(/\W/g, '_')}.o`);
    objects.set(name, object);
    jobs.push([...flags, ...include, `-I${at(path.dirname(name))}`, ...more, '-x', 'c++', '-c', source, '-o', object]);
  };
  for (const name of new Set(Object.values(PROGRAMS).flat())) {
    if (!KERNELS.includes(name)) {
      add(name, at(name));
      continue;
    }
    add(name, forHost(name, folder, 'simt_launch_now', RULES));
  }
  // The CPU engine's row operations, for the instruction sets it chooses from.
  add('reference/cpu/ops_select.cpp', at('reference/cpu/ops_select.cpp'));
  const ops: string[] = [];
  for (const level of ['v3', 'v4']) {
    add(
      `ops ${level}`,
      at('reference/cpu/ops.cpp'),
      `-march=x86-64-${level}`,
      `-DKT_OPS=x86_64_${level}`,
      '-I',
      at('reference/cpu'),
    );
    ops.push(`ops ${level}`);
  }
  const work = async () => {
    for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) {
      const child = spawn(COMPILER, job, { stdio: ['ignore', 'inherit', 'inherit'] });
      const code = await new Promise((done) => child.on('close', done));
      if (code !== 0) throw new Error(`${COMPILER} ${job.join(' ')}`);
    }
  };
  await Promise.all([work(), work()]);
  const link = (name: string, parts: string[]) =>
    execFileSync(COMPILER, [...parts.map((part) => objects.get(part)!), '-o', path.join(output, name), '-pthread']);
  for (const [name, parts] of Object.entries(PROGRAMS))
    link(name, name === 'simt_decode' ? [...parts, 'reference/cpu/ops_select.cpp', ...ops] : parts);
}

/** The folder of the programs. */
async function build(): Promise<string> {
  const sources = [...new Set(Object.values(PROGRAMS).flat()), 'reference/cpu/ops.cpp', 'reference/cpu/ops_select.cpp'];
  const rooms = ['core', 'kernels', 'native', 'reference/cpu', SIMT, 'test/gpu'];
  const output = at(`build/simt/${contentOf(rooms, [...sources, 'test/cpu/cuda/simt.test.ts'])}`);
  if (existsSync(output)) return output;
  const unfinished = `${output}.${process.pid}`; // the rename is atomic, should two runs build at once
  mkdirSync(unfinished, { recursive: true });
  await compile(unfinished);
  if (!existsSync(output)) renameSync(unfinished, output);
  return output;
}

const here = process.platform === 'linux' && process.arch === 'x64';
if (!here) console.warn('SKIPPED: the GPU in software runs on x86-64 and Linux only');

describe.skipIf(!here)('on a GPU in software', () => {
  let programs: string;
  beforeAll(async () => {
    programs = await build();
  }, 900_000);

  const run = (name: string, args: string[], env: Record<string, string> = {}) =>
    spawnSync(path.join(programs, name), args, { cwd: ROOT, encoding: 'utf8', env: { ...process.env, ...env } });

  describe('which notices', () => {
    const probe = (name: string, seed: number) => {
      const { status, stdout, stderr } = run('simt_probe', [name], { KILOTOKEN_SIMT_SEED: String(seed) });
      return { status, text: `${stdout}${stderr}` };
    };
    const SEEDS = [1, 2, 3, 4, 5, 6];
    test.each([
      ['copy', 'sum 896'],
      ['own copy', 'sum 896'],
      ['product', 'sum 4096'],
      ['matrices', 'sum 1024'],
      ['flag', 'sum 128'],
    ])('nothing in a kernel that is right: %s', (name, sum) => {
      for (const seed of SEEDS)
        expect(probe(name, seed)).toEqual({ status: 0, text: `${name}: no error, fault 0 at 0, ${sum}\n` });
    });
    test('a bulk copy that nobody waits for, in some schedule', () => {
      expect(SEEDS.some((seed) => !probe('copy unawaited', seed).text.includes('sum 896'))).toBe(true);
    });
    test.each([
      ['own copy unawaited', /sum 32640/, 0],
      ['product unawaited', /sum nan/, 0],
      ['product overwritten', /sum 2048/, 0],
      ['matrices elsewhere', /a row of a matrix that is not sixteen aligned bytes/, null],
      ['flag untold', /launch failure, fault 7 at 17/, 1],
      ['barrier unread', /launch failure, fault 6 at 5/, 1],
      ['divided warp', /one thread is at .*, another at/, null],
      ['short barrier', /threads wait for others that have ended/, null],
    ])('%s, in every schedule', (name, text, status) => {
      for (const seed of SEEDS) {
        const found = probe(name, seed);
        expect(found.text).toMatch(text);
        expect(found.status).toBe(status);
      }
    });
  });

  test.each([1, 2])('every operation is what double says it is, schedule %i', (seed) => {
    const { status, stdout } = run('stack_ops', ['--small'], { KILOTOKEN_SIMT_SEED: String(seed) });
    expect(stdout).toMatch(/stack ops: \d{6} checks passed, 0 failed\n$/);
    expect(status).toBe(0);
  });

  test('and whoever expects something else is told so', () => {
    const { status, stdout } = run('stack_ops', ['--break', 'all']);
    const [, noticed, all] = /stack ops: (\d+) of (\d+) mistakes noticed\n$/.exec(stdout)!;
    expect(Number(all)).toBeGreaterThan(50);
    expect(noticed).toBe(all);
    expect(status).toBe(0);
  });

  test.each([
    ['small', '--exact'],
    ['--break', 'all'],
  ])('whole layers of a pro-synthetic model by their definition: %s %s', (...args) => {
    const { status, stdout } = run('stack_layer', args, { KILOTOKEN_SIMT_MULTIPROCESSORS: '12' });
    expect(stdout).toMatch(/stack layer: (\d+ checks passed, 0 failed|(\d+) of \2 mistakes noticed)\n$/);
    expect(status).toBe(0);
  });

  const written = existsSync(at('dist/native/checkpoint/index.js'));
  test.skipIf(!written)(
    `nano: speculative decoding writes plain decoding's text, the CPU engine's${written ? '' : ', SKIPPED: needs npm run build:ts'}`,
    () => {
      const spec = path.join(folder, 'nano.spec');
      execFileSync(process.execPath, ['test/gpu/write-spec.mjs', 'checkpoints/nano/fp4', spec], { cwd: ROOT });
      const { status, stdout } = run('simt_decode', [spec, '6'], { KILOTOKEN_SIMT_MULTIPROCESSORS: '12' });
      expect(stdout).toMatch(/^6 tokens in \d rounds\nsimulated stack: 9 checks passed, 0 failed\n$/);
      expect(status).toBe(0);
    },
  );
});
