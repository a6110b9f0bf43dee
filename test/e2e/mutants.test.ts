/** `kilotoken mutants` from outside, on a few defects: exit codes, the order of the table, one JSON document, one line for what is wrong. */
import { describe, expect, it, vi } from 'vitest';
import { kilotoken, onlyLine } from './cli.ts';

vi.setConfig({ testTimeout: 600_000 });

const FIXTURES = ['--fixture', 'harness/fixtures/ties.json', 'harness/fixtures/e1.json'];
const mutants = (...args: string[]) => kilotoken(['mutants', ...FIXTURES, '--no-build', ...args]);

describe('kilotoken mutants', () => {
  it('kills a metric and a sampler by all their layers: exit 0', async () => {
    const { code, stdout } = await mutants('--only', 'H01', 'H03', '--json');
    expect(code).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ schema: 'kilotoken/mutants@2', passed: true, build: null });
    for (const row of report.defects) {
      expect(row).toMatchObject({ outcome: 'killed', gate: 'killed' });
      expect(row.looks.map(({ layer }: { layer: string }) => layer)).toEqual([
        'metric recount',
        'pr gate: fake engine',
      ]);
    }
  });

  it('what needs the absent build is not run, comes first and is no kill: exit 4', async () => {
    const { code, stdout } = await mutants('--only', 'causal block', 'M03');
    expect(code).toBe(4);
    const lines = stdout.split('\n');
    expect(lines[1]).toMatch(/^causal block +not run +not run/);
    expect(lines[2]).toMatch(/^M03 +killed +killed/);
    expect(stdout).toMatch(/M03: .*\n {2}killed: exact enumeration \(exact, .*pr gate: oracle \(\d+ \w+, /);
    expect(stdout).toMatch(/2 defects: 0 survived, 1 not run, 1 killed; controls: 0 hold, 0 fail;/);
  });

  it.each([
    [['--only', 'M99'], /no defect "M99"/],
    [['--fixture', 'package.json'], /^error: fixture package\.json: /],
  ])('%j is usage: exit 2, one line', async (args, line) => {
    const finished = await mutants(...args);
    expect(finished.code).toBe(2);
    expect(onlyLine(finished)).toMatch(line);
  });
});
