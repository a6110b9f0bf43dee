/** `score`, `draft`, `generate`, `doctor` and `schema` from outside: formats, exit codes, one line for bad input. */

import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TINY, writeTinyCheckpoint } from '../support/tiny-checkpoint.ts';
import { kilotoken, onlyLine, ROOT } from './cli.ts';

let scratch: string;
let checkpoint: string;
let draftless: string;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-windows-'));
  checkpoint = join(scratch, 'tiny');
  draftless = join(scratch, 'draftless');
  await writeTinyCheckpoint(checkpoint);
  await writeTinyCheckpoint(draftless, { draft: false });
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function tokenFile(content: unknown): string {
  const path = join(scratch, 'tokens.json');
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

const sorted = (values: readonly number[]): boolean => values.every((value, i) => i === 0 || value <= values[i - 1]!);
const mass = (logprobs: readonly number[]): number => logprobs.reduce((sum, logprob) => sum + Math.exp(logprob), 0);

describe('score', () => {
  it('prints one document with n - 1, n and n entries, and rows that are laws', async () => {
    const ids = [72, 105, 33, 10, 200];
    const file = tokenFile({ cases: [{ ids }, { ids: [7] }], note: 'extra keys are ignored' });
    const done = await kilotoken([
      'score',
      '--checkpoint',
      checkpoint,
      '--tokens',
      file,
      '--top-k',
      String(TINY.vocab),
      '--json',
    ]);
    expect(done.code).toBe(0);
    expect(done.stderr).toBe('');
    const document = JSON.parse(done.stdout);
    expect(Object.keys(document)).toEqual(['cases']);
    const [first, single] = document.cases;
    expect(Object.keys(first).sort()).toEqual(['next_logprobs', 'top_ids', 'top_logprobs']);
    expect(first.next_logprobs).toHaveLength(4);
    expect(first.top_ids).toHaveLength(5);
    expect(single.next_logprobs).toEqual([]);
    expect(single.top_ids).toHaveLength(1);
    first.top_logprobs.forEach((row: number[], at: number) => {
      expect(row).toHaveLength(TINY.vocab);
      expect(sorted(row)).toBe(true);
      expect(mass(row)).toBeCloseTo(1, 6);
      if (at < 4) expect(row[first.top_ids[at].indexOf(ids[at + 1])]).toBeCloseTo(first.next_logprobs[at], 9);
    });
  });

  it('takes its cases from stdin, and its activations from the caller', async () => {
    const input = JSON.stringify({ cases: [{ ids: [1, 2, 3, 4] }] });
    const args = ['score', '--checkpoint', checkpoint, '--tokens', '-', '--json', '--activations'];
    const bf16 = JSON.parse((await kilotoken([...args, 'bf16'], { input })).stdout);
    const fp8 = JSON.parse((await kilotoken([...args, 'fp8'], { input })).stdout);
    expect(bf16.cases[0].top_ids[0]).toHaveLength(10);
    expect(bf16).not.toEqual(fp8);
  });
});

describe('draft', () => {
  it('prints seven rows for the positions after the anchor', async () => {
    const file = tokenFile({ cases: [{ ids: [1, 2, 3, 4, 5, 6] }] });
    const done = await kilotoken(['draft', '--checkpoint', checkpoint, '--tokens', file, '--top-k', '5', '--json']);
    expect(done.code).toBe(0);
    const [entry] = JSON.parse(done.stdout).cases;
    expect(Object.keys(entry).sort()).toEqual(['anchor', 'top_ids', 'top_logprobs']);
    expect(entry.anchor).toBe(5);
    expect(entry.top_ids).toHaveLength(7);
    for (const row of entry.top_logprobs) {
      expect(row).toHaveLength(5);
      expect(sorted(row)).toBe(true);
    }
  });

  it('needs a draft', async () => {
    const file = tokenFile({ cases: [{ ids: [1, 2] }] });
    const done = await kilotoken(['draft', '--checkpoint', draftless, '--tokens', file, '--json']);
    expect(done.code).toBe(2);
    expect(onlyLine(done)).toMatch(/no dflash\/ draft/);
  });
});

const LONG = { cases: [{ ids: Array.from({ length: TINY.maxContext + 1 }, () => 1) }] };

describe('bad token files', () => {
  it.each([
    ['not JSON', '{"cases":', /is not JSON/],
    ['an array', [], /expected \{"cases"/],
    ['no case', { cases: [] }, /cases/],
    ['an empty case', { cases: [{ ids: [1] }, { ids: [] }] }, /case 1 has 0 tokens/],
    [
      'an id past the vocabulary',
      { cases: [{ ids: [1, TINY.vocab] }] },
      /case 0: token 271 at 1 is outside 0 \.\. 270/,
    ],
    ['a negative id', { cases: [{ ids: [-1] }] }, /token -1/],
    ['a fraction', { cases: [{ ids: [1.5] }] }, /cases\.0\.ids\.0/],
    ['text for an id', { cases: [{ ids: ['1'] }] }, /cases\.0\.ids\.0/],
    ['a context over the limit', LONG, /513 tokens, the context is 512/],
  ])('%s: one line, exit code 2', async (_, content, message) => {
    const file = tokenFile(content);
    for (const command of ['score', 'draft']) {
      const done = await kilotoken([command, '--checkpoint', checkpoint, '--tokens', file, '--json']);
      expect(done.code).toBe(2);
      expect(done.stdout).toBe('');
      expect(onlyLine(done)).toMatch(message);
    }
  });
});

describe('usage', () => {
  it.each([
    [['nonsense'], /unknown command/],
    [['score', '--checkpoint', 'x'], /required option '--tokens/],
    [['score', '--checkpoint', '/no/such/folder', '--tokens', 'x'], /checkpoint "\/no\/such\/folder": not found/],
    [['audit', '--tokens', '12abc'], /whole number/],
    [['audit', '--seed', '18446744073709551616'], /18446744073709551615/],
    [['generate'], /one of --prompt, --messages and --ids/],
    [['generate', '--prompt', 'x', '--top-p', '0'], /number above 0/],
    [['schema', 'nothing'], /there is no schema/],
    [['report', '/no/such/run'], /no such folder/],
  ])('%j: one line, exit code 2', async (args, message) => {
    const done = await kilotoken(args);
    expect(done.code).toBe(2);
    expect(done.stdout).toBe('');
    expect(onlyLine(done)).toMatch(message);
  });

  it('help and version go to stdout', async () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
    expect(await kilotoken(['--version'])).toMatchObject({ code: 0, stdout: `${version}\n`, stderr: '' });
    const help = await kilotoken(['--help']);
    expect(help.code).toBe(0);
    expect(help.stdout).toMatch(/Exit codes: 0 pass, 1 refuted, 2 usage/);
  });

  it('says what to run where nothing is built', () => {
    mkdirSync(join(scratch, 'bin'));
    copyFileSync(join(ROOT, 'bin/kilotoken.mjs'), join(scratch, 'bin/kilotoken.mjs'));
    const done = spawnSync(process.execPath, [join(scratch, 'bin/kilotoken.mjs')], { encoding: 'utf8' });
    expect(done.status).toBe(3);
    expect(done.stderr).toMatch(/run: npm run setup/);
  });
});

describe('generate', () => {
  it('streams the same greedy text with and without speculation, and keeps figures on stderr', async () => {
    const args = ['generate', '--checkpoint', checkpoint, '--prompt', 'the end', '--max-tokens', '40', '--stats'];
    const speculative = await kilotoken(args);
    const plain = await kilotoken([...args, '--block', '1']);
    expect(speculative.code).toBe(0);
    expect(speculative.stdout.length).toBeGreaterThan(5);
    expect(speculative.stdout).toBe(plain.stdout);
    expect(speculative.stderr).toMatch(/tokens a round, bonus counted/);
    expect(speculative.stdout).not.toMatch(/tokens a round/);
  });

  it('reads messages, and refuses what is not a conversation', async () => {
    const file = join(scratch, 'messages.json');
    writeFileSync(
      file,
      JSON.stringify([
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'the end' },
      ]),
    );
    const args = ['generate', '--checkpoint', checkpoint, '--max-tokens', '4', '--messages', file];
    expect((await kilotoken(args)).code).toBe(0);
    writeFileSync(file, JSON.stringify([{ role: 'assistant', content: 'hello' }]));
    const done = await kilotoken(args);
    expect(done.code).toBe(2);
    expect(onlyLine(done)).toMatch(/the last message must be from the user or a tool/);
  });
});

describe('doctor', () => {
  it('prints one document, and a missing GPU fails only when it is required', async () => {
    const done = await kilotoken(['doctor', '--json']);
    const { findings } = JSON.parse(done.stdout) as {
      findings: { name: string; state: string; remedy: string | null }[];
    };
    expect(done.code).toBe(0);
    for (const name of ['node', 'addon', 'compiler', 'cmake', 'cpu', 'memory', 'cuda', 'gpu', 'checkpoint']) {
      expect(findings.map((finding) => finding.name)).toContain(name);
    }
    for (const finding of findings) expect(finding.remedy === null).toBe(finding.state !== 'missing');
    const gpu = findings.find((finding) => finding.name === 'gpu')!.state === 'ok';
    expect((await kilotoken(['doctor', '--require', 'gpu'])).code).toBe(gpu ? 0 : 3);
  });
});

describe('overhead', () => {
  it('prints what the harness costs a round, and its exit code says whether that is within the limit', async () => {
    const args = ['overhead', '--sessions', '20', '--tokens', '256', '--block', '1', '8'];
    const done = await kilotoken([...args, '--json']);
    const { rows, limit } = JSON.parse(done.stdout) as {
      rows: { blockSize: number; rounds: number; meanUs: number; withinLimit: boolean }[];
      limit: { microseconds: number };
    };
    expect(rows.map((row) => [row.blockSize, row.rounds])).toEqual([
      [1, 20 * 255],
      [8, 20 * 32],
    ]);
    for (const row of rows) expect(row.withinLimit).toBe(row.meanUs <= limit.microseconds);
    expect(done.code).toBe(rows.every((row) => row.withinLimit) ? 0 : 1);
    expect(done.stderr).toBe('');
  });
});

describe('segment', () => {
  it('is not for people: without a job it says so in one line', async () => {
    const done = await kilotoken(['segment']);
    expect(done.code).toBe(2);
    expect(onlyLine(done)).toMatch(/started by audit/);
    expect((await kilotoken(['--help'])).stdout).not.toMatch(/\bsegment\b/);
  });
});
