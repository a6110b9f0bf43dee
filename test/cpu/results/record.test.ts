/**
 * The published record, judged again: of every run under results/ each digest, verdict and figure follows from its raw rows, by the
 * code of today.
 */
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { checkBundle } from '../../../harness/bundle/check/check.ts';
import { publishRun } from '../../../harness/bundle/publish.ts';
import { readRun } from '../../../harness/bundle/reader.ts';
import { buildReport } from '../../../harness/report/build.ts';
import type { Report } from '../../../harness/report/schema.ts';

const RECORD = fileURLToPath(new URL('../../../results/', import.meta.url));
const runs = readdirSync(RECORD).filter((name) => existsSync(path.join(RECORD, name, 'manifest.json')));

test('the record holds a run', () => {
  expect(runs.length).toBeGreaterThan(0);
});

describe.each(runs)('%s', (name) => {
  /** What the rows of the published folder give, computed once for both tests. */
  let report: Promise<Report> | undefined;
  const reported = (): Promise<Report> => {
    report ??= readRun(path.join(RECORD, name)).then(buildReport);
    return report;
  };

  test('is intact, and may be published', async () => {
    const directory = path.join(RECORD, name);
    const result = await checkBundle(directory, { publicKey: null, build: null });
    expect(result.findings.filter((finding) => finding.level !== 'note')).toEqual([]);
    expect(result).toMatchObject({ outcome: 'intact', run: name, status: 'complete' });
    expect((await reported()).run.publishable).toBe(true);
  });

  test('a copy of it is the same run, and is made once', async () => {
    const record = mkdtempSync(path.join(tmpdir(), 'kilotoken-record-'));
    try {
      const directory = path.join(RECORD, name);
      const copy = await publishRun(directory, record);
      expect(buildReport(await readRun(copy))).toEqual(await reported());
      await expect(publishRun(directory, record)).rejects.toThrow(/append-only/);
    } finally {
      rmSync(record, { recursive: true });
    }
  });
});
