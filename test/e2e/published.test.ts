/** `kilotoken report` of a published run: read and printed, never written to; what would change it is refused, and goes into a copy. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { isPublished, requireSameReport } from '../../bin/support/published.ts';
import { editDocument } from '../support/bundle-files.ts';
import { kilotoken, ROOT } from './cli.ts';

const AUDIT = 'results/20261121T012901Z-c88fb00';
const NODE = 'results/node/20261121T171330Z-f84b9e4';
const scratch = mkdtempSync(join(tmpdir(), 'kilotoken-published-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** Names and times of change of all files of a run. */
const state = (run: string): string[] =>
  readdirSync(join(ROOT, run)).map((name) => `${name} ${statSync(join(ROOT, run, name), { bigint: true }).mtimeNs}`);

describe('report of a published run', () => {
  it.each([AUDIT, NODE])('%s: printed, and not a file of it touched', async (run) => {
    const before = state(run);
    const { code, stdout } = await kilotoken(['report', run]);
    expect([0, 4]).toContain(code);
    expect(stdout).toMatch(run === AUDIT ? /\nNo page: a published run is not written to/ : /Targets:/);
    expect(state(run)).toEqual(before);
  });

  it('is written anew into a copy alone', async () => {
    const out = join(scratch, 'deeper', 'copy');
    const before = state(AUDIT);
    const { stdout } = await kilotoken(['report', AUDIT, '--out', out, '--no-page', '--json']);
    expect(JSON.parse(stdout)).toEqual(JSON.parse(readFileSync(join(out, 'report.json'), 'utf8')));
    expect(readdirSync(out)).toContain('tree.json'); // this run was published before there were trees
    expect(state(AUDIT)).toEqual(before);

    const report = JSON.parse(readFileSync(join(out, 'report.json'), 'utf8')) as object;
    expect(() => requireSameReport(out, report)).not.toThrow();
    editDocument<{ run: { title: string } }>(out, 'report.json', (stored) => {
      stored.run.title = 'another';
    });
    expect(() => requireSameReport(out, report)).toThrow(
      /run\.title says "another", the rows give .*append-only: --out DIR writes the new report into a copy/,
    );
  });

  it('is known by any name of its folder', () => {
    const link = join(scratch, 'link');
    symlinkSync(join(ROOT, 'results'), link);
    expect(['results/x', join(ROOT, NODE), join(link, 'node', 'y', 'z')].map(isPublished)).toEqual([true, true, true]);
    expect(['results', 'resultsx/y', scratch, 'runs/x'].map(isPublished)).toEqual([false, false, false, false]);
  });
});
