/** `check`, `sign`, `diff`, `export` and `merge` from outside: exit codes, one document with --json, runs killed at random times, shards. */
import { spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { sampleBench } from '../support/bench-kernels.ts';
import { editDocument } from '../support/bundle-files.ts';
import { writeTinyCheckpoint, writeTinySuites } from '../support/tiny-checkpoint.ts';
import { kilotoken, onlyLine, ROOT } from './cli.ts';

vi.setConfig({ testTimeout: 600_000 });

const RECORDER = join(ROOT, 'dist/scripts/bench-bundle.js');
let scratch: string;
let run: string;

/** Records drawn rounds through the writer of every audit; `killAfterMs` ends it with SIGKILL so long after its first row. */
function record(directory: string, rounds: number, killAfterMs: number | null): Promise<NodeJS.Signals | null> {
  const child = spawn(process.execPath, [RECORDER, '--rounds', String(rounds), '--record', directory]);
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (killAfterMs !== null && text.includes('recording')) setTimeout(() => child.kill('SIGKILL'), killAfterMs);
  });
  child.stdout.resume();
  return new Promise((done, fail) => {
    child.once('error', fail);
    child.once('close', (_, signal) => done(signal));
  });
}

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-check-'));
  run = join(scratch, 'run');
  await record(run, 4000, null);
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe('check', () => {
  it('passes an intact bundle, and says the same as one document', async () => {
    const done = await kilotoken(['check', run]);
    expect(done.code).toBe(0);
    expect(done.stdout.trimEnd().split('\n').at(-1)).toBe('Intact: everything it says follows from its rows.');
    const json = JSON.parse((await kilotoken(['check', run, '--json'])).stdout) as { outcome: string; rounds: number };
    expect(json.outcome).toBe('intact');
    expect(json.rounds).toBeGreaterThan(3000);
  });

  it('judges all that was published by one command', async () => {
    const whole = join(scratch, 'record');
    cpSync(run, join(whole, 'run'), { recursive: true });
    const kernels = join(scratch, 'kernels.json');
    writeFileSync(kernels, JSON.stringify(sampleBench()));
    const published = await kilotoken(['publish', kernels, '--to', whole]);
    expect(published.stdout.trim()).toBe(join(whole, 'bench', '20260101T000000Z-0000000.json'));
    const done = await kilotoken(['check', '--record', whole]);
    expect(done.stdout.trimEnd().split('\n')).toEqual([
      'intact      audit run',
      'intact      kernel bench bench/20260101T000000Z-0000000.json',
      '2 of 2 follow from their raw rows, every figure and verdict of them computed anew.',
    ]);
    expect(done.code).toBe(0);
    const changed = sampleBench();
    changed.raw.operations[0]!.spanUs[0]! += 1;
    writeFileSync(join(whole, 'bench', '20260101T000000Z-0000000.json'), JSON.stringify(changed));
    const found = await kilotoken(['check', '--record', whole, '--json']);
    expect(found.code).toBe(1);
    const { entries } = JSON.parse(found.stdout) as { entries: { outcome: string; findings: string[] }[] };
    expect(entries.map(({ outcome }) => outcome)).toEqual(['intact', 'different']);
    expect(entries[1]!.findings).toEqual(['figures.operations does not follow from the samples']);
    const nothing = await kilotoken(['check']);
    expect(nothing.code).toBe(2);
    expect(onlyLine(nothing)).toMatch(/name one bundle, or --record/);
    rmSync(whole, { recursive: true });
  });

  it('refutes a changed one by name, and refuses what is none in one line', async () => {
    const copy = join(scratch, 'changed');
    cpSync(run, copy, { recursive: true });
    editDocument<{ title: string }>(copy, 'manifest.json', (manifest) => {
      manifest.title = 'changed';
    });
    const done = await kilotoken(['check', copy]);
    expect(done.code).toBe(1);
    expect(done.stdout).toMatch(/difference {2}tree: manifest\.json is not the file that was sealed/);
    const none = await kilotoken(['check', scratch]);
    expect(none.code).toBe(2);
    expect(onlyLine(none)).toMatch(/is not a run directory/);
  });

  it('asks for a signature and for a build', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('ed25519');
    const paths = { key: join(scratch, 'key.pem'), pub: join(scratch, 'pub.pem'), build: join(scratch, 'build') };
    writeFileSync(paths.key, privateKey.export({ type: 'pkcs8', format: 'pem' }));
    writeFileSync(paths.pub, publicKey.export({ type: 'spki', format: 'pem' }));
    writeFileSync(paths.build, 'some build');
    const signed = join(scratch, 'signed');
    cpSync(run, signed, { recursive: true });
    expect((await kilotoken(['check', signed, '--public-key', paths.pub])).code).toBe(1);
    expect((await kilotoken(['sign', signed, '--key', paths.key])).stdout).toMatch(/^Signed sha256:/);
    expect((await kilotoken(['check', signed, '--public-key', paths.pub])).code).toBe(0);
    expect((await kilotoken(['check', signed, '--build', paths.build])).stdout).toMatch(/difference {2}build: /);
    expect((await kilotoken(['sign', signed, '--key', paths.pub])).code).toBe(2);
  });

  it('reads a run killed at any moment, marks it interrupted and judges it', async () => {
    let rounds = 0;
    for (const [i, delay] of [0, 35, 160, 420, 900, 1700].entries()) {
      const directory = join(scratch, `killed-${i}`);
      expect(await record(directory, 5_000_000, delay)).toBe('SIGKILL');
      const done = await kilotoken(['check', directory, '--json']);
      expect(done.code, done.stdout + done.stderr).toBe(4);
      const result = JSON.parse(done.stdout) as { status: string; differences: number; rounds: number };
      expect(result).toMatchObject({ status: 'running', differences: 0 });
      rounds = Math.max(rounds, result.rounds);
      rmSync(directory, { recursive: true });
    }
    expect(rounds).toBeGreaterThan(1000);
  });
});

