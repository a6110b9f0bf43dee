/**
 * What the host says of GPUs that do not get on together: a rank that fails, that is missing, that never ends. Streams stand in for GPUs
 * (streams/cuda_runtime_api.h); each failure must be one line that names rank, GPU and what was waited for, within the time that is stated.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const folder = mkdtempSync(path.join(tmpdir(), 'kilotoken-ranks-'));
const probe = path.join(folder, 'probe');

beforeAll(() => {
  const sources = ['test/cpu/cuda/ranks_probe.cpp', 'kernels/ranks.cpp'].map((name) => path.join(ROOT, name));
  const includes = [`-I${path.join(ROOT, 'test/cpu/cuda/streams')}`, `-I${ROOT}`];
  execFileSync(process.env.CXX ?? 'c++', ['-std=c++20', '-O1', '-w', ...includes, ...sources, '-o', probe]);
}, 600_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Patience of these tests, in milliseconds: long beside what a busy machine adds to anything. The program has 10 s and 6 s. */
const QUIET = 5000;
const OTHERS = 2500;

interface Rank {
  readonly gpu?: number;
  /** Milliseconds; -1: never. */
  readonly end?: number;
  readonly status?: number;
  /** code, block, instruction */
  readonly fault?: readonly [number, number, number];
}

function wait(ranks: readonly Rank[], more: { readonly alive?: number; readonly gone?: number } = {}) {
  const args = ranks.map(({ gpu, end = 20, status = 0, fault = [0, 0, 0] }, rank) =>
    [gpu ?? rank, end, status, ...fault].join(','),
  );
  const env = { ...process.env, ...(more.gone === undefined ? {} : { GONE: String(more.gone) }) };
  const run = spawnSync(probe, [QUIET, OTHERS, more.alive ?? 0, ...args].map(String), { encoding: 'utf8', env });
  expect([run.status, run.stderr]).toEqual([0, '']);
  const [kind, ms, lost, freed, left, text] = run.stdout.split('\n');
  expect(left).toBe('0');
  expect(freed).toBe(lost === '1' ? '0' : '1');
  return { kind, ms: Number(ms), lost: lost === '1', text };
}

const TRAPPED = 719;
const waitsForPeer: Rank = { status: TRAPPED, fault: [9, 3, 17] };
const waitsForSums: Rank = { status: TRAPPED, fault: [8, 40, 18] };

test('all end: nothing is said, at the pace of the slowest', () => {
  const { ms, ...ended } = wait([{ end: 10 }, { end: 60 }]);
  expect(ended).toEqual({ kind: 'none', lost: false, text: '' });
  expect(ms).toBeGreaterThanOrEqual(60);
});

test('signs of life keep the wait up, however long it takes', () => {
  expect(wait([{ end: QUIET + 200 }, { end: QUIET + 200 }], { alive: QUIET + 200 }).kind).toBe('none');
});

test.each([
  [
    'one of two was never launched, or had ended',
    [waitsForPeer, { end: 0 }],
    'fault 9',
    'rank 1 on GPU 1 was missing: its kernel had ended or was never launched; rank 0 on GPU 0 waited too long, for another GPU (block 3, instruction 17)',
  ],
  [
    'the same where a wait that depends on it ran out first',
    [{ end: 0 }, waitsForSums],
    'fault 8',
    'rank 0 on GPU 0 was missing: its kernel had ended or was never launched; rank 1 on GPU 1 waited too long, for the sums of a linear (block 40, instruction 18)',
  ],
  [
    'one of four failed without a word, on a GPU of another number',
    [
      { ...waitsForPeer, end: 300 },
      { gpu: 6, status: 700 },
      { ...waitsForSums, end: 300 },
      { ...waitsForPeer, end: 300 },
    ],
    'fault 9',
    'rank 1 on GPU 6 failed: an illegal memory access was encountered; rank 0 on GPU 0 and 2 more waited too long, for another GPU (block 3, instruction 17)',
  ],
  [
    'one failed while nobody waited yet',
    [{ end: 60 }, { status: TRAPPED }],
    'fault 0',
    'rank 1 on GPU 1 failed: unspecified launch failure',
  ],
  [
    'an error of one that the driver tells of all: nobody is blamed',
    [{ status: 700 }, { status: 700 }, { end: 0 }, { status: 700 }],
    'fault 0',
    'rank 0 on GPU 0, rank 1 on GPU 1 and rank 3 on GPU 3 failed together: an illegal memory access was encountered; an error of one GPU reaches the others, and which had it cannot be told',
  ],
  [
    'the same where one had it while the other still ran',
    [{ status: TRAPPED, end: 300 }, { status: TRAPPED }],
    'fault 0',
    'rank 1 on GPU 1 failed first: unspecified launch failure',
  ],
  [
    'a wait that ran out ends those that were waited for: they did not fail',
    [{ status: TRAPPED }, waitsForPeer, { status: TRAPPED, end: 21 }],
    'fault 9',
    'rank 1 on GPU 1 waited too long, for another GPU (block 3, instruction 17), while rank 0 on GPU 0 and rank 2 on GPU 2 still ran',
  ],
  [
    'it ends others too where one was missing',
    [{ status: TRAPPED }, { end: 0 }, waitsForSums],
    'fault 8',
    'rank 1 on GPU 1 was missing: its kernel had ended or was never launched; rank 2 on GPU 2 waited too long, for the sums of a linear (block 40, instruction 18)',
  ],
  [
    'what the model did is told before who waited for it',
    [waitsForPeer, { status: TRAPPED, fault: [101, 2, 90] }],
    'fault 101',
    'the model produced a logit that is not a number (rank 1 on GPU 1, block 2, instruction 90)',
  ],
  [
    'all waited: one that waited for something of its own',
    [waitsForPeer, waitsForSums],
    'fault 8',
    'the kernel waited too long for the sums of a linear (rank 1 on GPU 1, block 40, instruction 18)',
  ],
  [
    'all waited for each other',
    [waitsForPeer, waitsForPeer],
    'fault 9',
    'the kernel waited too long for another GPU (rank 0 on GPU 0, block 3, instruction 17)',
  ],
] as [string, Rank[], string, string][])('%s', (_, ranks, kind, text) => {
  const ended = wait(ranks);
  expect(ended).toMatchObject({ kind, text, lost: false });
  expect(ended.ms).toBeLessThan(OTHERS);
});

