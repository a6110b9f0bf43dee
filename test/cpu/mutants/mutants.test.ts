/**
 * The catalogue's run on a few defects and cheap fixtures: each layer kills what it should, controls are kept by the law
 * and seen by the acceptance, and a defect that changes nothing survives, comes first and fails the command.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { mutantsCommand } from '../../../bin/commands/mutants.ts';
import { OUTSIDE_REGISTRY } from '../../../harness/mutants/catalogue.ts';
import { isOnChain, lookAtGate } from '../../../harness/mutants/layers.ts';
import { runMutants } from '../../../harness/mutants/run.ts';
import { MutantsReport } from '../../../harness/mutants/schema.ts';
import { DEFECTS, type Defect } from '../../../harness/oracle/defects.ts';
import { CORRECT } from '../../../harness/oracle/hooks.ts';
import { findDefect } from '../../../harness/oracle/judge.ts';
import { FIXTURES, fixture } from '../oracle/support.ts';

const CHEAP = [fixture('ties'), fixture('e1')];
const named = (...ids: string[]): Defect[] => ids.map(findDefect);
/** M01 with its change taken out; an id of its own keeps it from the layers that go by id. */
const HARMLESS: Defect = { ...findDefect('M01'), id: 'X01', title: 'changes nothing', change: {} };

const withoutTimes = (report: MutantsReport): unknown =>
  JSON.parse(JSON.stringify(report, (key, value: unknown) => (key === 'seconds' ? undefined : value)));

describe('each layer kills what it should', () => {
  it('edge vectors, exact enumeration and simulation; the controls hold', async () => {
    const report = await runMutants({ fixtures: CHEAP, registry: named('M34', 'M01', 'M40', 'G03', 'G01', 'G02') });
    expect(MutantsReport.parse(report)).toEqual(report);
    expect(report.passed).toBe(true);
    expect(report.defects.map(({ id, outcome, found }) => [id, outcome, found?.layer])).toEqual([
      ['M34', 'killed', 'edge vectors'],
      ['M01', 'killed', 'exact enumeration'],
      ['M40', 'killed', 'seeded simulation'],
      ['G03', 'control holds', 'exact enumeration'],
      ['G01', 'control holds', 'exact enumeration'],
      ['G02', 'control holds', 'exact enumeration'],
    ]);
    expect(report.fixtures).toEqual(['ties', 'e1']);
    expect(report.clean.map(({ layer, holds }) => [layer, holds])).toEqual([
      ['edge vectors', true],
      ['exact enumeration', true],
    ]);
  });

  it('the gate sees a count that is wrong, and says by which checks', async () => {
    const found = await lookAtGate('H02');
    expect(found).toMatchObject({ layer: 'pr gate', measure: 'refuted by law acceptance, books' });
    expect(await lookAtGate('M42')).toBeNull();
  });

  it('two runs differ in their times alone', async () => {
    const once = () => runMutants({ fixtures: CHEAP, registry: named('M02', 'M33', 'G01') });
    expect(withoutTimes(await once())).toEqual(withoutTimes(await once()));
  });
});

