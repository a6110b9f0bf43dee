/**
 * Who is on the GPUs, asked of management libraries of the driver that a test compiles: each generation of its functions, lists that are
 * long, refused or of other spaces of numbers, no library at all. No GPU and no CUDA is needed.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const ADDON = path.join(ROOT, 'build/Release/kilotoken_cuda.node');
const folder = mkdtempSync(path.join(tmpdir(), 'kilotoken-look-'));
const probe = path.join(folder, 'probe');
const stub = (version: number): string => path.join(folder, `stub${version}`);

beforeAll(() => {
  for (const version of [1, 2, 3]) {
    mkdirSync(stub(version));
    const library = path.join(stub(version), 'libnvidia-ml.so.1');
    const source = path.join(ROOT, 'test/cpu/cuda/nvml_stub.c');
    execFileSync(process.env.CC ?? 'cc', ['-shared', '-fPIC', '-w', `-DVERSION=${version}`, source, '-o', library]);
  }
  const driver = path.join(stub(3), 'libcuda.so.1');
  const driverSource = path.join(ROOT, 'test/cpu/cuda/driver_stub.c');
  execFileSync(process.env.CC ?? 'cc', ['-shared', '-fPIC', '-w', driverSource, '-o', driver]);
  const names = ['test/cpu/cuda/gpu_look_probe.cpp', 'native/cuda/gpu_look.cpp', 'native/cuda/gpu_look_cuda.cpp'];
  const sources = names.map((name) => path.join(ROOT, name));
  const includes = [`-I${path.join(ROOT, 'test/cpu/cuda/streams')}`, `-I${ROOT}`];
  execFileSync(process.env.CXX ?? 'c++', ['-std=c++20', '-O1', '-w', ...includes, ...sources, '-o', probe, '-ldl']);
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const FIRST = '00000000:01:00.0';
const SECOND = '00000000:02:00.0';

interface Look {
  readonly gpu: number;
  readonly held: boolean;
  readonly listed: boolean;
  readonly processes: {
    readonly pid: number;
    readonly name: string;
    readonly bytes: number | null;
    readonly own: boolean;
  }[];
  readonly used: number | null;
  readonly unseen: string[];
}

function look(version: number | null, env: Record<string, string>, addresses = [FIRST, SECOND]): Look[] {
  const libraries = version === null ? {} : { LD_LIBRARY_PATH: stub(version) };
  const run = spawnSync(probe, addresses, { encoding: 'utf8', env: { ...process.env, ...libraries, ...env } });
  expect([run.status, run.stderr]).toEqual([0, '']);
  return run.stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Look);
}

describe.each([1, 2, 3])('functions of generation %d', (version) => {
  test('processes that compute and draw, each once, ours known, names where there are any', () => {
    const [first, second] = look(version, {
      STUB_COMPUTE: `0:self:500000000 0:${process.pid}:1073741824 1:4000000:-`,
      STUB_GRAPHICS: `0:${process.pid}:1073741824`,
      STUB_USED: '2000000000',
    });
    expect(first!.processes.filter(({ own }) => own).map(({ bytes }) => bytes)).toEqual([500000000]);
    const others = first!.processes.filter(({ own }) => !own);
    expect(others).toHaveLength(1);
    expect(others[0]).toMatchObject({ pid: process.pid, bytes: 1073741824 });
    expect(others[0]!.name).not.toBe('');
    // No process here has a number as high.
    expect(second!.processes).toEqual([{ pid: 4000000, name: '', bytes: null, own: false }]);
    expect([first!.listed, second!.listed]).toEqual([true, true]);
    if (version > 1) expect([first!.used, first!.unseen]).toEqual([2000000000, []]);
    else expect([first!.used, first!.unseen.join()]).toEqual([null, expect.stringMatching(/^memory in use: /)]);
  });

  test('more processes than there was room for', () => {
    const many = Array.from({ length: 700 }, (_, i) => `0:${5000000 + i}:1000`).join(' ');
    const [first] = look(version, { STUB_COMPUTE: many });
    expect(first!.processes.map(({ pid }) => pid)).toEqual(Array.from({ length: 700 }, (_, i) => 5000000 + i));
  });
});

test('nobody is an empty list, which is not the same as no list', () => {
  expect(look(3, {})).toEqual([
    { gpu: 0, held: false, listed: true, processes: [], used: 0, unseen: [] },
    { gpu: 1, held: false, listed: true, processes: [], used: 0, unseen: [] },
  ]);
});

test.each([
  ['a list that is refused', { STUB_FAIL: 'Compute' }, false, /^processes that compute: Unknown Error$/],
  ['one that is only for displays', { STUB_FAIL: 'Graphics' }, true, /^processes that draw: Unknown Error$/],
  ['memory that is refused', { STUB_FAIL: 'Memory' }, true, /^memory in use: Unknown Error$/],
  ['a library that does not start', { STUB_FAIL: 'nvmlInit' }, false, /library does not start: Unknown Error$/],
])('%s: a reason in one line', (_, env, listed, reason) => {
  const [first] = look(3, env);
  expect(first!.listed).toBe(listed);
  expect(first!.unseen).toHaveLength(1);
  expect(first!.unseen[0]).toMatch(reason);
});

test('the GPUs that CUDA shows, in its order, and on which of them this process is', () => {
  const env = { ADDRESSES: `${SECOND} ${FIRST}`, STUB_COMPUTE: '0:4000000:1', STUB_HELD: '1' };
  const looks = look(3, env, []);
  expect(looks.map(({ gpu, held, processes }) => [gpu, held, processes.map(({ pid }) => pid)])).toEqual([
    [0, false, []],
    [1, true, [4000000]],
  ]);
  const none = spawnSync(probe, [], { encoding: 'utf8', env: { ...process.env, ADDRESSES: 'none' } });
  expect([none.status, none.stdout]).toEqual([0, '']);
});

test('a GPU that the library does not know', () => {
  const [, second] = look(3, {}, [FIRST, '00000000:09:00.0']);
  expect(second).toMatchObject({ gpu: 1, listed: false, used: null });
  expect(second!.unseen[0]).toMatch(/does not know the GPU at 00000000:09:00\.0: Unknown Error/);
});

test('no library', () => {
  const libraries = spawnSync('sh', ['-c', 'ldconfig -p 2>/dev/null | grep -c libnvidia-ml.so.1'])
    .stdout.toString()
    .trim();
  if (libraries !== '0' && libraries !== '') return console.warn('SKIPPED: this machine has the real library');
  const [first] = look(null, {});
  expect(first).toMatchObject({ listed: false, used: null });
  expect(first!.unseen).toEqual(["the driver's management library (libnvidia-ml.so.1) cannot be loaded"]);
});

test.skipIf(!existsSync(ADDON))('the addon answers where no GPU is visible (needs the CUDA addon)', async () => {
  const { gpuLook } = await import('../../../native/gpus.ts');
  const looks = await gpuLook();
  expect(Array.isArray(looks)).toBe(true);
});