describe('diff and export', () => {
  it('compare two runs and write them for other tools', async () => {
    expect((await kilotoken(['diff', run, run])).code).toBe(0);
    const other = join(scratch, 'other');
    await record(other, 2000, null);
    const done = await kilotoken(['diff', run, other]);
    expect(done.code).toBe(1);
    expect(done.stdout).toMatch(/sessions in both, \d+ only in A, 0 only in B/);
    const tables = join(scratch, 'tables');
    const written = await kilotoken(['export', run, '--format', 'parquet', '--out', tables]);
    expect(written).toMatchObject({ code: 0 });
    expect(readFileSync(join(tables, 'rounds.parquet')).subarray(0, 4).toString()).toBe('PAR1');
    const file = join(scratch, 'vllm.json');
    expect((await kilotoken(['export', run, '--format', 'vllm', '--phase', 'greedy', '--out', file])).code).toBe(0);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toHaveProperty('output_throughput');
    expect((await kilotoken(['export', run, '--format', 'vllm', '--phase', 'greedy', '--out', file])).code).toBe(2);
    expect((await kilotoken(['export', run, '--format', 'vllm', '--out', join(scratch, 'x')])).code).toBe(2);
  });
});

describe('merge', () => {
  it('joins the shards of an audit', async () => {
    await writeTinyCheckpoint(join(scratch, 'tiny'));
    writeTinySuites(join(scratch, 'suites'), 2);
    const options = ['--tokens', '8', '--sampled-tokens', '4', '--law-prompts', '2', '--law-seeds', '3', '--no-page'];
    const paths = ['--checkpoint', join(scratch, 'tiny'), '--suite', join(scratch, 'suites'), '--quick'];
    const shards = [1, 2].map((index) => join(scratch, `shard-${index}`));
    for (const [i, out] of shards.entries()) {
      const done = await kilotoken(['audit', ...paths, ...options, '--shard', `${i + 1}/2`, '--out', out]);
      expect(existsSync(join(out, 'tree.json')), done.stderr).toBe(true);
    }
    const alone = await kilotoken(['merge', join(scratch, 'half'), shards[0]!]);
    expect(alone.code).toBe(2);
    expect(onlyLine(alone)).toMatch(/of 2 shards 2 is missing/);
    const merged = join(scratch, 'merged');
    const done = await kilotoken(['merge', merged, ...shards, '--json']);
    expect(JSON.parse(done.stdout), done.stderr).toHaveProperty('verdicts');
    const checked = await kilotoken(['check', merged]);
    expect(checked.code, checked.stdout).toBe(0);
  });
});