describe('survivors', () => {
  it('a defect that changes nothing survives every exact law and comes first', async () => {
    const report = await runMutants({ fixtures: CHEAP, registry: [...named('M01'), HARMLESS] });
    expect(report.passed).toBe(false);
    expect(report.defects.map(({ id, outcome }) => [id, outcome])).toEqual([
      ['X01', 'survived'],
      ['M01', 'killed'],
    ]);
    expect(report.defects[0]!.tried).toEqual(['exact enumeration']);
  });

  it('the same where it would have to be seen in seeded sessions', async () => {
    const sampled: Defect = { ...HARMLESS, exact: [] };
    const report = await runMutants({ fixtures: [fixture('e1')], registry: [sampled] });
    expect(report.defects[0]).toMatchObject({ outcome: 'survived', tried: ['seeded simulation'] });
  });

  it('kills mean nothing where the sampler without a defect fails too', async () => {
    const broken = vi.spyOn(CORRECT, 'residual').mockImplementation((view, slot) => view.hooks.targetRow(view, slot));
    const report = await runMutants({ fixtures: [fixture('ties')], registry: [HARMLESS] });
    broken.mockRestore();
    expect(report.defects[0]!.outcome).toBe('killed');
    expect(report.clean).toMatchObject([{ layer: 'exact enumeration', holds: false }]);
    expect(report.passed).toBe(false);
  });

  it('a defect that no fixture given can show survives, and the reason is said', async () => {
    const report = await runMutants({ fixtures: CHEAP, registry: named('M36') });
    expect(report.passed).toBe(false);
    expect(report.defects[0]).toMatchObject({ outcome: 'survived', tried: [], reason: 'nothing here can show it' });
  });

  it.each([
    ['changes the law', { ...findDefect('M01'), effects: ['acceptance'] }, /killed by the law on ties, reject/],
    ['changes nothing', { ...HARMLESS, effects: ['acceptance'] }, /not seen by the acceptance in 2 exact laws/],
  ] as const)('a control that %s fails', async (_what, defect, reason) => {
    const report = await runMutants({ fixtures: CHEAP, registry: [defect] });
    expect(report.passed).toBe(false);
    expect(report.defects[0]).toMatchObject({ outcome: 'control fails' });
    expect(report.defects[0]!.reason).toMatch(reason);
  });
});

describe('what is not covered', () => {
  it('is every row that did not run, by name', async () => {
    const { notCovered } = await runMutants({ fixtures: CHEAP, registry: named('M01') });
    const ids = notCovered.map(({ id }) => id);
    expect(ids).not.toContain('M01');
    expect(ids).toEqual(expect.arrayContaining(['M02', 'H01', 'H02', 'H03', 'H04', 'sink global', 'anchor']));
    expect(ids.length).toBe(DEFECTS.length + OUTSIDE_REGISTRY.length - 1);
  });

  it('no id is used twice, and the gate engine has H02 alone of the metrics', () => {
    const ids = [...DEFECTS, ...OUTSIDE_REGISTRY].map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    expect(['H01', 'H02', 'H03', 'H04'].filter(isOnChain)).toEqual(['H02']);
  });
});

describe('kilotoken mutants', () => {
  let folder: string;
  let printed: string;
  const codeBefore = process.exitCode;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'kilotoken-mutants-'));
    printed = '';
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      printed += String(text);
      return true;
    });
  });
  afterEach(() => {
    vi.restoreAllMocks();
    process.exitCode = codeBefore;
    rmSync(folder, { recursive: true, force: true });
  });

  async function mutants(registry: readonly Defect[], ...args: string[]): Promise<typeof process.exitCode> {
    const program = new Command().exitOverride();
    mutantsCommand(program, registry);
    await program.parseAsync(['node', 'kilotoken', 'mutants', '--fixture', join(FIXTURES, 'ties.json'), ...args]);
    return process.exitCode;
  }

  it('prints the survivor first and exits 1', async () => {
    expect(await mutants([...named('M01', 'G02'), HARMLESS])).toBe(1);
    const rows = printed.split('\n');
    expect(rows[1]).toMatch(/^X01 +survived .*not seen by exact enumeration/);
    expect(rows[2]).toMatch(/^M01 +killed +exact enumeration +ties, reject +exact/);
    expect(printed).toMatch(/not covered:\n(.*\n)* {2}H01: /);
    expect(printed).toMatch(
      /3 defects: 1 survived, 1 killed \(0 by edge vectors, 1 by exact enumeration, .*\); controls: 1 hold, 0 fail;/,
    );
  });

  it('exits 0 without survivors; --json and --out hold one document', async () => {
    const file = join(folder, 'out.json');
    expect(await mutants(named('M01', 'G02'), '--json', '--out', file)).toBe(0);
    const report = MutantsReport.parse(JSON.parse(printed));
    expect(report.passed).toBe(true);
    expect(MutantsReport.parse(JSON.parse(readFileSync(file, 'utf8')))).toEqual(report);
  });

  it('a missing fixture is bad input', async () => {
    await expect(mutants(named('M01'), '--fixture', join(folder, 'none.json'))).rejects.toThrow(/none\.json: ENOENT/);
  });
});
