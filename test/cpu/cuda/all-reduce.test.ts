/**
 * The all-reduce of the stack (kernels/comm/all_reduce.cuh) as it is repeated alone, compiled for the host and run by threads over links
 * that deliver late and out of order: sums are those that both sides compute, ranks in another order and marks that never change are
 * noticed, and a rank that is left alone waits instead of taking what lies there. Timing needs GPUs; this is the logic.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { collectiveRows } from '../../../harness/bench/node/collectives.ts';
import { expectedDigest } from '../../../harness/bench/node/collectives-oracle.ts';
import { CollectiveRow } from '../../../harness/bench/node/rows.ts';
import { sha256 } from '../../../harness/suite/canonical.ts';
import { measureCollectives } from '../../../native/node-collectives.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const HERE = path.join(ROOT, 'test/cpu/cuda');
/** For a hang, not for a slow machine. */
const COMPILING = 600_000;
const FORMS = ['one-hop', 'two-hops'] as const;
const DATA = ['random', 'cancelling'] as const;

const folder = mkdtempSync(path.join(tmpdir(), 'kilotoken-all-reduce-'));
const program = path.join(folder, 'all_reduce_probe');
afterAll(() => rmSync(folder, { recursive: true, force: true }));

beforeAll(() => {
  const sources = [
    path.join(HERE, 'all_reduce_probe.cpp'),
    path.join(ROOT, 'kernels/bench/collectives_sums.cpp'),
    path.join(ROOT, 'kernels/bench/collectives_json.cpp'),
  ];
  // The stand-in for the block of threads comes before the real one.
  const rooms = [`-I${path.join(HERE, 'ranks_on_host')}`, `-I${ROOT}`];
  const flags = ['-std=c++20', '-O1', '-ffp-contract=off', '-pthread', '-Wno-unknown-pragmas'];
  execFileSync(process.env.CXX ?? 'c++', [...flags, ...rooms, ...sources, '-o', program], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}, COMPILING);

const probe = (...args: (string | number)[]): Buffer =>
  execFileSync(program, args.map(String), { maxBuffer: 2 ** 24, timeout: 120_000 });
const said = (...args: (string | number)[]): string =>
  probe(...args)
    .toString()
    .trimEnd();

const cases = [2, 3, 4, 8].flatMap((ranks) =>
  FORMS.flatMap((form) => DATA.map((data) => [ranks, form, data] as const)),
);

describe('samples on their way to the harness', () => {
  const rowsOf = async (lack: string) => {
    const sums = cases
      .filter(([ranks]) => ranks === 2)
      .map(([ranks, form, data]) => {
        const bytes = Uint8Array.from(probe('sums', ranks, form, data));
        return [new Float32Array(bytes.buffer), new Float32Array(bytes.buffer)];
      });
    const measure = async () => ({ samples: said('json', lack), sums });
    return collectiveRows(5, 2, await measureCollectives(measure, 2)).map((row) => CollectiveRow.parse(row));
  };

  it('are rows of the bundle, and their sums those that are expected', async () => {
    const rows = await rowsOf('');
    expect(rows.filter(({ kind }) => kind === 'launch')).toHaveLength(2 * (2 + 2 * 2 * 3));
    expect(rows.filter(({ kind }) => kind === 'planted')).toHaveLength(2);
    expect(rows.find((row) => row.kind === 'nccl' && row.how === 'graph' && row.rank === 1)).toMatchObject({
      version: '2.28.9',
      batch: 200,
      us: [12.5, 12.25],
    });
    const sums = rows.filter((row) => row.kind === 'sums');
    expect(sums).toHaveLength(4);
    for (const row of sums) expect(row.digests).toEqual([expectedDigest(row, 2), expectedDigest(row, 2)]);
  });

  it('say what was not measured, in words that are safe in JSON', async () => {
    const rows = await rowsOf('no "library"\\here');
    expect(rows.filter(({ kind }) => kind === 'nccl')).toEqual([]);
    expect(rows.filter(({ kind }) => kind === 'lack')).toEqual([
      { kind: 'lack', t_ns: 5, gpus: 2, of: 'NCCL', reason: "no 'library''here" },
    ]);
  });
});

describe('the all-reduce on threads of the host', { timeout: COMPILING }, () => {
  it.each(cases)('%i ranks, %s, %s data: the sum in the order of ranks, bit for bit', (ranks, form, data) => {
    expect(said('run', ranks, form, data, 200, 'straight', 1)).toBe(`0 of ${12 * ranks} differ`);
  });

  it.each(cases)('%i ranks, %s, %s data: both sides expect the same', (ranks, form, data) => {
    const due = expectedDigest({ how: form, data, calls: 16 }, ranks);
    expect(sha256(probe('sums', ranks, form, data))).toBe(due);
  });

  it.each(FORMS)('%s: ranks in another order are noticed, but for two', (form) => {
    expect(said('run', 2, form, 'random', 64, 'reversed', 1)).toBe('0 of 24 differ');
    for (const ranks of [3, 4, 8])
      expect(said('run', ranks, form, 'cancelling', 64, 'reversed', 1)).not.toMatch(/^0 of/);
  });

  it.each(FORMS)('%s: who is left alone waits, unless marks never change', (form) => {
    expect(said('alone', form, 1, 8)).toBe(`waited in call ${form === 'one-hop' ? 2 : 1}`);
    expect(said('alone', form, 0, 8)).toBe('went through');
  });
});
