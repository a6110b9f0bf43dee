/**
 * The all-reduce alone, in a node benchmark on the fake machine: sums in another order, samples and rows that were changed, and what is
 * missing are noticed; bundles that are older than the part are read as they were. The host side of what runs on GPUs
 * (kernels/bench/collectives.cu) and this one must compute the same sums.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type NodeBenchResult, writeNodeReport } from '../../../harness/bench/node/bench.ts';
import { checkNodeBundle } from '../../../harness/bench/node/check.ts';
import { COLLECTIVE_VALUES, collectiveSums, expectedDigest } from '../../../harness/bench/node/collectives-oracle.ts';
import { FAKE_COLLECTIVE_NS } from '../../../harness/bench/node/fake-collectives.ts';
import { readNodeRun } from '../../../harness/bench/node/reader.ts';
import type { NodeReport } from '../../../harness/bench/node/report.ts';
import { type CollectiveRow, NODE_ROW_FILES, type NodeManifest } from '../../../harness/bench/node/rows.ts';
import { sealBundle } from '../../../harness/bundle/tree.ts';
import type { Measured } from '../../../harness/report/schema.ts';
import { sha256 } from '../../../harness/suite/canonical.ts';
import { collectiveTable, parseNodeReport } from '../../../site/src/lib/node.ts';
import { editDocument, rowsOf, rowsText, writeRows } from '../../support/bundle-files.ts';
import { type FakeBench, fakeBench, withFolder } from './support.ts';

const ONLY = { groups: ['collectives' as const] };

function bench<T>(
  fake: FakeBench['fake'],
  use: (result: NodeBenchResult, directory: string) => Promise<T> | T,
): Promise<T> {
  return withFolder(async (folder) => {
    const directory = join(folder, 'run');
    const result = await fakeBench({ directory, options: ONLY, ...(fake === undefined ? {} : { fake }) });
    return use(result, directory);
  });
}

const check = (directory: string) => checkNodeBundle(directory, { publicKey: null, build: null });
const verdict = (report: NodeReport) => report.verdicts.find(({ id }) => id === 'sums')!;
const target = (report: NodeReport) => report.targets.find(({ id }) => id === 'all-reduce')!;

function forgeDigests(directory: string): void {
  const files = NODE_ROW_FILES.map((path) => {
    const text = rowsText(directory, path);
    return { path, sha256: sha256(text), bytes: Buffer.byteLength(text), rows: text.split('\n').length - 1 };
  });
  const path = join(directory, 'manifest.json');
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as NodeManifest;
  writeFileSync(path, `${JSON.stringify({ ...manifest, files }, null, 2)}\n`);
}

/** Changes rows and makes every digest anew; with `anew` the report too. */
async function forged(change: (rows: CollectiveRow[]) => void, anew: boolean): Promise<string[]> {
  return bench({ gpus: 4 }, async (_, directory) => {
    const rows = rowsOf<CollectiveRow>(directory, 'collectives.jsonl');
    change(rows);
    writeRows(directory, 'collectives.jsonl', rows);
    forgeDigests(directory);
    if (anew) await writeNodeReport(directory);
    await sealBundle(directory);
    const { findings } = await check(directory);
    return [...new Set(findings.filter(({ level }) => level === 'difference').map((found) => found.check))];
  });
}

const launchOf = (rows: CollectiveRow[]): Extract<CollectiveRow, { kind: 'launch' }> => {
  const found = rows.find((row) => row.kind === 'launch' && row.arrangement === 'step');
  if (found?.kind !== 'launch') throw new Error('there is no launch');
  return found;
};

