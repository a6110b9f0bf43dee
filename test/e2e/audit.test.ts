/** `audit` and `report` from outside: a whole run with its page, an interrupted one, a killed one. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { Report } from '../../harness/report/schema.ts';
import { editRows, rowsOf } from '../support/bundle-files.ts';
import { writeTinyCheckpoint, writeTinySuites } from '../support/tiny-checkpoint.ts';
import { type Finished, kilotoken, onlyLine } from './cli.ts';

// Whole audits, and a page, on a machine that may be busy.
vi.setConfig({ testTimeout: 600_000 });

let scratch: string;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-audit-'));
  await writeTinyCheckpoint(join(scratch, 'tiny'));
  writeTinySuites(join(scratch, 'suites'), 4);
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const SHORT = [
  '--quick',
  ...[
    '--tokens',
    '16',
    '--sampled-tokens',
    '8',
    '--speed-prompts',
    '1',
    '--speed-tokens',
    '12',
    '--speed-seconds',
    '0',
  ],
];

function audit(name: string, args: readonly string[], watch?: Parameters<typeof kilotoken>[1]): Promise<Finished> {
  const paths = [
    '--checkpoint',
    join(scratch, 'tiny'),
    '--suite',
    join(scratch, 'suites'),
    '--out',
    join(scratch, name),
  ];
  return kilotoken(['audit', ...paths, ...SHORT, ...args], watch);
}

describe('audit', () => {
  it('passes on equal weights, and ends by naming the page it wrote', async () => {
    const done = await audit('whole', ['--law-seeds', '200']);
    const lines = done.stdout.trimEnd().split('\n');
    expect(lines.at(-1)).toBe(`Page: ${join(scratch, 'whole/page/index.html')}`);
    expect(done.stdout).not.toContain('\x1b[');
    expect(done.stderr).toMatch(/greedy: 32\/32 sessions/);

    const run = (file: string): string => readFileSync(join(scratch, 'whole', file), 'utf8');
    const report = Report.parse(JSON.parse(run('report.json')));
    const outcomes = new Map(report.verdicts.map((verdict) => [verdict.id, verdict.outcome]));
    expect(outcomes.size).toBe(8);
    // A round of this model takes microseconds; on a busy machine the time between rounds may spoil a cell, which is then said.
    const spoilt = report.measurement!.cells.some((cell) => cell.identity?.holds === false);
    expect(outcomes.get('timings')).toBe(spoilt ? 'inconclusive' : 'consistent');
    expect(done.code).toBe(spoilt ? 4 : 0);
    outcomes.delete('timings');
    expect(new Set(outcomes.values())).toEqual(new Set(['consistent']));
    expect(report.acceptance).toHaveLength(12);
    expect(report.speed).toHaveLength(8);
    expect(report.claims.length).toBeGreaterThan(10);
    expect(report.claims.map((claim) => claim.outcome)).not.toContain('consistent');
    expect(report.acceptance.find((row) => row.scenario === 'coding')!.published!.value).toBe(6.3);
    const published = await kilotoken(['publish', join(scratch, 'whole'), '--to', join(scratch, 'record')]);
    expect(published.code).toBe(2);
    expect(onlyLine(published)).toMatch(/cannot be published: it is a quick look: run the audit again without --quick/);

    // The page says the very figures of the report.
    const page = run('page/index.html');
    const coding = report.acceptance[0]!.rawMicro;
    if (coding.state !== 'measured') throw new Error(coding.reason);
    expect(page).toContain(coding.value.toFixed(2));
    expect(page).toContain(report.run.id);
  });

  it('prints exactly one document with --json, and is inconclusive when the law test is blind', async () => {
    const done = await audit('json', ['--json', '--no-page', '--law-seeds', '3', '--scenario', 'math']);
    expect(done.code).toBe(4);
    const report = Report.parse(JSON.parse(done.stdout));
    expect(report.verdicts.find((verdict) => verdict.id === 'reject')!.outcome).toBe('inconclusive');
    expect(report.suites.map((suite) => suite.scenario)).toEqual(['math']);

    // The stored rows give the same document again.
    const again = await kilotoken(['report', join(scratch, 'json'), '--json', '--no-page']);
    expect(again).toMatchObject({ code: 4, stdout: done.stdout });
  });

  it('runs in shards that join to the very run, speed included', async () => {
    const args = ['--no-page', '--law-seeds', '20', '--scenario', 'coding', 'math', 'chat'];
    for (const i of [1, 2]) {
      const done = await audit(`shard-${i}`, [...args, '--shard', `${i}/2`]);
      // A shard alone is not the whole evidence, and no failure either.
      expect(done.code, done.stderr).toBe(0);
      const report = Report.parse(JSON.parse(readFileSync(join(scratch, `shard-${i}`, 'report.json'), 'utf8')));
      expect(report.verdicts.find((verdict) => verdict.id === 'greedy')!.outcome).toBe('inconclusive');
    }
    const merged = join(scratch, 'merged');
    const joined = await kilotoken(['merge', merged, join(scratch, 'shard-2'), join(scratch, 'shard-1')]);
    expect(joined.stderr + joined.stdout).not.toMatch(/^error/m);
    const report = Report.parse(JSON.parse(readFileSync(join(merged, 'report.json'), 'utf8')));
    for (const id of ['sessions', 'books', 'greedy', 'match', 'coupled', 'timed-output']) {
      expect(report.verdicts.find((verdict) => verdict.id === id)!.outcome, id).toBe('consistent');
    }
    expect(report.measurement!.cells.map((cell) => cell.scenario)).toEqual([
      'coding',
      'coding',
      'math',
      'math',
      'chat',
      'chat',
    ]);
    for (const cell of report.measurement!.cells) {
      expect(cell.window).toMatchObject({ processes: 2, freshProcesses: true });
    }
    const wrong = await audit('shard-3', ['--shard', '3/2']);
    expect(wrong.code).toBe(2);
    expect(wrong.stderr).toMatch(/is no shard/);
  });

  it('decodes the same tokens for the same seed', async () => {
    const rows = async (name: string): Promise<string[]> => {
      await audit(name, ['--no-page', '--law-seeds', '1', '--scenario', 'chat', '--seed', '9']);
      type Row = { session: string; index: number; committed: number[]; drafted: number[] };
      return rowsOf<Row>(join(scratch, name), 'rounds.jsonl')
        .map(({ session, index, committed, drafted }) => JSON.stringify([session, index, committed, drafted]))
        .sort();
    };
    expect(await rows('seed-a')).toEqual(await rows('seed-b'));
  });

  it('Ctrl-C leaves a marked partial run that can be judged', async () => {
    let sent = false;
    const done = await audit('interrupted', ['--law-seeds', '4000'], {
      watch: (stderr, kill) => {
        if (sent || !stderr.includes('reject: 0/')) return;
        sent = true;
        kill('SIGINT');
      },
    });
    expect(done.code).toBe(130);
    expect(done.stdout.trimEnd().split('\n').at(-1)).toBe(`Interrupted. Partial run: ${join(scratch, 'interrupted')}`);
    const manifest = JSON.parse(readFileSync(join(scratch, 'interrupted/manifest.json'), 'utf8'));
    expect(manifest.status).toBe('interrupted');
    const judged = await kilotoken(['report', join(scratch, 'interrupted'), '--json', '--no-page']);
    expect(judged.code).toBe(4);
    expect(Report.parse(JSON.parse(judged.stdout)).run.publishable).toBe(false);
  });

  it('a killed run is judged on what it left', async () => {
    const done = await audit('killed', ['--law-seeds', '4000'], {
      watch: (stderr, kill) => {
        if (stderr.includes('reject: 0/')) kill('SIGKILL');
      },
    });
    expect(done.signal).toBe('SIGKILL');
    const judged = await kilotoken(['report', join(scratch, 'killed'), '--json', '--no-page']);
    expect(judged.code).toBe(4);
    const report = Report.parse(JSON.parse(judged.stdout));
    expect(report.verdicts.find((verdict) => verdict.id === 'greedy')!.outcome).toBe('consistent');
    expect(report.run.notPublishableBecause).toContain('the run is running');
  });

  it('refuses a directory that holds a run, and names one that cannot be written', async () => {
    const taken = await audit('json', ['--no-page']);
    expect(taken.code).toBe(2);
    expect(taken.stderr).toMatch(/already holds a run/);
    const blocked = await audit('tiny/config.json/run', ['--no-page']);
    expect(blocked.code).toBe(3);
    expect(blocked.stderr).toMatch(/cannot write .*: a part of the path is a file/);
    expect(blocked.stderr).not.toMatch(/\n\s+at /);
  });

  it('refuses a damaged run in one line', async () => {
    editRows(join(scratch, 'json'), 'rounds.jsonl', (text) => text.slice(0, -30));
    const done = await kilotoken(['report', join(scratch, 'json')]);
    expect(done.code).toBe(2);
    expect(onlyLine(done)).toMatch(/rounds\.jsonl\.gz .*sha256/);
  });
});
