/**
 * The catalogue's run on a few defects and cheap fixtures: every layer that applies is run and kills what it should, controls are kept
 * by the law and seen by the acceptance, a defect that changes nothing survives and comes first, and what was not run is neither.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { mutantsCommand } from '../../../bin/commands/mutants.ts';
import type { DefectBuild } from '../../../harness/mutants/build.ts';
import { NETWORK_ROWS, NOT_IN_LOOP, OUTSIDE_REGISTRY } from '../../../harness/mutants/catalogue.ts';
import { isOnChain } from '../../../harness/mutants/layers.ts';
import { rank, runMutants } from '../../../harness/mutants/run.ts';
import { type Layer, type MutantRow, MutantsReport, readMutants } from '../../../harness/mutants/schema.ts';
import { signTest } from '../../../harness/mutants/trained.ts';
import { DEFECTS, type Defect } from '../../../harness/oracle/defects.ts';
import { CORRECT } from '../../../harness/oracle/hooks.ts';
import { findDefect } from '../../../harness/oracle/judge.ts';
import { FIXTURES, fixture, ROOT } from '../oracle/support.ts';
import { buildDouble, trainedDouble } from './doubles.ts';

vi.setConfig({ testTimeout: 600_000 });

const CHEAP = [fixture('ties'), fixture('e1')];
const named = (...ids: string[]): Defect[] => ids.map(findDefect);
/** M01 with its change taken out; an id of its own keeps it from the layers that go by id. */
const HARMLESS: Defect = { ...findDefect('M01'), id: 'X01', title: 'changes nothing', change: {} };
/** Defects of the catalogue under ids of their own: the oracle's layers alone, which are quick. */
const renamed = (...ids: string[]): Defect[] => named(...ids).map((defect) => ({ ...defect, id: `X${defect.id}` }));

const run = (registry: readonly Defect[], build: DefectBuild | null = null, fixtures = CHEAP) =>
  runMutants({ fixtures, registry, build });
const outcomes = ({ looks }: MutantRow): Record<string, string> =>
  Object.fromEntries(looks.map(({ layer, outcome }) => [layer, outcome]));
const look = ({ looks }: MutantRow, layer: Layer) => looks.find((one) => one.layer === layer);

const withoutTimes = (report: MutantsReport): unknown =>
  JSON.parse(JSON.stringify(report, (key, value: unknown) => (key === 'seconds' ? undefined : value)));

describe('every layer that applies is run', () => {
  it('also behind the first that kills: oracle, loop, gates', async () => {
    const report = await run(named('M01', 'M34'), buildDouble(true));
    expect(MutantsReport.parse(report)).toEqual(report);
    const [m01, m34] = report.defects as [MutantRow, MutantRow];
    expect(outcomes(m01)).toMatchObject({
      'exact enumeration': 'killed',
      'loop: books': 'killed',
      'loop: replay': 'killed',
      'loop: counters': 'not seen',
      'loop: rows': 'not seen',
      'loop: emitted law': 'killed',
      'trained: replay': 'not run',
      'pr gate: loop': 'killed',
      'pr gate: oracle': 'killed',
      'pr gate: fake engine': 'killed',
    });
    expect(look(m01, 'loop: replay')!.n).toBeLessThan(100);
    expect(outcomes(m34)).toMatchObject({
      'edge vectors': 'killed',
      'loop: edge vectors': 'killed',
      'loop: replay': 'not seen',
      'pr gate: loop': 'killed',
    });
    expect(m34.gate).toBe('killed');
    expect(report.clean.map(({ layer, holds }) => [layer, holds])).toEqual(
      expect.arrayContaining([
        ['loop: replay', true],
        ['loop: emitted law', true],
        ['pr gate: loop', true],
        ['pr gate: oracle', true],
      ]),
    );
    expect(report.clean.every(({ holds }) => holds)).toBe(true);
  });

  it('the twin: a build whose defect has no effect is let pass by every layer of the loop', async () => {
    const [m01] = (await run(named('M01'), buildDouble(false))).defects;
    const loop = m01!.looks.filter(({ layer }) => layer.startsWith('loop') || layer === 'pr gate: loop');
    expect(loop.length).toBe(7);
    expect(loop.map(({ outcome }) => outcome)).toEqual(loop.map(() => 'not seen'));
  });

  it('controls: kept by every law, seen by the acceptance and by the declared rule', async () => {
    const report = await run(named('G03', 'G01'), buildDouble(true));
    const [g03, g01] = report.defects as [MutantRow, MutantRow];
    expect([g03.outcome, g01.outcome]).toEqual(['control holds', 'control holds']);
    expect(outcomes(g03)).toMatchObject({
      'exact enumeration': 'killed',
      'loop: emitted law': 'not seen',
      'loop: accepted law': 'killed',
      'pr gate: oracle': 'killed',
    });
    expect(g01.note).toMatch(/not in the C\+\+ loop/);
  });

  it('two runs differ in their times alone', async () => {
    const once = () => run(renamed('M02', 'M33', 'M40'));
    expect(withoutTimes(await once())).toEqual(withoutTimes(await once()));
  });
});