describe('sums in the order of ranks', () => {
  // Digests of what kernels/bench/collectives_sums.cpp gives, 16 calls; test/cpu/cuda/all-reduce.test.ts compares both sides themselves.
  it.each([
    [2, 'cancelling', 'one-hop', '904f893a2b88d5af4552a62c041d3c8209caa03e74ddbe6b11947efd9024c162'],
    [2, 'random', 'two-hops', '64acc657aac4a44c8204a131206b868ac98dc852354e95b8d4e22fb2f2e0d8f3'],
    [3, 'cancelling', 'two-hops', '5d9dda18d10e638942663711c29c3c2957fe953018a8a4c6dfd281feb943ad12'],
    [4, 'random', 'one-hop', '4d666c4dfe3ce7bef9f9758fe39afa9584165871af38bf239847c2a78b195edf'],
    [8, 'random', 'two-hops', '90c9c320c62cb308e43d0c373acc965cfe41564e90adf5275187400720e348b1'],
    [8, 'cancelling', 'one-hop', 'd17b1d55696699a0e75021ae540649b5acaeb59dfb1e2fa42580b3b28123d62d'],
  ] as const)('are those of the host side of the bench: %i ranks, %s, %s', (ranks, data, how, digest) => {
    expect(expectedDigest({ how, data, calls: 16 }, ranks)).toBe(`sha256:${digest}`);
  });

  it('have other bits in another order, but for two ranks', () => {
    for (const data of ['random', 'cancelling'] as const) {
      const of = { how: 'one-hop', data, calls: 2 } as const;
      const differing = (ranks: number): number => {
        const order = Array.from({ length: ranks }, (_, rank) => ranks - 1 - rank);
        const [a, b] = [collectiveSums(of, ranks), collectiveSums(of, ranks, order)];
        return a.filter((sum, i) => !Object.is(sum, b[i])).length;
      };
      expect(differing(2)).toBe(0);
      expect(differing(8)).toBeGreaterThan(COLLECTIVE_VALUES / 10);
    }
  });

  it('are others than those of earlier calls, so that one of them is noticed', () => {
    for (const ranks of [2, 8]) {
      const of = (calls: number): Float32Array => collectiveSums({ how: 'two-hops', data: 'random', calls }, ranks);
      const last = of(16);
      for (const calls of [14, 15]) {
        const earlier = of(calls);
        const equal = last.filter((sum, i) => Object.is(sum, earlier[i])).length;
        expect(equal).toBeLessThan(COLLECTIVE_VALUES / 100);
      }
    }
  });

  it('cancel where they are said to', () => {
    const sums = collectiveSums({ how: 'two-hops', data: 'cancelling', calls: 1 }, 8);
    expect(Math.max(...sums.map(Math.abs))).toBeLessThan(9);
  });
});

describe('on four GPUs', () => {
  it('all kinds are measured on two and four, and the bundle is intact without a model', async () => {
    await bench({ gpus: 4 }, async ({ report, exitCode }, directory) => {
      expect(exitCode).toBe(0);
      expect(report.models).toEqual([]);
      expect(report.run.title).toBe('Node benchmark (collectives) on 4 x Fake GPU');
      expect(verdict(report).outcome).toBe('consistent');
      expect(verdict(report).n).toBe(4 * (2 + 4));
      expect(verdict(report).wouldHaveCaught).toMatch(/ranks added in another order/);
      expect((await check(directory)).findings).toEqual([]);
      const { rows, exposed, lacks } = report.collectives!;
      expect(rows).toHaveLength(2 * (1 + 8 + 2));
      expect(lacks).toEqual([]);
      const { twoHops, eachGpu, meeting } = FAKE_COLLECTIVE_NS;
      const row = rows.find(({ id }) => id === 'collectives/4/two-hops/step/8')!;
      expect(row.medianUs).toBeCloseTo((twoHops + 4 * eachGpu + meeting) / 1e3, 1);
      expect(row.p5Us).toBeLessThan(row.medianUs);
      expect(row.p95Us).toBeGreaterThan(row.medianUs);
      expect(row.rankMediansUs).toHaveLength(4);
      const figure = (id: string): Measured & { state: 'measured' } => {
        const found = exposed.find((each) => each.id === id)!.figure;
        if (found.state !== 'measured') throw new Error(found.reason);
        return found;
      };
      expect(figure('exposed-4-two-hops').value).toBeCloseTo((twoHops + 4 * eachGpu) / 1e3, 1);
      expect(figure('exposed-4-two-hops').interval).not.toBeNull();
      expect(figure('nccl-4-two-hops').value).toBeCloseTo(12.1 / figure('exposed-4-two-hops').value, 1);
      // What is measured on fewer than eight reaches nothing, and stands beside.
      expect(target(report).outcome).toBe('not yet measured');
      expect(target(report).figure).toMatchObject({
        reason: expect.stringMatching(
          /^not yet measured on 8 x H200: on 2 x Fake GPU it is 3\.\d\d us, on 4 x Fake GPU it is 3\.\d\d us$/,
        ),
      });
      expect(exposed[0]!.labels).toEqual(['2 of 8 GPUs']);
    });
  });

  it('runs behind every stage', async () => {
    await withFolder(async (folder) => {
      const directory = join(folder, 'run');
      await fakeBench({ directory, options: { groups: ['headline', 'collectives'] } });
      const { collectives, generations } = await readNodeRun(directory);
      const last = generations.at(-1)!.row;
      expect(collectives[0]!.t_ns).toBeGreaterThanOrEqual(last.t_ns + last.prefillNs + last.decodeNs);
    });
  });

  it('has a table on the page', async () => {
    await bench({ gpus: 4 }, (_, directory) => {
      const report = parseNodeReport(readFileSync(join(directory, 'report.json'), 'utf8'), 'report.json');
      const table = collectiveTable(report.collectives!);
      expect(table.groups.map(({ title }) => title)).toEqual(['2 GPUs', '4 GPUs']);
      expect(table.groups[1]!.rows.map(({ head }) => head)).toContain('NCCL 2.28.9, 8 rows');
      expect(JSON.stringify(table)).toContain('4 of 8 GPUs');
    });
  });
});

