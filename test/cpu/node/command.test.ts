/** `kilotoken bench node` over the fake machine: what it prints, where it writes, how it ends. */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { benchNodeCommand } from '../../../bin/commands/bench/node.ts';
import { checkCommand } from '../../../bin/commands/check.ts';
import { reportCommand } from '../../../bin/commands/report.ts';
import { explain } from '../../../bin/support/exit.ts';
import { FakeClock, FakeMachine, type FakeOptions } from '../../../harness/bench/node/fake.ts';
import type { NodeReport } from '../../../harness/bench/node/report.ts';
import { withFolder } from './support.ts';

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

async function kilotoken(fake: FakeOptions, ...args: string[]): Promise<Ended> {
  let out = '';
  let err = '';
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += String(text);
    return true;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    err += String(text);
    return true;
  });
  process.exitCode = 0;
  const root = new Command('kilotoken').exitOverride();
  const bench = root.command('bench').exitOverride();
  const clock = new FakeClock();
  benchNodeCommand(bench, { machine: () => new FakeMachine({ ...fake, clock }), binaries: () => [], now: clock.now });
  for (const command of bench.commands) command.exitOverride();
  checkCommand(root);
  reportCommand(root);
  let code: number;
  try {
    await root.parseAsync(['node', 'kilotoken', ...args]);
    code = Number(process.exitCode ?? 0);
  } catch (error) {
    const explained = explain(error);
    ({ code } = explained);
    err += explained.text;
  } finally {
    vi.restoreAllMocks();
  }
  return { code, out, err };
}

const QUICK = ['--tokens', '64', '--lossless-tokens', '100', '--repeats', '3', '--telemetry-hz', '50'];
const bench = (fake: FakeOptions, directory: string, ...args: string[]): Promise<Ended> =>
  kilotoken(fake, 'bench', 'node', '--out', directory, ...QUICK, ...args);

describe('bench node', () => {
  it('writes a bundle that check takes, and ends with the headline', async () => {
    await withFolder(async (folder) => {
      const directory = join(folder, 'run');
      const { code, out, err } = await bench({ gpus: 4 }, directory, '--only', 'headline,lossless', 'gpus', 'headline');
      expect(code, err).toBe(0);
      const lines = out.trimEnd().split('\n');
      expect(lines.at(-1)).toBe(`Bundle: ${directory}`);
      expect(lines.slice(-6, -1).map((line) => line.split(/\s+/)[0])).toEqual([
        'cell',
        'headline/coding',
        'headline/math',
        'headline/agent',
        'headline/all',
      ]);
      expect(out).toContain('synthetic weights; assumed acceptance; synthetic cache; 4 of 8 GPUs');
      expect(out).toContain('not measured: gpus/8/on, gpus/8/off: not yet measured on 8 GPUs: this run has 4');
      expect(out).toMatch(/Projections, not measured/);
      const checked = await kilotoken({}, 'check', directory);
      expect(checked.out).toMatch(/Intact/);
      expect(checked.code).toBe(0);
      const again = await kilotoken({}, 'report', directory);
      expect(again.code).toBe(0);
      expect(out).toContain(again.out);
    });
  });

  it('prints one document, with a profile of the caller', async () => {
    await withFolder(async (folder) => {
      const profile = join(folder, 'steep.json');
      writeFileSync(profile, '[1, 0.5, 0.5, 0, 0, 0, 0]');
      const args = ['--json', '--profile', profile, '--only', 'headline', '--gpus', '2'];
      const { code, out } = await bench({ gpus: 4 }, join(folder, 'run'), ...args);
      expect(code).toBe(0);
      const report = JSON.parse(out) as NodeReport;
      expect(report.profiles.at(-1)).toMatchObject({ name: 'steep', target: 2.75 });
      expect(report.machine.used).toBe(2);
      expect(report.cells.map(({ id }) => id)).toContain('headline/steep');
    });
  });

  it('shows its plan without running it', async () => {
    await withFolder(async (folder) => {
      const { code, out } = await bench({ gpus: 8 }, join(folder, 'run'), '--plan');
      expect(code).toBe(0);
      expect(out).toMatch(/headline +stack-mxfp4-70x8/);
      expect(out).toMatch(/the all-reduce alone on 2, 4, 8 GPUs: about 15 s\nabout \d{2,3} s in all/);
      expect(existsSync(join(folder, 'run'))).toBe(false);
    });
  });

  it.each([
    ['no GPU', { gpus: 0 }, [], 3, /no GPU is visible/],
    ['too few GPUs', { gpus: 4 }, ['--gpus', '8'], 3, /8 GPUs were asked for, 4 are visible/],
    [
      'too little memory',
      { gpus: 1, memory: 9e9 },
      [],
      3,
      /2 layers on 1 GPU need about [\d.]+ GiB of each; [\d.]+ GiB are free/,
    ],
    [
      'memory that was promised',
      { gpus: 8, fault: { kind: 'out-of-memory', layers: 70 } },
      [],
      3,
      /out of memory: \d+ bytes of \d+ \(70 layers were estimated to need 7\d\.\d GiB of each GPU, 139\.\d GiB were free; fewer: --layers\)/,
    ],
    [
      'a foreign program',
      { gpus: 8, fault: { kind: 'foreign-memory', gpu: 1, bytes: 9e9 } },
      [],
      3,
      /GPU 1 has .* another program/,
    ],
    [
      'a foreign process',
      {
        gpus: 8,
        fault: {
          kind: 'foreign-process',
          gpu: 7,
          process: { pid: 4242, name: 'python3', bytes: 2 ** 30 },
          generation: 0,
        },
      },
      [],
      3,
      /^error: another program is on GPU 7: pid 4242 \(python3\), 1\.0 GiB; the benchmark needs its GPUs to itself$/,
    ],
    ['a missing link', { gpus: 2, fault: { kind: 'no-peer', from: 0, to: 1 } }, [], 3, /no peer access/],
    [
      'a fault in the kernel',
      { fault: { kind: 'kernel-fault', generation: 4, message: 'rank 3 waited 2.0 s for rank 5 in instruction 212' } },
      [],
      70,
      /internal error: rank 3 waited 2\.0 s for rank 5 in instruction 212/,
    ],
    [
      'other tokens with speculation',
      { fault: { kind: 'wrong-token', place: 590 } },
      ['--lossless-tokens', '600'],
      1,
      /^/,
    ],
    ['three GPUs', {}, ['--gpus', '3'], 2, /1, 2, 4 or 8 GPUs/],
    ['three GPUs where there is none', { gpus: 0 }, ['--gpus', '3'], 2, /1, 2, 4 or 8 GPUs/],
    ['an unknown shape', {}, ['--shape', 'flash'], 2, /there is no shape "flash"/],
    ['a broken profile', {}, ['--profile', 'package.json'], 2, /--profile profile package must be a list of 7 chances/],
  ] as [string, FakeOptions, string[], number, RegExp][])('%s', async (_, fake, args, code, text) => {
    await withFolder(async (folder) => {
      const only = ['--only', 'headline', 'lossless'];
      const ended = await bench(fake, join(folder, 'run'), ...only, ...args);
      expect(ended.err).toMatch(text);
      expect(ended.code).toBe(code);
      if (code === 1) expect(ended.out).toMatch(/refuted .*token 590 is \d+, plain decoding gives \d+/);
      if (code === 70) expect(ended.err).toMatch(/What was recorded before the fault/);
    });
  });
});
