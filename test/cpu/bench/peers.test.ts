/**
 * The peers' Python that needs no GPU and no PyTorch: where Marlin's kernel finds every weight and scale, what a wrong library is answered, and
 * that the rows it would write are accepted. The kernel's reading is done again here from its source (widening of eight codes, columns of its
 * fragments) and PTX's layout of mma.m16n8k16's B fragment. No library was run: that needs a GPU.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readPeers } from '../../../harness/bench/kernels-check.ts';
import { deriveFigures } from '../../../harness/bench/kernels-figures.ts';
import type { PeerRow } from '../../../harness/bench/kernels-schema.ts';
import { sampleRaw } from '../../support/bench-kernels.ts';

const PEERS = join(import.meta.dirname, '../../../peers');

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-peers-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** What Python prints as JSON, with the peers' folder on its path. */
function python<T>(code: string): T {
  const script = `import json, sys\nsys.path.insert(0, ${JSON.stringify(PEERS)})\n${code}`;
  const { status, stdout, stderr } = spawnSync('python3', ['-B', '-c', script], { encoding: 'utf8' });
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return JSON.parse(stdout) as T;
}

/** Small numbers that repeat late: a linear congruence's high bits. */
function codes(count: number): number[] {
  let state = 12_345;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state >>> 28;
  });
}

/** The kernel's two B fragments of one word: [fragment][register][half], each a code less 8. */
function widened(word: number): number[][][] {
  return [word, word >>> 8].map((q) =>
    [q & 0x000f000f, (q & 0x00f000f0) >>> 4].map((pair) => [(pair & 0xffff) - 8, (pair >>> 16) - 8]),
  );
}

/** PTX ISA, mma.m16n8k16: k and n of a lane's B register and half. */
const fragmentK = (lane: number, register: number, half: number) => (lane % 4) * 2 + half + 8 * register;
const fragmentN = (lane: number) => Math.floor(lane / 4);

/** A tile [16 k][64 rows] as the kernel reads 128 words: a lane's sixteen bytes are words 4 lane and on, word j for outputs 16 j to 16 j + 15. */
function readTile(words: readonly number[]): number[][] {
  const tile = Array.from({ length: 16 }, () => new Array<number>(64).fill(Number.NaN));
  for (let lane = 0; lane < 32; lane += 1) {
    for (let j = 0; j < 4; j += 1) {
      widened(words[4 * lane + j]!).forEach((registers, fragment) => {
        registers.forEach((halves, register) => {
          halves.forEach((value, half) => {
            tile[fragmentK(lane, register, half)]![16 * j + 8 * fragment + fragmentN(lane)] = value;
          });
        });
      });
    }
  }
  return tile;
}