describe('beside the sampler', () => {
  const only = (ids: readonly string[], build: DefectBuild | null = null) =>
    runMutants({ fixtures: CHEAP, build, only: ids });

  it('metrics are recounted from the trace, and their engines meet the gate', async () => {
    const { defects, clean } = await only(['H01', 'H03', 'H04']);
    const byId = new Map(defects.map((row) => [row.id, row]));
    expect(outcomes(byId.get('H01')!)).toEqual({ 'metric recount': 'killed', 'pr gate: fake engine': 'killed' });
    expect(outcomes(byId.get('H03')!)).toEqual({ 'metric recount': 'killed', 'pr gate: fake engine': 'killed' });
    expect(look(byId.get('H04')!, 'pr gate: fake engine')!.measure).toBe('refuted by declarations');
    expect(look(byId.get('H04')!, 'pr gate: oracle')!.measure).toMatch(/law/);
    expect(clean.find(({ layer }) => layer === 'metric recount')!.holds).toBe(true);
  });

  it('networks: golden rows, acceptance floor and gate; one without effect survives and comes first', async () => {
    const trained = trainedDouble({ tap: 1, swiglu: 0.5 }, ['tap', 'mask row']);
    const report = await only(['tap', 'mask row', 'swiglu', 'router bias'], buildDouble(true, trained));
    expect(report.defects.map(({ id, outcome }) => [id, outcome])).toEqual([
      ['router bias', 'survived'],
      ['swiglu', 'killed'],
      ['tap', 'killed'],
      ['mask row', 'killed'],
    ]);
    expect(report.passed).toBe(false);
    const byId = new Map(report.defects.map((row) => [row.id, row]));
    expect(outcomes(byId.get('tap')!)).toMatchObject({
      'trained: golden rows': 'killed',
      'trained: acceptance floor': 'killed',
    });
    expect(outcomes(byId.get('mask row')!)).toMatchObject({ 'trained: golden rows': 'not seen' });
    expect(look(byId.get('tap')!, 'pr gate: trained')!.measure).toBe('refuted by acceptance floor');
    expect(byId.get('swiglu')).toMatchObject({ gate: 'not seen', note: expect.stringMatching(/^of the target/) });
  });

  it('without the build a network row is not run, and a sampler row says so of its loop', async () => {
    const report = await only(['tap', 'M03']);
    expect(report.defects.map(({ id, outcome, gate }) => [id, outcome, gate])).toEqual([
      ['tap', 'not run', 'not run'],
      ['M03', 'killed', 'killed'],
    ]);
    expect(look(report.defects[1]!, 'loop: replay')!.measure).toMatch(/not run: defect build absent/);
    expect(report.passed).toBe(false);
  });
});

describe('survivors', () => {
  it('a defect that changes nothing survives every exact law and comes first', async () => {
    const report = await run([...renamed('M01'), HARMLESS]);
    expect(report.passed).toBe(false);
    expect(report.defects.map(({ id, outcome }) => [id, outcome])).toEqual([
      ['X01', 'survived'],
      ['XM01', 'killed'],
    ]);
    expect(outcomes(report.defects[0]!)).toEqual({ 'exact enumeration': 'not seen' });
  });

  it('the same where it would have to be seen in seeded sessions', async () => {
    const report = await run([{ ...HARMLESS, exact: [] }], null, [fixture('e1')]);
    expect(report.defects[0]).toMatchObject({ outcome: 'survived' });
    expect(outcomes(report.defects[0]!)).toEqual({ 'seeded simulation': 'not seen' });
  });

  it('kills mean nothing where the sampler without a defect fails too', async () => {
    const broken = vi.spyOn(CORRECT, 'residual').mockImplementation((view, slot) => view.hooks.targetRow(view, slot));
    const report = await run([HARMLESS], null, [fixture('ties')]);
    broken.mockRestore();
    expect(report.defects[0]!.outcome).toBe('killed');
    expect(report.clean).toMatchObject([{ layer: 'exact enumeration', holds: false }]);
    expect(report.passed).toBe(false);
  });

  it('a defect that no fixture given can show survives, and the reason is said', async () => {
    const odd: Defect = { ...findDefect('M36'), id: 'X36' };
    const report = await run([odd]);
    expect(report.passed).toBe(false);
    expect(report.defects[0]).toMatchObject({ outcome: 'survived', looks: [], note: 'nothing here can show it' });
  });

  it.each([
    [
      'changes the law',
      { ...findDefect('M01'), id: 'X02', effects: ['acceptance'] },
      /killed by the law on ties, reject/,
    ],
    ['changes nothing', { ...HARMLESS, effects: ['acceptance'] }, /not seen by the acceptance in 2 exact laws/],
  ] as const)('a control that %s fails', async (_what, defect, reason) => {
    const report = await run([defect]);
    expect(report.passed).toBe(false);
    expect(report.defects[0]).toMatchObject({ outcome: 'control fails', note: expect.stringMatching(reason) });
  });

  it('the order: survivors, failing controls, not run, not seen by the gate, the rest', () => {
    const row = (outcome: MutantRow['outcome'], gate: MutantRow['gate']) => rank({ outcome, gate } as MutantRow);
    const order = [
      row('survived', 'not seen'),
      row('control fails', 'killed'),
      row('not run', 'not run'),
      row('killed', 'none'),
      row('killed', 'killed'),
    ];
    expect(order).toEqual([0, 1, 2, 3, 4]);
    expect(row('control holds', 'not seen')).toBe(3);
  });
});

