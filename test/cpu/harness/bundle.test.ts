/** The run directory: what is written comes back, what was changed is named, and a killed run is still readable. */
import { copyFileSync, cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { judgeDirectory } from '../../../harness/audit.ts';
import { publishRun } from '../../../harness/bundle/publish.ts';
import { readRun } from '../../../harness/bundle/reader.ts';
import { RoundRow } from '../../../harness/bundle/rows.ts';
import { ROW_FILES } from '../../../harness/bundle/writer.ts';
import { buildReport } from '../../../harness/report/build.ts';
import { editDocument, editRows, rowsText, writeRowsText } from '../../support/bundle-files.ts';
import { scriptedAudit, withDirectory } from '../../support/scripted-audit.ts';

/** A finished run in a fresh directory; `use` may damage it. */
async function withRun(use: (run: string) => Promise<void>): Promise<void> {
  await withDirectory(async (directory) => {
    const run = join(directory, 'run');
    await scriptedAudit({ directory: run, plan: { lawSeeds: 10 } });
    await use(run);
  });
}

/** Marks the run as one that was killed: no digests, status still running. */
function markKilled(run: string): void {
  editDocument<{ status: string; files: unknown[] }>(run, 'manifest.json', (manifest) => {
    manifest.status = 'running';
    manifest.files = [];
  });
}

describe('a finished run', () => {
  it('is judged from its rows alone, to the same report', async () => {
    await withRun(async (run) => {
      const stored = readFileSync(join(run, 'report.json'), 'utf8');
      expect(`${JSON.stringify(buildReport(await readRun(run)), null, 2)}\n`).toBe(stored);
      rmSync(join(run, 'report.json'));
      rmSync(join(run, 'verdicts.json'));
      await judgeDirectory(run);
      expect(readFileSync(join(run, 'report.json'), 'utf8')).toBe(stored);
    });
  });

  it('is the same run with its rows unpacked, and a damaged archive is named', async () => {
    await withRun(async (run) => {
      const before = buildReport(await readRun(run));
      for (const name of ['rounds.jsonl', 'sessions.jsonl']) {
        writeFileSync(join(run, name), rowsText(run, name));
        rmSync(join(run, `${name}.gz`));
      }
      expect(buildReport(await readRun(run))).toEqual(before);
      const path = join(run, 'rounds.jsonl.gz');
      const whole = gzipSync(rowsText(run, 'rounds.jsonl'));
      rmSync(join(run, 'rounds.jsonl'));
      writeFileSync(path, whole.subarray(0, whole.length - 20));
      await expect(readRun(run)).rejects.toThrow(/rounds\.jsonl\.gz is not a whole gzip file/);
      writeFileSync(path, 'plain text');
      await expect(readRun(run)).rejects.toThrow(/rounds\.jsonl\.gz is not a whole gzip file/);
      writeFileSync(path, gzipSync('{}\n'));
      await expect(readRun(run)).rejects.toThrow(/rounds\.jsonl\.gz does not hold the rows.*sha256/);
    });
  });

  it('is not published while anything speaks against it', async () => {
    await withRun(async (run) => {
      const record = join(run, '..', 'record');
      const { notPublishableBecause } = buildReport(await readRun(run)).run;
      expect(notPublishableBecause.length).toBeGreaterThan(0); // its drafts are scripted
      await expect(publishRun(run, record)).rejects.toThrow(notPublishableBecause[0]);
      markKilled(run);
      await expect(publishRun(run, record)).rejects.toThrow(/did not finish/);
      expect(existsSync(record)).toBe(false);
    });
  });

  it('holds every session of its plan and every token of its rounds', async () => {
    await withRun(async (run) => {
      const { manifest, sessions } = await readRun(run);
      const due = manifest.plan.phases.reduce((n, phase) => n + phase.prompts.length * phase.repeats * 2, 0);
      expect(sessions.size).toBe(due);
      for (const { rounds } of sessions.values()) expect(rounds.at(-1)!.finish).not.toBeNull();
    });
  });

  it.each([
    ['a truncated file', 'rounds.jsonl', (text: string) => text.slice(0, -40)],
    ['a dropped row', 'rounds.jsonl', (text: string) => text.slice(text.indexOf('\n') + 1)],
    [
      'a flipped count',
      'rounds.jsonl',
      (text: string) => text.replace(/"accepted":(\d)/, (_, n) => `"accepted":${Number(n) + 1}`),
    ],
    ['a changed prompt', 'prompts.jsonl', (text: string) => text.replace('"ids":[', '"ids":[1,')],
    ['a changed session', 'sessions.jsonl', (text: string) => text.replace('"arm":"plain"', '"arm":"speculative"')],
    ['an added fault', 'faults.jsonl', () => '{}\n'],
  ])('refuses %s by name', async (_, file, change) => {
    await withRun(async (run) => {
      editRows(run, file, change);
      await expect(readRun(run)).rejects.toThrow(new RegExp(`${file}.*sha256`));
    });
  });

  it.each([...ROW_FILES, 'manifest.json', 'plan.json'])('refuses a run without %s', async (file) => {
    await withRun(async (run) => {
      rmSync(join(run, file.endsWith('.jsonl') ? `${file}.gz` : file));
      await expect(readRun(run)).rejects.toThrow(file);
    });
  });

  it('refuses a plan that was changed afterwards', async () => {
    await withRun(async (run) => {
      editDocument<{ lawAlpha: number }>(run, 'plan.json', (plan) => {
        plan.lawAlpha = 0.01;
      });
      await expect(readRun(run)).rejects.toThrow(/plan is not the one/);
    });
  });

  it('refuses a manifest of another schema, naming the field', async () => {
    await withRun(async (run) => {
      editDocument<{ schema: string }>(run, 'manifest.json', (manifest) => {
        manifest.schema = 'kilotoken/run@3';
      });
      await expect(readRun(run)).rejects.toThrow(/manifest\.json: schema/);
    });
  });
});

describe('a killed run', () => {
  it('is readable up to its last whole line at whatever byte it was cut', async () => {
    await withRun(async (run) => {
      markKilled(run);
      const whole = rowsText(run, 'rounds.jsonl');
      const cut = `${run}-cut`;
      cpSync(run, cut, { recursive: true });
      for (const bytes of [0, 1, 200, 1000, 1001, 1002, whole.length - 1]) {
        writeRowsText(cut, 'rounds.jsonl', whole.slice(0, bytes));
        const { sessions } = await readRun(cut);
        const rounds = [...sessions.values()].reduce((n, trace) => n + trace.rounds.length, 0);
        const lines = whole.slice(0, bytes).split('\n');
        // The last piece counts if it happens to be a whole document.
        expect([lines.length - 1, lines.length]).toContain(rounds);
      }
      const report = await judgeDirectory(cut);
      expect(report.run.publishable).toBe(false);
      expect(report.run.notPublishableBecause.join()).toMatch(/running/);
    });
  });

  it('may lack its rows altogether, and is then inconclusive', async () => {
    await withRun(async (run) => {
      markKilled(run);
      for (const file of ['sessions.jsonl', 'rounds.jsonl', 'faults.jsonl', 'timings.jsonl'])
        rmSync(join(run, `${file}.gz`));
      const outcomes = (await judgeDirectory(run)).verdicts.map((verdict) => verdict.outcome);
      expect(new Set(outcomes)).toEqual(new Set(['inconclusive']));
    });
  });

  it('still refuses rows that cannot be', async () => {
    await withRun(async (run) => {
      markKilled(run);
      editRows(run, 'rounds.jsonl', (text) => text.replace('"accepted":0', '"accepted":-1'));
      await expect(readRun(run)).rejects.toThrow(/rounds\.jsonl\.gz:\d+: accepted/);
    });
    await withRun(async (run) => {
      markKilled(run);
      editRows(run, 'rounds.jsonl', (text) => text.slice(text.indexOf('\n') + 1));
      await expect(readRun(run)).rejects.toThrow(/rounds\.jsonl\.gz:1: session .* has round 1 where 0 is due/);
    });
  });
});

describe('writing', () => {
  it('refuses a directory that already holds a run', async () => {
    await withRun(async (run) => {
      await expect(scriptedAudit({ directory: run })).rejects.toMatchObject({ name: 'InputError' });
    });
  });

  it('says in one line why a directory cannot be written', async () => {
    await withDirectory(async (directory) => {
      const file = join(directory, 'file');
      copyFileSync(import.meta.filename, file);
      await expect(scriptedAudit({ directory: join(file, 'run') })).rejects.toMatchObject({
        name: 'EnvironmentError',
        message: expect.stringMatching(/^cannot write .*: a part of the path is a file$/),
      });
    });
  });

  it('has no place for what JSON cannot hold', () => {
    const row = {
      session: 's',
      index: 0,
      kind: 'decode',
      committed: [1],
      drafted: [],
      accepted: 0,
      finish: null,
      deviceNs: null,
    };
    const ns = { draft: 0, verify: 0, total: 0 };
    expect(RoundRow.safeParse({ ...row, ns, wallNs: 1 }).success).toBe(true);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, -1]) {
      expect(RoundRow.safeParse({ ...row, ns, wallNs: bad }).success).toBe(false);
      expect(RoundRow.safeParse({ ...row, ns, wallNs: 1, committed: [bad] }).success).toBe(false);
    }
  });
});