describe('the layout of Marlin', () => {
  test('a packed tile is read as it was', () => {
    const order = python<number[]>('import marlin; print(json.dumps(marlin.tile_order()))');
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1024 }, (_, i) => i));
    const tile = codes(1024);
    const words = Array.from({ length: 128 }, (_, word) =>
      Array.from({ length: 8 }, (__, nibble) => tile[order[8 * word + nibble]!]! * 16 ** nibble).reduce(
        (a, b) => a + b,
      ),
    );
    expect(readTile(words).flat()).toEqual(tile.map((code) => code - 8));
  });

  test("every fragment's column gets its own scale", () => {
    const order = python<number[]>('import marlin; print(json.dumps(marlin.scale_order()))');
    for (let lane = 0; lane < 32; lane += 1) {
      for (let fragment = 0; fragment < 8; fragment += 1) {
        // A lane reads sixteen bytes, at lane / 4; half 2 j + b of them is for fragment b of word j.
        expect(order[8 * fragmentN(lane) + fragment]).toBe(8 * fragment + fragmentN(lane));
      }
    }
  });

  const torch = spawnSync('python3', ['-c', 'import torch']).status === 0;
  test.skipIf(!torch)('a whole matrix is packed tile by tile (skipped: python3 has no PyTorch)', () => {
    const [rows, k] = [128, 48];
    const matrix = codes(rows * k);
    writeFileSync(join(scratch, 'codes.json'), JSON.stringify(matrix));
    const packed = python<number[][]>(`
import torch
from library_peers import pack_codes
codes = torch.tensor(json.load(open(${JSON.stringify(join(scratch, 'codes.json'))})), dtype=torch.uint8).view(${rows}, ${k})
print(json.dumps(pack_codes(codes).tolist()))`);
    expect(packed.map((row) => row.length)).toEqual([256, 256, 256]);
    for (let row = 0; row < rows; row += 64) {
      for (let at = 0; at < k; at += 16) {
        const words = packed[at / 16]!.slice(row * 2, row * 2 + 128).map((word) => word >>> 0);
        const expected = Array.from(
          { length: 16 * 64 },
          (_, i) => matrix[(row + (i % 64)) * k + at + Math.floor(i / 64)]! - 8,
        );
        expect(readTile(words).flat()).toEqual(expected);
      }
    }
  });

  test('bytes: half a byte a weight and two for each 128, of rows as padded', () => {
    const sizes = python<number[]>(
      'import marlin; print(json.dumps([marlin.padded(3392), marlin.padded(6144), marlin.stored_bytes(3456, 6144)]))',
    );
    expect(sizes).toEqual([3456, 6144, 3456 * 6144 * (4.125 / 8)]);
  });
});

describe('rows of the document', () => {
  const written = () => {
    const rows = python<Partial<PeerRow>[]>(`
import marlin
print(json.dumps([marlin.linear_fields("qkv", 3392, 6144, 8), marlin.linear_fields("o", 6144, 2048, 8), marlin.pair_fields(8, 60, 256, 6144)]))`);
    const measured = { mode: 'graph', copies: 20, error: 1e-3, errorBound: 2e-3, us: [1, 1, 1] };
    return { ...sampleRaw().peers!, rows: rows.map((row) => ({ ...row, ...measured })) };
  };

  test('are accepted', () => {
    expect(readPeers(written()).rows.map(({ weights, bytes }) => [weights, bytes])).toEqual([
      ['int4', 3456 * 6144 * (4.125 / 8)],
      ['int4', 6144 * 2048 * (4.125 / 8)],
      ['int4', 60 * 3 * 256 * 6144 * (4.125 / 8)],
    ]);
  });

  test.each(['fp8', 'mxfp4'] as const)(
    'stand in the list and not beside an operation in %s: INT4 is narrower',
    (weights) => {
      const raw = { ...sampleRaw(), peers: readPeers(written()) };
      const operation = raw.operations[0]!;
      raw.operations = [
        { ...operation, weights },
        { ...operation, op: 'expert-pair', experts: 60, weights },
      ];
      const figures = deriveFigures(raw);
      expect(figures.operations.map(({ peer }) => peer)).toEqual([null, null]);
      expect(figures.peers).toHaveLength(3);
    },
  );
});

describe("a library that is not the project's own", () => {
  test('is named as what it is', () => {
    const names = python<string[]>(`
import marlin
print(json.dumps([marlin.linear_fields("qkv", 3392, 6144, 8, "no hint")["peer"], marlin.pair_fields(8, 60, 256, 6144, "no hint")["peer"]]))`);
    expect(names).toEqual([
      'Marlin INT4, groups of 128, FP16 inputs, no hint, rows padded to 3456',
      'Marlin INT4, groups of 128, FP16 inputs, no hint, one dense call an expert and product',
    ]);
  });
});

