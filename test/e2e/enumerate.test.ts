/** `kilotoken enumerate` from outside: figures, exit codes, one line for what is wrong. */
import { describe, expect, it } from 'vitest';
import { kilotoken, onlyLine } from './cli.ts';

const E1 = 'harness/fixtures/e1.json';

const enumerate = (...args: string[]) => kilotoken(['enumerate', '--fixture', E1, ...args]);

describe('kilotoken enumerate', () => {
  it.each(['match', 'reject', 'coupled'])('%s is lossless: exit 0', async (rule) => {
    const { code, stdout } = await enumerate('--rule', rule, '--json');
    expect(code).toBe(0);
    const found = JSON.parse(stdout) as { distance: number; lossless: boolean; acceptance: { raw: number } };
    expect(found.lossless).toBe(true);
    expect(found.distance).toBeLessThanOrEqual(1e-12);
    expect(found.acceptance.raw).toBeGreaterThan(1);
    expect(found.acceptance.raw).toBeLessThanOrEqual(4);
  });

  it('a defect prints its distance: exit 1', async () => {
    const { code, stdout } = await enumerate('--rule', 'reject', '--defect', 'm01', '--json');
    expect(code).toBe(1);
    const { defect } = JSON.parse(stdout) as { defect: { id: string; state: string; distance: number } };
    expect(defect).toMatchObject({ id: 'M01', state: 'enumerated' });
    expect(defect.distance).toBeGreaterThan(0.01);
  });

  it('a lossless but slow control passes: exit 0', async () => {
    const { code, stdout } = await enumerate('--rule', 'reject', '--defect', 'G03');
    expect(code).toBe(0);
    expect(stdout).toMatch(/target-only/);
  });

  it('the table tells every visible defect apart: exit 0', async () => {
    const { code, stdout } = await enumerate('--rule', 'match', '--defect', 'all', '--json');
    expect(code).toBe(0);
    const { defects, unseen } = JSON.parse(stdout) as { defects: { id: string; state: string }[]; unseen: string[] };
    expect(unseen).toEqual([]);
    expect(defects.length).toBe(48);
    expect(defects.filter(({ state }) => state === 'enumerated').length).toBeGreaterThan(8);
  });

  it.each([
    [['--rule', 'reject', '--defect', 'M99'], /no defect "M99"/],
    [['--rule', 'reject', '--defect', 'M36'], /M36 cannot be seen on fixture e1: needs penalties/],
    [['--rule', 'match', '--defect', 'M02'], /M02 cannot be seen/],
  ])('%j is usage: exit 2, one line', async (args, line) => {
    const finished = await enumerate(...args);
    expect(finished.code).toBe(2);
    expect(onlyLine(finished)).toMatch(line);
  });

  it.each(['match', 'reject', 'coupled'])(
    'inside the C++ loop, %s: both laws consistent, with n and what would be caught',
    async (rule) => {
      const { code, stdout } = await enumerate('--rule', rule, '--engine', 'toy-cpu', '--samples', '3000', '--json');
      expect(code).toBe(0);
      const found = JSON.parse(stdout);
      expect(found).toMatchObject({
        fixture: 'e1',
        consistent: true,
        alpha: 1e-6,
        engine: { name: 'toy-cpu', defects: [] },
      });
      for (const test of [found.emitted, found.accepted]) {
        expect(test.n).toBe(3000);
        expect(test.smallestDistance).toBeGreaterThan(0);
        expect(test.smallestDistance).toBeLessThan(0.2);
      }
      expect(Math.abs(found.firstRound.counted - found.firstRound.exact)).toBeLessThan(0.15);
    },
  );

  it('what the engine lacks is refused: exit 2, one line', async () => {
    const penalties = ['--fixture', 'harness/fixtures/penalties.json', '--rule', 'reject', '--engine', 'toy-cpu'];
    const finished = await kilotoken(['enumerate', ...penalties]);
    expect(finished.code).toBe(2);
    expect(onlyLine(finished)).toMatch(/penalties are not supported by this engine/);
    expect((await enumerate('--rule', 'reject', '--engine', 'other')).code).toBe(2);
  });

  it('a bad fixture or rule: exit 2', async () => {
    const noFixture = await kilotoken(['enumerate', '--fixture', 'package.json', '--rule', 'reject']);
    expect(noFixture.code).toBe(2);
    expect(onlyLine(noFixture)).toMatch(/^error: fixture package\.json: /);
    expect((await enumerate('--rule', 'other')).code).toBe(2);
    expect((await enumerate()).code).toBe(2);
  });
});
