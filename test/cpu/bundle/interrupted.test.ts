/**
 * Runs that did not end as they should: cut at any byte of any row file, out of disk space, in a place that cannot be written. What was
 * written stays readable, is marked for what it is and judged; the controls are the same runs left alone.
 */
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { RoundRow } from '../../../harness/bundle/rows.ts';
import { ROW_FILES } from '../../../harness/bundle/writer.ts';
import { editDocument, rowsOf, rowsText } from '../../support/bundle-files.ts';
import { check, checksOf } from '../../support/forger.ts';
import { scriptedAudit, scriptedPrompts, withDirectory } from '../../support/scripted-audit.ts';

/** A disk with so many bytes left, and the error of a full or read-only one. */
const disk = vi.hoisted(() => ({
  left: Number.POSITIVE_INFINITY,
  code: 'ENOSPC',
  healsAfter: Number.POSITIVE_INFINITY,
}));

vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const fail = (): never => {
    disk.healsAfter -= 1;
    if (disk.healsAfter <= 0) disk.left = Number.POSITIVE_INFINITY;
    throw Object.assign(new Error(disk.code), { code: disk.code });
  };
  const writeSync = (descriptor: number, bytes: Uint8Array, offset = 0): number => {
    if (disk.left <= 0) fail();
    const length = Math.min(bytes.length - offset, disk.left);
    disk.left -= length;
    return fs.writeSync(descriptor, bytes, offset, length);
  };
  const openSync: typeof fs.openSync = (path, flags, mode) => {
    if (disk.code === 'EROFS' && disk.left <= 0 && flags !== 'r') fail();
    return fs.openSync(path, flags, mode);
  };
  return { ...fs, writeSync, openSync, default: { ...fs, writeSync, openSync } };
});

beforeEach(() => {
  Object.assign(disk, { left: Number.POSITIVE_INFINITY, code: 'ENOSPC', healsAfter: Number.POSITIVE_INFINITY });
});

let scratch: string;
let run: string;

const SMALL = { prompts: scriptedPrompts(3), plan: { lawSeeds: 2, lawPrompts: 1, tokens: 8, sampledTokens: 4 } };

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-interrupted-'));
  run = join(scratch, 'run');
  await scriptedAudit({ directory: run, ...SMALL });
  // As it lay there while it ran: no verdicts, no tree, a manifest that says so; the rows in several members.
  for (const name of ['verdicts.json', 'report.json', 'tree.json']) rmSync(join(run, name));
  editDocument<{ status: string; files: unknown[]; seconds: number }>(run, 'manifest.json', (manifest) => {
    Object.assign(manifest, { status: 'running', files: [], seconds: 0 });
  });
  for (const name of ROW_FILES) {
    const rows = rowsText(run, name).split(/(?<=\n)/);
    const members: Buffer[] = [gzipSync('')];
    for (let i = 0; i < rows.length; i += 40) members.push(gzipSync(rows.slice(i, i + 40).join('')));
    writeFileSync(join(run, `${name}.gz`), Buffer.concat(members));
  }
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe('a killed run', () => {
  it('is read, marked interrupted and judged, whichever byte its rows end at', async () => {
    const cut = join(scratch, 'cut');
    const path = join(cut, 'rounds.jsonl.gz');
    const { length } = readFileSync(join(run, 'rounds.jsonl.gz'));
    const all = rowsOf(run, 'rounds.jsonl').length;
    const counts = new Set<number>();
    const judge = async (bytes: number): Promise<void> => {
      cpSync(run, cut, { recursive: true });
      truncateSync(path, bytes);
      const result = await check(cut);
      expect(checksOf(result)).toEqual([]);
      expect(result.outcome).toBe('unfinished');
      expect(result.findings.find((finding) => finding.check === 'status')!.text).toMatch(/interrupted/);
      expect(result.verdicts.length).toBeGreaterThan(3);
      expect(result.rounds).toBeLessThanOrEqual(all);
      counts.add(result.rounds);
    };
    for (const bytes of [0, 1, 2, 10, 19, 20, 21, 22, 29, 30, length - 9, length - 8, length - 1, length])
      await judge(bytes);
    await fc.assert(fc.asyncProperty(fc.nat(length), judge), { seed: 3, numRuns: 60 });
    expect(Math.min(...counts)).toBe(0);
    expect(Math.max(...counts)).toBe(all);
    expect(counts.size).toBeGreaterThan(20);
  });

  it('is refused, though, when its rows contradict each other', async () => {
    const copy = join(scratch, 'contradicts');
    cpSync(run, copy, { recursive: true });
    const rows = rowsOf<RoundRow>(copy, 'rounds.jsonl');
    const victim = rows.find((row) => row.drafted.length > row.accepted)!;
    victim.accepted += 1;
    writeFileSync(join(copy, 'rounds.jsonl.gz'), gzipSync(rows.map((row) => `${JSON.stringify(row)}\n`).join('')));
    expect((await check(copy)).outcome).toBe('different');
  });

  it('may have lost any file of rows, or all', async () => {
    for (const names of [...ROW_FILES.slice(2).map((name) => [name]), ROW_FILES.slice(1)]) {
      const copy = join(scratch, `without-${names.join('-')}`);
      cpSync(run, copy, { recursive: true });
      for (const name of names) rmSync(join(copy, `${name}.gz`));
      expect((await check(copy)).outcome, names.join()).not.toBe('intact');
    }
  });
});