describe('a family of peers that ends early', () => {
  test('keeps its rows, and what it said last is the reason', () => {
    writeFileSync(
      join(scratch, 'dies.py'),
      `import sys
open(sys.argv[1], "a").write('{"row": {"matrix": "o"}}\\n')
print("Traceback", file=sys.stderr)
print("RuntimeError:  an illegal\\tinstruction\\n", file=sys.stderr)
sys.exit(3)
`,
    );
    writeFileSync(join(scratch, 'silent.py'), 'import os\nos._exit(4)\n');
    const ended = python<unknown>(`
import io, pathlib, run
run.HERE = pathlib.Path(${JSON.stringify(scratch)})
sys.stderr = io.StringIO()
ended = [run.run_family("dies.py", 5.0), run.run_family("silent.py", 5.0)]
assert "Traceback" in sys.stderr.getvalue()
print(json.dumps(ended))`);
    expect(ended).toEqual([
      [
        [{ matrix: 'o' }],
        [{ peer: 'dies.py', why: 'the process ended with status 3: RuntimeError: an illegal instruction' }],
      ],
      [[], [{ peer: 'silent.py', why: 'the process ended with status 4: it said nothing' }]],
    ]);
  });

  // A module in PyTorch's place whose GPU is lost once a kernel has failed.
  const lost = (failsIn: 'make' | 'samples') =>
    python<{ lost: boolean; lines: { leftOut: { why: string; mode?: string } }[] }>(`
import types
state = {"broken": False}
def synchronize():
    if state["broken"]:
        raise RuntimeError("CUDA error: an illegal instruction was encountered\\nSearch for it")
torch = types.ModuleType("torch")
torch.Tensor, torch.cuda = object, types.SimpleNamespace(synchronize=synchronize)
sys.modules["torch"] = torch
import measure
measure.relative_l2 = lambda actual, expected: 0.0
def make():
    state["broken"] = ${failsIn === 'make' ? 'True' : 'False'}
    return [], None, None
def samples(copies):
    state["broken"] = True
    raise RuntimeError("a graph")
path = ${JSON.stringify(join(scratch, 'rows'))} + "-${failsIn}.jsonl"
record, lost = measure.Record(path, 100.0), False
try:
    measure.try_peer(record, {"graph": samples}, {"peer": "one", "matrix": "qkv", "m": 1}, make, 1e-3)
except measure.DeviceLost:
    lost = True
print(json.dumps({"lost": lost, "lines": [json.loads(line) for line in open(path)]}))`);

  test.each([
    ['make', 'RuntimeError: CUDA error: an illegal instruction was encountered Search for it'],
    ['samples', 'RuntimeError: a graph'],
  ] as const)(
    "says a kernel's own error where it is first seen, and stops when the GPU is lost: %s",
    (failsIn, why) => {
      expect(lost(failsIn)).toEqual({
        lost: true,
        lines: [
          { leftOut: { peer: 'one', matrix: 'qkv', m: 1, mode: 'graph', why } },
          {
            leftOut: {
              peer: 'one',
              matrix: 'qkv',
              m: 1,
              why: 'the GPU was lost to this process (CUDA error: an illegal instruction was encountered Search for it): nothing behind this was tried',
            },
          },
        ],
      });
    },
  );
});

describe('what a user names', () => {
  test('is refused in one line, before anything runs, when it is not what it should be', () => {
    const text = join(scratch, 'text.so');
    writeFileSync(text, 'not a library\n');
    for (const [option, named, message] of [
      ['--marlin', join(scratch, 'missing.so'), /^peers: \S+missing\.so is no library that can be loaded: [^\n]+\n$/],
      ['--marlin', text, /^peers: \S+text\.so is no library that can be loaded: [^\n]+\n$/],
      ['--marlin', 'libm.so.6', /^peers: libm\.so\.6 has no function marlin_cuda\n$/],
      ['--humming', scratch, /^peers: \S+ holds no package humming \(humming\/layer\.py\)\n$/],
    ] as const) {
      const out = join(scratch, 'peers.json');
      const finished = spawnSync('python3', ['-B', join(PEERS, 'run.py'), '--out', out, option, named], {
        encoding: 'utf8',
      });
      expect(finished.stderr).toMatch(message);
      expect(finished).toMatchObject({ status: 2, stdout: '' });
    }
  });
});
