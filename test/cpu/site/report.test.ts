/** The page's own reading of report.json: what it takes, what it refuses and how it says so. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Report } from '../../../harness/report/schema.ts';
import { parseReport, ReportError, readReport } from '../../../site/src/lib/report.ts';
import { sampleReport } from '../../support/sample-report.ts';

/** The sample with one value, found by its path, replaced or (undefined) removed. */
function broken(path: readonly (string | number)[], value: unknown): string {
  const report: unknown = JSON.parse(JSON.stringify(sampleReport()));
  let at = report as Record<string | number, unknown>;
  for (const key of path.slice(0, -1)) at = at[key] as Record<string | number, unknown>;
  at[path.at(-1) ?? ''] = value;
  return JSON.stringify(report);
}

describe('a report the harness would write', () => {
  test('the sample satisfies the published schema, so that these tests speak of real reports', () => {
    expect(Report.parse(sampleReport())).toEqual(sampleReport());
  });

  test('is read as it stands', () => {
    expect(parseReport(JSON.stringify(sampleReport()), 'r.json')).toEqual(sampleReport());
  });

  test('of the first kind has no part on measurement', () => {
    const { measurement: _, ...first } = { ...sampleReport(), schema: 'kilotoken/report@1' as const };
    expect(parseReport(JSON.stringify(first), 'r.json').measurement).toBeUndefined();
  });

  test('may carry fields the page does not know', () => {
    expect(() => parseReport(broken(['run', 'weather'], 'fair'), 'r.json')).not.toThrow();
  });
});

describe('a report the page refuses, in one sentence with the place', () => {
  const cases: readonly [string, string, RegExp][] = [
    ['no JSON', '{"schema": ', /^r\.json is not JSON: /],
    ['no object', '[]', /no schema field/],
    ['null', 'null', /no schema field/],
    ['no schema', '{}', /no schema field, and this page reads "kilotoken\/report@1" and "kilotoken\/report@2" only/],
    ['another version', broken(['schema'], 'kilotoken/report@3'), /schema "kilotoken\/report@3", and this page reads/],
    ['a missing field', broken(['run', 'commit'], undefined), /report\.run\.commit: expected a text, got nothing/],
    [
      'a number as text',
      broken(['verdicts', 1, 'n'], '38112'),
      /report\.verdicts\[1\]\.n: expected a whole number, got "38112"/,
    ],
    [
      'an unknown outcome',
      broken(['verdicts', 0, 'outcome'], 'verified'),
      /verdicts\[0\]\.outcome: expected one of "consistent"/,
    ],
    [
      'an unknown state',
      broken(['acceptance', 2, 'rawMicro', 'state'], 'guessed'),
      /rawMicro\.state: expected one of "measured"/,
    ],
    [
      'a measured value that is null',
      broken(['speed', 0, 'stepMs', 'value'], null),
      /stepMs\.value: expected a finite number, got null/,
    ],
    ['an unknown warning', broken(['warnings', 0, 'code'], 'all-is-well'), /warnings\[0\]\.code: expected one of/],
    ['a list that is none', broken(['files'], {}), /report\.files: expected a list, got an object/],
    ['an object that is none', broken(['machine'], ['a']), /report\.machine: expected an object, got a list of 1/],
    [
      'a fraction of a prompt',
      broken(['suites', 0, 'prompts'], 1.5),
      /suites\[0\]\.prompts: expected a whole number, got 1.5/,
    ],
  ];
  test.each(cases)('%s', (_name, json, message) => {
    expect(() => parseReport(json, 'r.json')).toThrow(message);
    expect(() => parseReport(json, 'r.json')).toThrow(ReportError);
  });

  test('every field of the schema is checked: taking any one away is noticed', () => {
    const unnoticed: string[] = [];
    const walk = (value: unknown, path: (string | number)[]): void => {
      if (value === null || typeof value !== 'object') return;
      for (const [key, inner] of Object.entries(value)) {
        const here = [...path, Array.isArray(value) ? Number(key) : key];
        if (!Array.isArray(value)) {
          try {
            parseReport(broken(here, undefined), 'r.json');
            unnoticed.push(here.join('.'));
          } catch (error) {
            expect(error).toBeInstanceOf(ReportError);
          }
        }
        if (!Array.isArray(value) || Number(key) < 1) walk(inner, here);
      }
    };
    walk(sampleReport(), []);
    expect(unnoticed).toEqual([]);
  });
});

describe('which report is shown', () => {
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'kilotoken-report-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  function publish(name: string, startedAt: string, engine?: string): void {
    const report = sampleReport();
    mkdirSync(join(folder, name));
    const engines = report.engines.map((one) =>
      engine ? { ...one, name: `${engine}/${one.name.split('/')[1]}` } : one,
    );
    const dated = { ...report, run: { ...report.run, id: name, startedAt }, engines };
    writeFileSync(join(folder, name, 'report.json'), JSON.stringify(dated));
  }

  test('of several runs the one that started last, whatever its name or file time', () => {
    publish('b-newest', '2026-03-01T00:00:00Z');
    publish('c-oldest', '2025-12-31T23:59:59Z');
    publish('a-middle', '2026-02-01T00:00:00Z');
    mkdirSync(join(folder, 'not-a-run'));
    expect(readReport(folder)?.report.run.id).toBe('b-newest');
  });

  test('one of a reference engine only where there is no other', () => {
    publish('newest', '2026-03-01T00:00:00Z', 'reference-cuda');
    publish('newer', '2026-02-01T00:00:00Z', 'reference-cpu');
    expect(readReport(folder)?.report.run.id).toBe('newest');
    publish('oldest', '2025-12-31T23:59:59Z', 'stack-cuda');
    expect(readReport(folder)?.report.run.id).toBe('oldest');
  });

  test('an empty folder and no folder hold none', () => {
    expect(readReport(folder)).toBeNull();
    expect(readReport(join(folder, 'nowhere'))).toBeNull();
  });

  test('a file that was asked for by name must exist', () => {
    expect(() => readReport(join(folder, 'report.json'))).toThrow(/report\.json does not exist/);
  });

  test('a broken report among others is named, not skipped', () => {
    publish('good', '2026-03-01T00:00:00Z');
    mkdirSync(join(folder, 'bad'));
    writeFileSync(join(folder, 'bad', 'report.json'), '{}');
    expect(() => readReport(folder)).toThrow(/bad.report\.json cannot be shown/);
  });
});
