/**
 * A record to which runs are added: whatever is published is found, and judged again from its rows alone, each part of the node
 * benchmark in a bundle of its own among it.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { publishKernels } from '../../../harness/bench/kernels-publish.ts';
import { judgeNodeDirectory } from '../../../harness/bench/node/bench.ts';
import type { Group } from '../../../harness/bench/node/plan.ts';
import { publishNodeRun } from '../../../harness/bench/node/publish.ts';
import { checkEntry, entriesOf, type RecordEntry } from '../../../harness/bench/record.ts';
import { sealBundle } from '../../../harness/bundle/tree.ts';
import { sampleBench } from '../../support/bench-kernels.ts';
import { fakeBench, withFolder } from '../node/support.ts';

const judged = (record: string): Promise<RecordEntry[]> =>
  Promise.all(entriesOf(record).map((entry) => checkEntry(record, entry)));

test('parts in bundles of their own are published, judged, and refused twice', async () => {
  await withFolder(async (folder) => {
    const record = join(folder, 'record');
    const parts: (readonly Group[])[] = [
      ['headline'],
      ['context', 'block', 'routing'],
      ['gpus', 'layers'],
      ['collectives'],
    ];
    for (const [i, groups] of parts.entries()) {
      const directory = join(folder, `run-${i}`);
      const about = { id: `part-${i}`, commit: 'c0ffee0' };
      const { report } = await fakeBench({ directory, about, options: { groups: [...groups] } });
      expect(report.run.title).toContain(`(${groups.join(', ')})`);
      await publishNodeRun(directory, record);
      await expect(publishNodeRun(directory, record)).rejects.toThrow(/append-only/);
    }
    const document = join(folder, 'kernels.json');
    writeFileSync(document, JSON.stringify(sampleBench()));
    expect(publishKernels(document, record)).toBe(join(record, 'bench', '20260101T000000Z-0000000.json'));
    expect(() => publishKernels(document, record)).toThrow(/append-only/);
    expect((await judged(record)).map(({ path, kind, outcome, findings }) => [path, kind, outcome, findings])).toEqual([
      ...parts.map((_, i) => [join('node', `part-${i}`), 'node benchmark', 'intact', []]),
      [join('bench', '20260101T000000Z-0000000.json'), 'kernel bench', 'intact', []],
    ]);

    // One figure of a report, sealed anew; one sample of a kernel bench; a folder that cannot be read; a manifest that is gone.
    const report = join(record, 'node', 'part-1', 'report.json');
    writeFileSync(
      report,
      readFileSync(report, 'utf8').replace(/("id": "tokens-per-second"[^{]*{[^}]*"value": )[0-9]/, '$19'),
    );
    await sealBundle(join(record, 'node', 'part-1'));
    const changed = sampleBench();
    changed.raw.operations[0]!.spanUs[0]! += 1;
    writeFileSync(join(record, 'bench', '20260101T000000Z-0000000.json'), JSON.stringify(changed));
    mkdirSync(join(record, 'broken'));
    writeFileSync(join(record, 'broken', 'manifest.json'), '{');
    rmSync(join(record, 'node', 'part-2', 'manifest.json'));
    const found = await judged(record);
    expect(found.filter(({ outcome }) => outcome !== 'intact').map(({ path }) => path)).toEqual([
      'broken',
      join('node', 'part-1'),
      join('node', 'part-2'),
      join('bench', '20260101T000000Z-0000000.json'),
    ]);
    expect(found.find(({ path }) => path === join('node', 'part-1'))!.findings[0]).toMatch(
      /report\.json: cells\[0\].*the rows give/,
    );
  });
});

test('a report that the code of today would not write is refused, until it is written anew', async () => {
  await withFolder(async (folder) => {
    const directory = join(folder, 'run');
    await fakeBench({ directory, about: { commit: 'c0ffee0' }, options: { groups: ['collectives'] } });
    const path = join(directory, 'report.json');
    writeFileSync(path, readFileSync(path, 'utf8').replace('nothing was to be decoded', '0 generations add up'));
    await sealBundle(directory);
    await expect(publishNodeRun(directory, join(folder, 'record'))).rejects.toThrow(
      /report\.json: verdicts.*`kilotoken report` writes the report anew/,
    );
    await judgeNodeDirectory(directory);
    await publishNodeRun(directory, join(folder, 'record'));
  });
});

test('without the test of losslessness the longest output counts, and the run is called short', async () => {
  await withFolder(async (folder) => {
    const { report } = await fakeBench({ directory: join(folder, 'run'), options: { groups: ['block'] } });
    const verdict = report.verdicts.find(({ id }) => id === 'lossless')!;
    expect(verdict.evidence).toMatch(/; the longest has 96$/);
    expect(verdict.warnings.map(({ text }) => text)).toEqual([
      'the longest comparison has 96 tokens, fewer than 20000: the test of losslessness is not part of this run',
    ]);
  });
});

test('what is of unknown code or does not follow from its samples is no kernel bench of the record', async () => {
  await withFolder(async (folder) => {
    const path = join(folder, 'kernels.json');
    const refused = (change: (document: ReturnType<typeof sampleBench>) => void): string => {
      const document = sampleBench();
      change(document);
      writeFileSync(path, JSON.stringify(document));
      return path;
    };
    expect(() =>
      publishKernels(
        refused((document) => Object.assign(document, { commit: 'unknown' })),
        folder,
      ),
    ).toThrow(/commit is unknown/);
    expect(() =>
      publishKernels(
        refused((document) => Object.assign(document, { dirty: true })),
        folder,
      ),
    ).toThrow(/uncommitted/);
    expect(() =>
      publishKernels(
        refused(({ figures }) => Object.assign(figures.ceiling, { gbPerS: 1 })),
        folder,
      ),
    ).toThrow(/figures\.ceiling does not follow/);
    expect(() => entriesOf(folder)).toThrow(/holds no published run/);
  });
});
