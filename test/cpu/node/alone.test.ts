/** Other processes on the GPUs of a node benchmark, on the fake machine: refused before it begins, told and not published when they come later. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { checkNodeBundle } from '../../../harness/bench/node/check.ts';
import type { FakeFault } from '../../../harness/bench/node/fake.ts';
import { publishNodeRun } from '../../../harness/bench/node/publish.ts';
import { readNodeRun } from '../../../harness/bench/node/reader.ts';
import type { NodeReport } from '../../../harness/bench/node/report.ts';
import { fakeBench, withFolder } from './support.ts';

const NO_KEYS = { publicKey: null, build: null };
const options = { groups: ['headline' as const] };
const python = { pid: 4242, name: 'python3', bytes: 2 ** 30 };

function bench<T>(
  fault: FakeFault | null,
  use: (report: NodeReport, directory: string, exitCode: number) => Promise<T> | T,
) {
  return withFolder(async (folder) => {
    const directory = join(folder, 'run');
    const fake = fault === null ? {} : { fault };
    const { report, exitCode } = await fakeBench({ directory, fake: { gpus: 2, ...fake }, options });
    return use(report, directory, exitCode);
  });
}

const alone = (report: NodeReport) => report.verdicts.find(({ id }) => id === 'alone')!;

describe('before the run', () => {
  it.each([
    [
      'a process on the list',
      { kind: 'foreign-process', gpu: 1, process: python, generation: 0 },
      'another program is on GPU 1: pid 4242 (python3), 1.0 GiB; the benchmark needs its GPUs to itself',
    ],
    [
      'one without a name, whose memory is not told',
      { kind: 'foreign-process', gpu: 0, process: { pid: 7, name: null, bytes: null }, generation: 0 },
      'another program is on GPU 0: pid 7; the benchmark needs its GPUs to itself',
    ],
    [
      'memory of one that is on no list',
      { kind: 'unlisted', gpu: 1, bytes: 2 ** 30 },
      'another program is on GPU 1: 1.0 GiB in use by a process that is not listed here; the benchmark needs its GPUs to itself',
    ],
    [
      'memory that only CUDA sees',
      { kind: 'foreign-memory', gpu: 0, bytes: 2 ** 30 },
      'GPU 0 has 1.5 GiB in use by another program; the benchmark needs its GPUs to itself',
    ],
  ] as [string, FakeFault, string][])('%s: refused in one line, nothing is written', async (_, fault, message) => {
    await withFolder(async (folder) => {
      const directory = join(folder, 'run');
      const run = fakeBench({ directory, fake: { gpus: 2, fault }, options });
      await expect(run).rejects.toMatchObject({ name: 'EnvironmentError', message });
      expect(() => readFileSync(join(directory, 'manifest.json'))).toThrow();
    });
  });

  it('a driver that never answers is left', async () => {
    await withFolder(async (folder) => {
      const run = fakeBench({ directory: join(folder, 'run'), fake: { fault: { kind: 'mute' } }, patience: 0.001 });
      await expect(run).rejects.toMatchObject({
        name: 'EnvironmentError',
        message: 'the driver did not say what GPUs there are within 0.06 s',
      });
    });
  });

  it('on a GPU that is not used it is nobody`s business', async () => {
    await withFolder(async (folder) => {
      const fault = { kind: 'foreign-process', gpu: 3, process: python, generation: 0 } as const;
      const { report } = await fakeBench({
        directory: join(folder, 'run'),
        fake: { gpus: 4, fault },
        options: { ...options, gpus: 2 },
      });
      expect(alone(report).outcome).toBe('consistent');
    });
  });
});

describe('during the run', () => {
  it('a process that came is told with its stage, refutes, and keeps the run from being published', async () => {
    const fault = { kind: 'foreign-process', gpu: 1, process: python, generation: 5 } as const;
    await bench(fault, async (report, directory, exitCode) => {
      expect(alone(report).outcome).toBe('refuted');
      expect(alone(report).evidence).toMatch(
        /^behind stage \S+, another program was on GPU 1: pid 4242 \(python3\), 1\.0 GiB; seen in 2 of 3 looks$/,
      );
      expect(exitCode).toBe(1);
      expect((await checkNodeBundle(directory, NO_KEYS)).findings).toEqual([]);
      await expect(publishNodeRun(directory, join(directory, '../record'))).rejects.toThrow(
        /the run was not alone on its GPUs: behind stage/,
      );
    });
  });

  it('a sound run says what it looked at, and could be published as far as that goes', async () => {
    await bench(null, async (report, directory) => {
      expect(alone(report)).toMatchObject({ outcome: 'consistent', n: 3, of: 'looks' });
      expect(report.warnings.join()).not.toMatch(/not seen/);
      const { looks } = await readNodeRun(directory);
      expect(looks.map(({ when, stage, t_ns }) => [when, stage !== null, t_ns === 0])).toEqual([
        ['before', false, true],
        ['between', true, false],
        ['after', false, false],
      ]);
      expect(looks.map(({ gpus }) => gpus.map(({ held }) => held))).toEqual([
        [false, false],
        [true, true],
        [true, true],
      ]);
      await expect(publishNodeRun(directory, join(directory, '../record'))).rejects.not.toThrow(/alone/);
    });
  });

  it.each([
    ['no list', /management library of the driver cannot be loaded/],
    ['hidden', /the driver lists no process although this one is on it/],
  ] as const)('%s: no verdict that nobody was there, and the reason in the bundle', async (how, reason) => {
    await bench({ kind: 'blind', how }, async (report, directory, exitCode) => {
      expect(alone(report).outcome).toBe('not testable here');
      expect(alone(report).evidence).toMatch(reason);
      expect(report.warnings.join()).toMatch(reason);
      expect(exitCode).toBe(0);
      const { looks } = await readNodeRun(directory);
      if (how === 'no list') expect(looks[1]!.gpus[0]).toMatchObject({ processes: null });
    });
  });

  it('numbers of another space are recognised, and said', async () => {
    await bench({ kind: 'blind', how: 'renumbered' }, (report) => {
      expect(alone(report).outcome).toBe('consistent');
      expect(report.warnings.join()).toMatch(/pid 4711 is taken for this run/);
    });
  });

  it.each(['throws', 'malformed'] as const)(
    'a driver that does not answer properly (%s) is blind, no failure',
    async (how) => {
      await bench({ kind: 'deaf', how }, async (report, directory) => {
        const { looks } = await readNodeRun(directory);
        const reason = how === 'throws' ? 'the driver does not answer' : 'the answer is malformed';
        for (const { gpus } of looks)
          for (const gpu of gpus) expect(gpu).toMatchObject({ processes: null, usedBytes: null, unseen: [reason] });
        expect(alone(report)).toMatchObject({ outcome: 'not testable here' });
        expect(report.warnings.join()).toMatch(
          how === 'throws' ? /the driver does not answer/ : /the answer is malformed/,
        );
      });
    },
  );
});

describe('afterwards', () => {
  it('a look that was taken away is missed', async () => {
    await bench(null, async (_, directory) => {
      const path = join(directory, 'events.jsonl.gz');
      const lines = gunzipSync(readFileSync(path)).toString().trimEnd().split('\n');
      const kept = lines.filter((line) => !line.includes('"between"'));
      expect(kept).toHaveLength(lines.length - 1);
      writeFileSync(path, gzipSync(`${kept.join('\n')}\n`));
      const { findings } = await checkNodeBundle(directory, NO_KEYS);
      expect(findings.map(({ text }) => text).join()).toMatch(/there is no look at the GPUs behind stage/);
    });
  });
});