test('a GPU that can no longer be chosen counts as failed', () => {
  const { text } = wait([{ ...waitsForPeer, end: 300 }, { end: -1 }], { gone: 1 });
  expect(text).toMatch(/^rank 1 on GPU 1 failed: unspecified launch failure; rank 0 on GPU 0 waited too long/);
});

test('one alone: as it always was', () => {
  expect(wait([{ status: TRAPPED, fault: [101, 7, 12] }])).toMatchObject({
    kind: 'fault 101',
    text: 'the model produced a logit that is not a number (rank 0, block 7, instruction 12)',
  });
  expect(wait([{ status: 700 }])).toMatchObject({
    kind: 'error',
    text: 'the kernel: an illegal memory access was encountered',
  });
});

test('a rank that never ends: the others get the time that their own waits take, then it is given up', () => {
  const { ms, lost, kind, text } = wait([waitsForPeer, { end: -1 }]);
  expect({ kind, lost }).toEqual({ kind: 'fault 9', lost: true });
  expect(text).toBe(
    'rank 1 on GPU 1 did not end its kernel, the host waited 2.5 s for it; rank 0 on GPU 0 waited too long, for another GPU (block 3, instruction 17)',
  );
  expect(ms).toBeGreaterThanOrEqual(OTHERS);
  expect(ms).toBeLessThan(QUIET);
});

test('nobody says anything: given up when the host`s own patience ends', () => {
  const { ms, lost, kind, text } = wait([{ end: -1 }, { end: -1 }], { alive: 100 });
  expect({ kind, lost }).toEqual({ kind: 'fault 0', lost: true });
  expect(text).toBe('rank 0 on GPU 0 did not end its kernel, the host waited 5.0 s for it');
  expect(ms).toBeGreaterThanOrEqual(QUIET + 100);
  expect(ms).toBeLessThan(2 * QUIET + 100);
});

/** GPUs 0, 2 and 3 opened to each other, with links as named: what was enabled, and what was said. */
function link(links: string) {
  const run = spawnSync(probe, ['links', '0', '2', '3'], { encoding: 'utf8', env: { ...process.env, LINKS: links } });
  expect([run.status, run.stderr]).toEqual([0, '']);
  const [enabled, left, text] = run.stdout.split('\n');
  expect(left).toBe('0');
  return { enabled, text };
}

test('links: every pair, both ways; one that is open already is no failure', () => {
  expect(link('')).toEqual({ enabled: ' 0>2 0>3 2>0 2>3 3>0 3>2', text: '' });
  expect(link('2>3=704')).toEqual({ enabled: ' 0>2 0>3 2>0 2>3 3>0 3>2', text: '' });
});

test.each([
  ['2>0=-1', 'GPU 2 cannot reach the memory of GPU 0: no peer access'],
  ['3>2=711', 'GPU 3 was refused the memory of GPU 2: peer mapping resources exhausted'],
])('a missing link, %s: both GPUs are named', (links, text) => {
  expect(link(links).text).toBe(text);
});
