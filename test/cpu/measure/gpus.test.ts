/** What follows from a look at the GPUs: who is foreign, what is doubtful, and what could not be seen. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkBundle } from '../../../harness/bundle/check/check.ts';
import {
  companyOf,
  GPU_LOOK,
  type GpuLook,
  type GpuProcess,
  looksOf,
  takeLook,
} from '../../../harness/measure/gpus.ts';
import { rowsOf } from '../../support/bundle-files.ts';
import { scriptedAudit, withDirectory } from '../../support/scripted-audit.ts';

const GIB = 2 ** 30;
const own: GpuProcess = { pid: 100, name: 'node', bytes: GIB / 2, own: true };
const other: GpuProcess = { pid: 4242, name: 'python3', bytes: GIB, own: false };
const look = (change: Partial<GpuLook> = {}): GpuLook => ({
  gpu: 0,
  processes: [own],
  usedBytes: GIB / 2,
  held: true,
  unseen: [],
  ...change,
});

describe('a look at the GPUs', () => {
  it('finds nobody where there is nobody', () => {
    expect(companyOf([look(), look({ gpu: 1 })])).toEqual({ foreign: [], doubts: [], unseen: [], sees: true });
    // Before this process is on a GPU nothing proves that the list would show it.
    const before = look({ processes: [], usedBytes: 4e6, held: false });
    expect(companyOf([before])).toEqual({ foreign: [], doubts: [], unseen: [], sees: false });
  });

  it('names another process by GPU, pid, name and memory, each as far as it is told', () => {
    const usedBytes = 1.5 * GIB;
    expect(companyOf([look(), look({ gpu: 1, processes: [own, other], usedBytes })]).foreign).toEqual([
      'on GPU 1: pid 4242 (python3), 1.0 GiB',
    ]);
    const shy = { ...other, name: null, bytes: null };
    expect(companyOf([look({ processes: [shy, own] })]).foreign).toEqual(['on GPU 0: pid 4242']);
    expect(companyOf([look({ processes: [other], held: false })]).foreign).toEqual([
      'on GPU 0: pid 4242 (python3), 1.0 GiB',
    ]);
  });

  it('takes memory on an idle GPU for somebody who is not listed', () => {
    const idle = { processes: [], held: false };
    expect(companyOf([look({ ...idle, usedBytes: GIB })]).foreign).toEqual([
      'on GPU 0: 1.0 GiB in use by a process that is not listed here',
    ]);
    expect(companyOf([look({ ...idle, processes: null, usedBytes: GIB })]).foreign).toHaveLength(1);
    expect(companyOf([look({ ...idle, usedBytes: GIB / 4 })]).foreign).toEqual([]);
    expect(companyOf([look({ ...idle, usedBytes: null, unseen: ['memory in use: no'] })])).toMatchObject({
      foreign: [],
      unseen: ['GPU 0: memory in use: no'],
    });
  });

  it('doubts memory that no listed process has, and only where all of theirs is told', () => {
    expect(companyOf([look({ usedBytes: 2 * GIB })])).toMatchObject({
      foreign: [],
      doubts: ['GPU 0: 1.5 GiB are in use by no process that the driver lists'],
    });
    expect(companyOf([look({ usedBytes: 1.4 * GIB })]).doubts).toEqual([]);
    expect(companyOf([look({ processes: [{ ...own, bytes: null }], usedBytes: 9 * GIB })]).doubts).toEqual([]);
  });

  it('says what it could not see, and that it saw nothing', () => {
    const blind = companyOf([look(), look({ gpu: 1, processes: null, unseen: ['no library'] })]);
    expect(blind).toMatchObject({ foreign: [], unseen: ['GPU 1: no library'], sees: false });
    expect(companyOf([look({ processes: null })]).unseen).toEqual(['GPU 0: no list of processes']);
    const hidden = companyOf([look({ processes: [] })]);
    expect(hidden.sees).toBe(false);
    expect(hidden.unseen[0]).toMatch(/lists no process although this one is on it/);
  });

  it('takes the one number that is on every GPU for this process, and nothing else', () => {
    const unknown = { ...own, pid: 7, own: false };
    const renumbered = companyOf([look({ processes: [unknown] }), look({ gpu: 1, processes: [unknown, other] })]);
    expect(renumbered.foreign).toEqual(['on GPU 1: pid 4242 (python3), 1.0 GiB']);
    expect(renumbered.unseen[0]).toMatch(/pid 7 is taken for this run/);
    expect(renumbered.sees).toBe(true);
    // Two such numbers: one of them is somebody else.
    const two = companyOf([look({ processes: [unknown, other] })]);
    expect(two.foreign).toEqual([
      'on GPU 0: pid 7 (node), 0.5 GiB, pid 4242 (python3), 1.0 GiB, one of which may be this run',
    ]);
    // No number is on both.
    const none = companyOf([look({ processes: [unknown] }), look({ gpu: 1, processes: [other] })]);
    expect(none.foreign).toHaveLength(2);
  });
});

describe('looking', () => {
  it('gives an entry for every GPU that was asked for, whatever happened', async () => {
    const lookAt = async (ask: () => Promise<readonly GpuLook[]>, gpus: number[]) =>
      looksOf(await takeLook(ask, 0.01), gpus);
    expect(await lookAt(async () => [look()], [0])).toEqual([look()]);
    const [, second] = await lookAt(async () => [look()], [0, 1]);
    expect(second).toMatchObject({ gpu: 1, processes: null, unseen: ['the driver does not name this GPU'] });
    const failed = await lookAt(() => Promise.reject(new Error('no driver')), [0]);
    expect(failed).toMatchObject([{ processes: null, usedBytes: null, unseen: ['no driver'] }]);
    const malformed = await lookAt(async () => [{ gpu: 0 }] as unknown as GpuLook[], [0]);
    expect(malformed).toMatchObject([{ processes: null, unseen: ['the answer is malformed'] }]);
    const late = await lookAt(() => new Promise(() => {}), [0]);
    expect(late).toMatchObject([{ processes: null, unseen: ['the driver did not answer within 0.01 s'] }]);
  });
});

describe('an audit on a GPU engine', () => {
  it('writes down who was on the GPU before and after, and says it; without a look it says nothing', async () => {
    const said: string[] = [];
    const ask = async () => [look({ processes: [own, other], usedBytes: 1.5 * GIB })];
    await withDirectory(async (folder) => {
      const directory = join(folder, 'run');
      const plan = { lawPrompts: 1 };
      await scriptedAudit({ directory, plan, input: { look: ask, progress: (line) => said.push(line) } });
      const events = rowsOf<{ kind: string; when: string; gpus: GpuLook[] }>(directory, 'events.jsonl');
      const looks = events.filter(({ kind }) => kind === GPU_LOOK);
      expect(looks.map(({ when }) => when)).toEqual(['before', 'after']);
      expect(looks[0]!.gpus).toEqual(await ask());
      expect(said.filter((line) => line.startsWith('another program is on GPU 0: pid 4242'))).toHaveLength(2);
      expect((await checkBundle(directory, { publicKey: null, build: null })).outcome).toBe('intact');
    });
    await withDirectory(async (folder) => {
      const directory = join(folder, 'run');
      await scriptedAudit({ directory, plan: { lawPrompts: 1 } });
      expect(rowsOf<{ kind: string }>(directory, 'events.jsonl').map(({ kind }) => kind)).not.toContain(GPU_LOOK);
    });
  });
});
