/**
 * A node benchmark from end to end on the fake machine: a sound machine is not accused, each known fault is, and what was recorded
 * before a fault is kept.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { NodeBenchResult } from '../../../harness/bench/node/bench.ts';
import { checkNodeBundle } from '../../../harness/bench/node/check.ts';
import { readNodeRun } from '../../../harness/bench/node/reader.ts';
import type { NodeReport } from '../../../harness/bench/node/report.ts';
import type { Measured } from '../../../harness/report/schema.ts';
import { type FakeBench, fakeBench, withFolder } from './support.ts';

const NO_KEYS = { publicKey: null, build: null };

function bench<T>(
  options: Omit<FakeBench, 'directory'>,
  use: (result: NodeBenchResult, directory: string) => Promise<T> | T,
): Promise<T> {
  return withFolder(async (folder) => {
    const directory = join(folder, 'run');
    return use(await fakeBench({ ...options, directory }), directory);
  });
}

const outcomes = (report: NodeReport): Record<string, string> =>
  Object.fromEntries(report.verdicts.map(({ id, outcome }) => [id, outcome]));
const evidence = (report: NodeReport, id: string): string =>
  report.verdicts.find((verdict) => verdict.id === id)!.evidence;

function figure(report: NodeReport, cell: string, id: string): Measured & { state: 'measured' } {
  const found = report.cells.find((row) => row.id === cell)?.figures.find((row) => row.id === id)?.figure;
  if (found?.state !== 'measured') throw new Error(`${cell} ${id} was not measured`);
  return found;
}

const SOUND = {
  lossless: 'consistent',
  'same-bits': 'consistent',
  launches: 'consistent',
  acceptance: 'consistent',
  books: 'consistent',
  sums: 'consistent',
  alone: 'consistent',
};

describe('a sound machine', () => {
  it('passes, and its bundle is intact', async () => {
    await bench({}, async ({ report, status, exitCode }, directory) => {
      expect({ status, exitCode, outcomes: outcomes(report) }).toEqual({
        status: 'complete',
        exitCode: 0,
        outcomes: SOUND,
      });
      const checked = await checkNodeBundle(directory, NO_KEYS);
      expect(checked.findings).toEqual([]);
      expect(checked.outcome).toBe('intact');
      const { plan } = await readNodeRun(directory);
      const seen = [...report.cells, ...report.layers].map(({ id }) => id);
      const named = [...seen, ...report.notMeasured.map(({ cell }) => cell)].sort();
      const due = [
        ...plan.cells.filter(({ group }) => group !== 'record').map(({ id }) => id),
        ...plan.notMeasured.map(({ cell }) => cell),
      ];
      expect(named).toEqual(due.sort());
    });
  });

  it('carries its labels beside every cell', async () => {
    await bench({}, ({ report }) => {
      for (const cell of report.cells) {
        expect(cell.labels).toContain('synthetic weights');
        expect(cell.labels).toContain('synthetic cache');
        expect(cell.labels.includes('assumed acceptance')).toBe(cell.profile !== null);
        expect(cell.labels).toContain(`${cell.gpus} of 8 GPUs`);
        expect(cell.labels.includes(`${cell.layers} of 70 layers`)).toBe(cell.layers < 70);
        expect(figure(report, cell.id, 'distinct-experts').value).toBeGreaterThanOrEqual(8);
      }
      for (const row of report.projections) expect(row.labels[0]).toBe('projection');
      const lossless = report.verdicts.find(({ id }) => id === 'lossless')!;
      expect(lossless.warnings.map(({ code }) => code)).toEqual(['short-run']);
    });
  });

  it('reaches no target of 8 GPUs on four, and projects instead', async () => {
    await bench({}, ({ report }) => {
      expect(new Set(report.targets.map(({ outcome }) => outcome))).toEqual(new Set(['not yet measured']));
      expect(report.projections).toHaveLength(8);
      const [bytes, layers] = report.projections.map((row) => (row.figure as Measured & { state: 'measured' }).value);
      const here = figure(report, 'headline/coding', 'tokens-per-second').value;
      // Half the bytes a GPU on twice the GPUs; as many layers as here.
      expect(bytes! / here).toBeCloseTo(2, 9);
      expect(layers! / here).toBeCloseTo(1, 9);
    });
  });

  it('parts the time of a layer, and times no traced generation', async () => {
    await bench({ options: { groups: ['headline', 'layers'] } }, async ({ report }, directory) => {
      const [on, off] = report.layers;
      expect([on!.id, off!.id]).toEqual(['layers/on', 'layers/off']);
      // The fake's operations take 1, 2 and 3 us a layer, and seven tenths of it busy.
      expect(on!.totalUs).toBeCloseTo(6, 9);
      expect(on!.waitUs).toBeCloseTo(0.3 * 6, 9);
      expect(on!.repeats).toBe(3);
      expect(report.cells.some(({ group }) => group === 'layers')).toBe(false);
      const { generations } = await readNodeRun(directory);
      for (const { row, traces } of generations) expect(traces.length).toBe(row.role === 'traced' ? 3 : 0);
    });
  });

  it('takes no ratio between unequal layers, and the reference beside its equal', async () => {
    await bench({}, ({ report }) => {
      const ratio = (id: string): Measured => report.comparisons.find((row) => row.id === id)!.figure;
      expect(ratio('formats-on')).toEqual({
        state: 'not yet measured',
        reason:
          'ablation/fp8/on/resident has 39 layers, ablation/mxfp4/on/resident has 70: no ratio is taken between them',
      });
      expect(report.comparisons.find(({ id }) => id === 'reference')!.formula).toBe(
        'tokens per second of matched/on over that of reference/plain',
      );
      const due =
        figure(report, 'matched/on', 'tokens-per-second').value /
        figure(report, 'reference/plain', 'tokens-per-second').value;
      expect((ratio('reference') as { value: number }).value).toBeCloseTo(due, 12);
    });
  });

  it('on eight H200 is held against every target it can be, lucky draws cut', async () => {
    let cut = 0;
    let ratiosCut = 0;
    for (const seed of ['1', '2', '4', '5']) {
      const options = {
        seed,
        groups: ['headline' as const, 'reference' as const, 'ablation' as const, 'context' as const],
      };
      await bench({ fake: { gpus: 8, name: 'NVIDIA H200' }, options }, ({ report, exitCode }) => {
        expect(exitCode).toBe(0);
        expect(report.projections).toEqual([]);
        const open = report.targets.filter(({ outcome }) => outcome === 'not yet measured').map(({ id }) => id);
        expect(open).toEqual(['all-reduce']);
        const target = (id: string): number =>
          (report.targets.find((row) => row.id === id)!.figure as { value: number }).value;
        for (const [id, cell, stated] of [
          ['speed-6.30', 'headline/coding', 6.3],
          ['speed-4.29', 'headline/agent', 4.29],
        ] as const) {
          const realised = figure(report, cell, 'tokens-per-second').value;
          const atStated = stated / (figure(report, cell, 'step').value / 1e3);
          expect(target(id)).toBeCloseTo(Math.min(realised, atStated), 9);
          if (atStated < realised) cut += 1;
        }
        // So is the ratio to the reference, whose upper side is the headline here.
        const ratio = report.comparisons.find(({ id }) => id === 'reference')!.figure as { value: number };
        const headline = figure(report, 'headline/coding', 'tokens-per-second').value;
        expect(target('reference')).toBeCloseTo((ratio.value * target('speed-6.30')) / headline, 9);
        if (target('reference') < ratio.value) ratiosCut += 1;
        expect(report.cells.flatMap(({ labels }) => labels)).not.toContain('8 of 8 GPUs');
      });
    }
    expect(cut).toBeGreaterThan(0);
    expect(cut).toBeLessThan(8);
    expect(ratiosCut).toBe(1);
  });

  it('takes the prompt off where an engine decodes it along', async () => {
    await bench({ options: { groups: ['reference'] } }, async (_, directory) => {
      const { generations } = await readNodeRun(directory);
      for (const { row, rounds } of generations) {
        const device = rounds.reduce((sum, round) => sum + round.ns[0] + round.ns[1], 0);
        expect(row.prefillNs).toBe(5e6);
        // The fake counts the prefill's round into the decoding of both engines, and 20 us a call.
        expect(row.decodeNs).toBe(device + 20_000);
      }
      expect(new Set(generations.map(({ row }) => row.cell))).toContain('reference/graph');
    });
  });

  it('gives figures that follow from the formula of the fake', async () => {
    await bench({}, async ({ report }, directory) => {
      const run = await readNodeRun(directory);
      const own = run.generations.filter(({ row }) => row.cell === 'headline/coding' && row.role === 'timed');
      const tokens = own.reduce((sum, { row }) => sum + row.tokens - 1, 0);
      const seconds = own.reduce((sum, { row }) => sum + row.decodeNs, 0) / 1e9;
      const speed = figure(report, 'headline/coding', 'tokens-per-second');
      expect(speed.value).toBeCloseTo(tokens / seconds, 9);
      expect(speed.interval!.low).toBeLessThan(speed.value);
      expect(speed.interval!.high).toBeGreaterThan(speed.value);
      // A fake step takes 1.3 times what its bytes take at the read rate, and 20 us a generation on top.
      expect(1 / figure(report, 'ablation/mxfp4/off/resident', 'ceiling-share').value).toBeCloseTo(1.3, 1);
      const graph = report.comparisons.find(({ id }) => id === 'persistent-graph-off')!.figure;
      expect(graph).toMatchObject({ state: 'measured' });
      expect((graph as { value: number }).value).toBeCloseTo(1.6 / 1.3, 2);
      const gpus = report.comparisons.find(({ id }) => id === 'gpus-4')!.figure as { value: number };
      expect(gpus.value).toBeCloseTo(4, 1);
      expect(figure(report, 'headline/all', 'acceptance').value).toBe(8);
    });
  });
});

describe('a machine with a fault', () => {
  it('a wrong token under speculation is refuted with its place', async () => {
    const options = { groups: ['lossless' as const], losslessTokens: 700 };
    await bench({ fake: { fault: { kind: 'wrong-token', place: 600 } }, options }, ({ report, exitCode }) => {
      expect(exitCode).toBe(1);
      expect(outcomes(report).lossless).toBe('refuted');
      expect(evidence(report, 'lossless')).toMatch(
        /^lossless\/agent, repeat 0: token 600 is \d+, plain decoding gives \d+/,
      );
    });
  });

  it('a wrong token is refuted in any cell, not in the test of losslessness alone', async () => {
    const tokens = { headline: 700, sweep: 96, plain: 48, reference: 24 };
    const options = { groups: ['headline' as const, 'lossless' as const], tokens };
    await bench({ fake: { fault: { kind: 'wrong-token', place: 600 } }, options }, ({ report, exitCode }) => {
      expect(exitCode).toBe(1);
      expect(evidence(report, 'lossless')).toMatch(
        /^headline\/.+: token 600 is \d+, plain decoding gives \d+; \d+ gen/,
      );
    });
  });

  it('a draft accepted although it was wrong is refuted', async () => {
    await bench({ fake: { fault: { kind: 'accepts-wrong' } } }, ({ report, exitCode }) => {
      expect(exitCode).toBe(1);
      expect(outcomes(report).acceptance).toBe('refuted');
      expect(evidence(report, 'acceptance')).toMatch(/accepted, \d were right/);
    });
  });

  it('other bits the second time are refuted', async () => {
    await bench({ fake: { fault: { kind: 'other-bits' } } }, ({ report, exitCode }) => {
      expect(exitCode).toBe(1);
      expect(outcomes(report)['same-bits']).toBe('refuted');
      expect(evidence(report, 'same-bits')).toMatch(/the logits of the last step differ/);
      expect(outcomes(report).lossless).toBe('consistent');
    });
  });

  it('a slow GPU is named', async () => {
    await bench({ fake: { fault: { kind: 'slow-gpu', gpu: 2, share: 0.7 } } }, ({ report, exitCode }) => {
      expect(exitCode).toBe(0);
      expect(report.warnings.join()).toMatch(/GPU 2 reads at 2\.80 TB\/s, the median at 4\.00: all others wait for it/);
      // Of what the slowest reads: the fake waits for it.
      expect(figure(report, 'headline/all', 'ceiling-share').value).toBeCloseTo(1 / 1.3, 1);
    });
  });

  it('a time that is no number takes its cell away and leaves the run inconclusive', async () => {
    await bench({ fake: { fault: { kind: 'nan-time', generation: 6 } } }, async ({ report, exitCode }, directory) => {
      expect(exitCode).toBe(4);
      const { generations } = await readNodeRun(directory);
      const hit = generations[6]!.row;
      expect(hit.fault).toMatchObject({ kind: 'malformed' });
      expect(hit.fault!.message).toMatch(/times of draft and verification/);
      // What gave no round once is not asked again, and is named with why.
      expect(generations.slice(7).map(({ row }) => row.cell)).not.toContain(hit.cell);
      expect(report.notMeasured.find(({ cell }) => cell === hit.cell)!.reason).toMatch(
        /^malformed: round 0: times of draft/,
      );
      expect(outcomes(report).books).toBe('inconclusive');
      expect((await checkNodeBundle(directory, NO_KEYS)).outcome).toBe('intact');
    });
  });

  it('a kernel fault ends the run with the rank and the wait, and what was recorded is kept', async () => {
    await withFolder(async (folder) => {
      const directory = join(folder, 'run');
      const message = 'rank 3: instruction 212 waited 2.0 s for the flags of rank 5';
      const fault = { kind: 'kernel-fault', generation: 9, message } as const;
      await expect(fakeBench({ directory, fake: { fault } })).rejects.toMatchObject({ name: 'DeviceError', message });
      const run = await readNodeRun(directory);
      expect(run.manifest.status).toBe('failed');
      expect(run.generations).toHaveLength(10);
      expect(run.generations[9]!.row.fault).toEqual({ kind: 'threw', message });
      const checked = await checkNodeBundle(directory, NO_KEYS);
      expect(checked.outcome).toBe('unfinished');
      expect(checked.differences).toBe(0);
    });
  });

  it('a machine that hangs is left', async () => {
    await withFolder(async (folder) => {
      const directory = join(folder, 'run');
      const hang = fakeBench({ directory, fake: { fault: { kind: 'hangs', generation: 3 } }, patience: 0.001 });
      await expect(hang).rejects.toMatchObject({
        name: 'DeviceError',
        message: expect.stringMatching(/took more than/),
      });
      expect((await readNodeRun(directory)).generations[3]!.row.fault!.kind).toBe('hung');
    });
  });

  it('too little memory for the model of the headline ends the run; for another one its cells are named', async () => {
    await withFolder(async (folder) => {
      const fault = { kind: 'out-of-memory', layers: 70 } as const;
      const run = fakeBench({ directory: join(folder, 'a'), fake: { fault } });
      await expect(run).rejects.toMatchObject({ name: 'EnvironmentError', message: expect.stringMatching(/bytes/) });
    });
    const capabilities = { reference: null, fp8Experts: null };
    await bench({ fake: { gpus: 8, memory: 100e9, capabilities } }, async ({ report, exitCode }, directory) => {
      expect(exitCode).toBe(0);
      expect(report.cells.find(({ id }) => id === 'reference/plain')!.layers).toBeLessThan(70);
      expect((await checkNodeBundle(directory, NO_KEYS)).findings).toEqual([]);
    });
  });

  it('a model that cannot be opened is tried once, and all of its cells say why', async () => {
    const message = 'no NCCL library was found';
    await bench({ fake: { fault: { kind: 'no-reference', message } } }, async ({ report, exitCode }, directory) => {
      expect(exitCode).toBe(0);
      const { models } = await readNodeRun(directory);
      expect(models.filter(({ lack }) => lack !== null)).toHaveLength(1);
      const absent = report.notMeasured.filter(({ reason }) => reason === message).map(({ cell }) => cell);
      expect(absent).toEqual(['reference/plain', 'reference/graph']);
      expect((await checkNodeBundle(directory, NO_KEYS)).findings).toEqual([]);
    });
  });

  it('without a read ceiling no share of it is claimed', async () => {
    await bench({ fake: { readCeiling: false } }, ({ report }) => {
      for (const cell of report.cells)
        expect(cell.figures.find(({ id }) => id === 'ceiling-share')!.figure.state).toBe('not yet measured');
      expect(report.floors[0]!.figure).toMatchObject({
        state: 'not yet measured',
        reason: 'this build measures no read ceiling',
      });
    });
  });
});

describe('the budget while it runs', () => {
  it('drops stages by name when the machine is slower than was thought, the least important first', async () => {
    const groups = ['headline' as const, 'block' as const, 'routing' as const, 'lossless' as const];
    const fast = { options: { budgetSeconds: 100, groups } };
    await bench(fast, async ({ report }) => expect(report.notMeasured).toEqual([]));
    await bench({ ...fast, fake: { pace: 6 } }, async ({ report }, directory) => {
      const { events } = await readNodeRun(directory);
      const left = events.filter(({ kind }) => kind === 'stage-left-out').map((row) => row.stage);
      expect(left).toEqual(['routing-0.5', 'routing-1']);
      expect(report.cells.map(({ id }) => id)).toContain('headline/coding');
      const absent = report.notMeasured.find(({ cell }) => cell === 'routing/1/on')!;
      expect(absent.reason).toMatch(/^left out after \d+ s: it no longer fits the budget of 100 s$/);
      expect(report.warnings.join()).toMatch(/stage routing-1 was left out after/);
      expect((await checkNodeBundle(directory, NO_KEYS)).findings).toEqual([]);
    });
  });
});

describe('an interrupted run', () => {
  it('keeps what it has and says so', async () => {
    const controller = new AbortController();
    controller.abort();
    await bench({ signal: controller.signal }, async ({ status, report, exitCode }, directory) => {
      expect(status).toBe('interrupted');
      expect(exitCode).toBe(4);
      expect(report.cells).toEqual([]);
      expect(report.notMeasured[0]!.reason.length).toBeGreaterThan(0);
      expect((await checkNodeBundle(directory, NO_KEYS)).outcome).toBe('unfinished');
    });
  });

  it('does not write over another run', async () => {
    await withFolder(async (folder) => {
      mkdirSync(join(folder, 'run'));
      writeFileSync(join(folder, 'run', 'manifest.json'), '{}');
      await expect(fakeBench({ directory: join(folder, 'run') })).rejects.toThrow(/already holds a run/);
      expect(existsSync(join(folder, 'run', 'plan.json'))).toBe(false);
    });
  });
});