it('on eight H200 the target is held against the form in which the stack decodes', async () => {
  await bench({ gpus: 8, name: 'NVIDIA H200' }, ({ report }) => {
    const { twoHops, eachGpu } = FAKE_COLLECTIVE_NS;
    const { figure, outcome } = target(report);
    expect((figure as { value: number }).value).toBeCloseTo((twoHops + 8 * eachGpu) / 1e3, 1);
    expect(outcome).toBe('must reached');
  });
  await bench({ gpus: 8, name: 'NVIDIA H100' }, ({ report }) =>
    expect(target(report).outcome).toBe('not yet measured'),
  );
});

describe('what is wrong', () => {
  it('a rank that adds in another order is refuted', async () => {
    await bench({ gpus: 4, fault: { kind: 'collectives', reversed: 2 } }, async ({ report, exitCode }, directory) => {
      expect(exitCode).toBe(1);
      expect(verdict(report)).toMatchObject({
        outcome: 'refuted',
        evidence: '4 GPUs, one hop, random data: rank 2 does not hold the binary32 sums in the order of ranks',
      });
      // The bundle says so itself: it is what was measured.
      expect((await check(directory)).findings).toEqual([]);
    });
  });

  it('sums that the machine itself finds wrong are refuted, with no times behind them', async () => {
    const wrong = 'two-hops, step, 8 rows, rank 1: 3 sums are wrong';
    await bench({ gpus: 4, fault: { kind: 'collectives', wrong } }, async ({ report, exitCode }, directory) => {
      expect(exitCode).toBe(1);
      expect(verdict(report)).toMatchObject({ outcome: 'refuted', evidence: `2 GPUs, ${wrong}` });
      expect(report.collectives!.exposed[0]!.figure).toEqual({ state: 'not yet measured', reason: wrong });
      expect((await check(directory)).findings).toEqual([]);
    });
  });

  it('a GPU that faults here takes nothing away from what was measured before', async () => {
    await withFolder(async (folder) => {
      const directory = join(folder, 'run');
      const message = 'GPU 1, block 3 waited too long for another GPU in call 12';
      const { report, status, exitCode } = await fakeBench({
        directory,
        fake: { gpus: 4, fault: { kind: 'collectives', faults: message } },
        options: { groups: ['headline', 'collectives'] },
      });
      expect({ status, exitCode }).toEqual({ status: 'complete', exitCode: 4 });
      expect(verdict(report)).toMatchObject({ outcome: 'inconclusive', evidence: message });
      expect(report.cells.filter(({ group }) => group === 'headline')).toHaveLength(4);
      expect(rowsOf<CollectiveRow>(directory, 'collectives.jsonl')).toHaveLength(1);
      expect((await check(directory)).findings).toEqual([]);
    });
  });

  it('a comparison that misses a mistake made on purpose proves nothing', async () => {
    await bench({ gpus: 4, fault: { kind: 'collectives', unseenMistake: true } }, ({ report, exitCode }) => {
      expect(exitCode).toBe(4);
      expect(verdict(report).evidence).toMatch(/did not see a mistake made on purpose: marks of the use before/);
    });
  });

  it('what the machine lacks is named, and the rest stands', async () => {
    await bench(
      { gpus: 2, fault: { kind: 'collectives', noNccl: 'libnccl.so.2: not found' } },
      async ({ report, exitCode }, directory) => {
        expect(exitCode).toBe(0);
        expect(report.collectives!.lacks).toEqual([{ gpus: 2, what: 'NCCL', reason: 'libnccl.so.2: not found' }]);
        const ratio = report.collectives!.exposed.find(({ id }) => id === 'nccl-2-two-hops')!.figure;
        expect(ratio).toEqual({ state: 'not yet measured', reason: 'libnccl.so.2: not found' });
        expect((await check(directory)).findings).toEqual([]);
      },
    );
    await bench({ gpus: 2, fault: { kind: 'collectives', lack: 'no link' } }, async ({ report }, directory) => {
      expect(verdict(report)).toMatchObject({ outcome: 'not testable here', evidence: 'no link' });
      expect(report.collectives!.exposed[0]!.figure).toEqual({ state: 'not yet measured', reason: 'no link' });
      expect((await check(directory)).findings).toEqual([]);
    });
    await bench({ gpus: 2, collectives: false }, ({ report }) => {
      expect(report.collectives).toBeUndefined();
      expect(target(report).figure).toMatchObject({ reason: 'this build measures no collectives' });
    });
  });

  it('one changed sample is noticed, with every digest of rows made anew', async () => {
    const changed = (by: (cycles: number) => number, anew: boolean): Promise<string[]> =>
      forged((rows) => {
        const { cycles } = launchOf(rows);
        cycles[17] = by(cycles[17]!);
      }, anew);
    expect(await changed((cycles) => cycles + 1, false)).toEqual(['documents']);
    // With the report made anew too, as far as the clocks contradict it.
    expect(await changed((cycles) => cycles * 100, true)).toEqual(['books']);
    expect(await changed((cycles) => cycles, false)).toEqual([]);
  });

  it('dropped rows, ranks and launches do not add up', async () => {
    const dropped = (is: (row: CollectiveRow) => boolean): Promise<string[]> =>
      forged((rows) => {
        const kept = rows.filter((row) => !is(row));
        expect(kept.length).toBeLessThan(rows.length);
        rows.splice(0, rows.length, ...kept);
      }, true);
    expect(await dropped((row) => row.kind === 'launch' && row.rank === 1)).toEqual(['books']);
    expect(await dropped((row) => row.kind === 'launch' && row.how === 'none')).toEqual(['books']);
    expect(
      await dropped((row) => row.kind === 'launch' && row.gpus === 4 && row.launch === 1 && row.rank === 3),
    ).toEqual(['books']);
    expect(await dropped((row) => row.kind === 'sums' && row.data === 'cancelling')).toEqual(['books']);
    expect(await dropped((row) => row.gpus === 2)).toEqual(['books']);
    const faster = await forged((rows) => {
      launchOf(rows).slowestNs /= 2;
    }, true);
    expect(faster).toEqual(['books']);
  });

  it('a file that is taken away is missed, unless the plan has no such part', async () => {
    const take = async (directory: string): Promise<void> => {
      rmSync(join(directory, 'collectives.jsonl.gz'));
      editDocument<NodeManifest>(directory, 'manifest.json', (manifest) => {
        manifest.files = manifest.files.filter(({ path }) => path !== 'collectives.jsonl');
      });
      await sealBundle(directory);
    };
    await bench({ gpus: 4 }, async (_, directory) => {
      await take(directory);
      expect((await check(directory)).findings.map(({ text }) => text).join()).toMatch(/lacks collectives\.jsonl/);
    });
    await withFolder(async (folder) => {
      const directory = join(folder, 'run');
      await fakeBench({ directory, options: { groups: ['headline'] } });
      await take(directory);
      expect((await check(directory)).findings).toEqual([]);
      // But one that the manifest names is missed there too.
      const path = join(directory, 'manifest.json');
      const manifest = JSON.parse(readFileSync(path, 'utf8')) as NodeManifest;
      manifest.files.push({ path: 'collectives.jsonl', sha256: sha256(''), bytes: 0, rows: 0 });
      writeFileSync(path, `${JSON.stringify(manifest, null, 2)}\n`);
      await sealBundle(directory);
      expect((await check(directory)).findings.map(({ text }) => text).join()).toMatch(/lacks collectives\.jsonl/);
    });
  });
});