describe('the catalogue', () => {
  it('no id is used twice, and every exception names a row of the registry', () => {
    const ids = [...DEFECTS, ...OUTSIDE_REGISTRY].map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of Object.keys(NOT_IN_LOOP)) expect(findDefect(id).id).toBe(id);
    expect(['H01', 'H02', 'H03'].filter(isOnChain)).toEqual(['H02']);
    expect(NETWORK_ROWS.filter(({ target }) => target).length).toBe(12);
  });

  it('what was left out is named', async () => {
    const { notCovered } = await runMutants({ fixtures: [fixture('ties')], build: null, only: ['tap'] });
    expect(notCovered.length).toBe(DEFECTS.length + OUTSIDE_REGISTRY.length - 1);
  });
});

describe('the sign test', () => {
  it('is the binomial tail at one half', () => {
    expect(signTest(20, 20)).toBeCloseTo(2 ** -20, 15);
    expect(signTest(19, 20)).toBeCloseTo(21 * 2 ** -20, 15);
    expect(signTest(0, 12)).toBeCloseTo(1, 12);
    expect(signTest(0, 0)).toBe(1);
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

  async function mutants(registry: readonly Defect[] | undefined, ...args: string[]): Promise<typeof process.exitCode> {
    const program = new Command().exitOverride();
    mutantsCommand(program, registry, async () => null);
    await program.parseAsync(['node', 'kilotoken', 'mutants', '--fixture', join(FIXTURES, 'ties.json'), ...args]);
    return process.exitCode;
  }

  it('prints the survivor first and exits 1', async () => {
    expect(await mutants([...renamed('M01', 'G02'), HARMLESS])).toBe(1);
    const rows = printed.split('\n');
    expect(rows[1]).toMatch(/^X01 +survived +none/);
    expect(rows[2]).toMatch(/^XM01 +killed +none/);
    expect(printed).toMatch(/XM01: .*\n {2}killed: exact enumeration \(exact, .*\n/);
    expect(printed).toMatch(/left out: .*H01/);
    expect(printed).toMatch(/3 defects: 1 survived, 0 not run, 1 killed; controls: 1 hold, 0 fail;/);
  });

  it('exits 0 without survivors; --json and --out hold one document, which a reader takes', async () => {
    const file = join(folder, 'out.json');
    expect(await mutants(renamed('M01', 'G02'), '--json', '--out', file)).toBe(0);
    const report = MutantsReport.parse(JSON.parse(printed));
    expect(report.passed).toBe(true);
    expect(readMutants(JSON.parse(readFileSync(file, 'utf8')))).toEqual(report);
  });

  it('exits 4 where nothing survived and something was not run', async () => {
    expect(await mutants(undefined, '--only', 'tap')).toBe(4);
    expect(printed).toMatch(/tap +not run +not run/);
  });

  it('a missing fixture and an unknown defect are bad input', async () => {
    await expect(mutants(named('M01'), '--fixture', join(folder, 'none.json'))).rejects.toThrow(
      /none\.json: no such file/,
    );
    await expect(mutants(undefined, '--only', 'M99')).rejects.toThrow(/there is no defect "M99"/);
  });

  it('tables of the first version are still read', () => {
    const published = JSON.parse(readFileSync(join(ROOT, 'results/mutants/table.json'), 'utf8'));
    expect(readMutants(published).schema).toBe('kilotoken/mutants@1');
    expect(() => readMutants({ ...published, schema: 'kilotoken/mutants@9' })).toThrow(/table of defects/);
    expect(() => readMutants({ ...published, passed: 'yes' })).toThrow(/passed/);
  });
});
