/**
 * The published record, judged again: every run under results/ gives, from its raw rows, the very report that is stored beside them.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { publishRun } from '../../../harness/bundle/publish.ts';
import { readRun } from '../../../harness/bundle/reader.ts';
import { buildReport, verdictsOf } from '../../../harness/report/build.ts';

const RECORD = fileURLToPath(new URL('../../../results/', import.meta.url));
const runs = readdirSync(RECORD).filter((name) => existsSync(path.join(RECORD, name, 'manifest.json')));

test('the record holds a run', () => {
  expect(runs.length).toBeGreaterThan(0);
});

describe.each(runs)('%s', (name) => {
  test('the stored report and verdicts follow from the rows, and may be published', async () => {
    const directory = path.join(RECORD, name);
    const stored = (file: string) => JSON.parse(readFileSync(path.join(directory, file), 'utf8'));
    const run = await readRun(directory);
    const report = buildReport(run);
    expect(report).toEqual(stored('report.json'));
    expect(verdictsOf(report)).toEqual(stored('verdicts.json'));
    expect(report.run.id).toBe(name);
    expect(report.run.publishable).toBe(true);
  });

  test('a copy of it is the same run, and is made once', async () => {
    const record = mkdtempSync(path.join(tmpdir(), 'kilotoken-record-'));
    try {
      const directory = path.join(RECORD, name);
      const copy = await publishRun(directory, record);
      expect(buildReport(await readRun(copy))).toEqual(buildReport(await readRun(directory)));
      await expect(publishRun(directory, record)).rejects.toThrow(/append-only/);
    } finally {
      rmSync(record, { recursive: true });
    }
  });
});