describe('a full disk', () => {
  it('is one clear line, and loses nothing that was written', async () => {
    await withDirectory(async (directory) => {
      const whole = join(directory, 'whole');
      await scriptedAudit({ directory: whole, ...SMALL });
      const size = readdirSync(whole).reduce((sum, name) => sum + readFileSync(join(whole, name)).length, 0);
      let judged = 0;
      for (let share = 0.05; share < 0.95; share += 0.1) {
        disk.left = Math.floor(size * share);
        const path = join(directory, `full-${share.toFixed(2)}`);
        const failure = await scriptedAudit({ directory: path, ...SMALL }).then(
          () => null,
          (error: Error) => error,
        );
        disk.left = Number.POSITIVE_INFINITY;
        expect(failure).toMatchObject({
          name: 'EnvironmentError',
          message: expect.stringMatching(/^cannot write .*: no space left on the device$/),
        });
        expect(readdirSync(path).filter((name) => name.endsWith('.partial'))).toEqual([]);
        for (const name of readdirSync(path).filter((entry) => entry.endsWith('.gz'))) {
          // Whole members only: what could not be written whole was cut off again.
          expect(() => gunzipSync(readFileSync(join(path, name))), name).not.toThrow();
        }
        if (!existsSync(join(path, 'manifest.json'))) continue;
        const result = await check(path);
        expect(checksOf(result)).toEqual([]);
        expect(result.outcome).toBe('unfinished');
        judged += result.rounds;
      }
      expect(judged).toBeGreaterThan(0);
    });
  });

  it('marks the run as failed when there is room again for its manifest', async () => {
    await withDirectory(async (directory) => {
      const whole = join(directory, 'whole');
      await scriptedAudit({ directory: whole, ...SMALL });
      // Room for what comes before the first row, and for a few rows.
      const before = ['plan.json', 'manifest.json', 'prompts.jsonl.gz'].map(
        (name) => readFileSync(join(whole, name)).length,
      );
      const path = join(directory, 'run');
      Object.assign(disk, { left: before.reduce((a, b) => a + b, 1000), healsAfter: 1 });
      await expect(scriptedAudit({ directory: path, ...SMALL })).rejects.toThrow(/no space left/);
      const result = await check(path);
      expect(checksOf(result)).toEqual([]);
      expect(result).toMatchObject({ status: 'failed', outcome: 'unfinished' });
    });
  });
});

describe('a place that cannot be written', () => {
  it('is one clear line before anything is decoded', async () => {
    await withDirectory(async (directory) => {
      Object.assign(disk, { left: 0, code: 'EROFS' });
      await expect(scriptedAudit({ directory: join(directory, 'run'), ...SMALL })).rejects.toMatchObject({
        name: 'EnvironmentError',
        message: expect.stringMatching(/^cannot write .*: the file system is read-only$/),
      });
    });
  });
});
