/** The speed part of a report, from whole audits over scripted engines: what is shown, what is labelled, what is refused. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readRun, type StoredRun } from '../../../harness/bundle/reader.ts';
import type { TelemetryRow } from '../../../harness/bundle/rows.ts';
import type { TimedSession, TimingRow } from '../../../harness/measure/rows.ts';
import { buildReport, exitCodeOf } from '../../../harness/report/build.ts';
import type { Measurement, Report, SpeedCell } from '../../../harness/report/schema.ts';
import { SMALL_PLAN, STEP_NS, scriptedAudit, scriptedPrompts, withDirectory } from '../../support/scripted-audit.ts';

const SUSTAINED = {
  ...SMALL_PLAN.speed,
  mode: 'sustained' as const,
  blocks: 2,
  leastSeconds: 0.5,
  segmentSeconds: 0.3,
  warmup: { windowSeconds: 0.005, windows: 2, tolerance: 0.5, mostSeconds: 0 },
  economics: {
    taskTokens: [100],
    price: { speculative: 3, plain: 1 },
    machineHour: { value: 2, currency: 'EUR' },
  },
};

/** One audit for all tests: they change what was read back and judge again. */
async function stored(): Promise<StoredRun> {
  return withDirectory(async (directory) => {
    const run = join(directory, 'run');
    await scriptedAudit({
      directory: run,
      prompts: scriptedPrompts(16).map((prompt, i) => ({ ...prompt, tags: [`lang:${i % 4 === 0 ? 'zh' : 'en'}`] })),
      plan: { lawSeeds: 5, speed: SUSTAINED, tokens: 80, stopIds: [] },
    });
    return readRun(run);
  });
}

const run = await stored();
const judged = (change: Partial<StoredRun> = {}): Report => buildReport({ ...run, ...change });
const of = (report: Report): Measurement => report.measurement!;
const cell = (report: Report, id: string): SpeedCell => of(report).cells.find((entry) => entry.id === id)!;
const outcome = (report: Report, id: string) => report.verdicts.find((verdict) => verdict.id === id)!.outcome;

/** Every timed session changed. */
function sessions(change: (row: TimedSession, i: number) => Partial<TimedSession>): TimingRow[] {
  return run.timings.map((row, i) => (row.kind === 'session' ? { ...row, ...change(row, i) } : row));
}

/** Steps that take less time than goes by, as if the harness dawdled between them. */
function shorter(by: number): TimingRow[] {
  const less = (values: readonly number[]): number[] => values.map((ns) => ns / by);
  return sessions((row) => ({ stepNs: less(row.stepNs), engineNs: less(row.engineNs) }));
}

const figure = (entry: SpeedCell, id: string) => entry.figures.find((other) => other.id === id)!.figure;
const valueIn = (entry: SpeedCell, id: string): number => {
  const found = figure(entry, id);
  if (found.state !== 'measured') throw new Error(`${id}: ${found.reason}`);
  return found.value;
};

describe('a truthful run', () => {
  it('shows every definition with its formula, source and the identities beside it', () => {
    const report = judged();
    expect(report.schema).toBe('kilotoken/report@2');
    expect(of(report).cells.map((entry) => entry.id)).toEqual([
      'coding/c1/plain',
      'coding/c1/speculative',
      'chat/c1/plain',
      'chat/c1/speculative',
    ]);
    for (const entry of of(report).cells) {
      expect(entry.invalidBecause).toEqual([]);
      expect(entry.identity).toMatchObject({ holds: true });
      expect(entry.identity!.residual).toBeLessThan(1e-9);
      expect(entry.correctness.outcome).toBe('consistent');
      for (const shown of entry.figures) {
        expect(shown.formula).toMatch(/\w/);
        expect(['trace', 'request', 'counter', 'inferred']).toContain(shown.source);
      }
    }
    const plain = cell(report, 'coding/c1/plain');
    expect(valueIn(plain, 'decode-tps')).toBeCloseTo(1e9 / STEP_NS.plain, 6);
    expect(valueIn(plain, 'ttft')).toBeCloseTo(STEP_NS.prefill / 1e6, 9);
    expect(valueIn(plain, 'task-100')).toBeCloseTo((STEP_NS.prefill + 99 * STEP_NS.plain) / 1e9, 9);
    expect(valueIn(plain, 'tokens-10s')).toBeCloseTo(1 + (10e9 - STEP_NS.prefill) / STEP_NS.plain, 6);
    // The rows readers of the first kind of report look at hold the same figures.
    const row = report.speed.find((entry) => entry.scenario === 'coding' && entry.speculation)!;
    expect(row.decodeTokensPerSecond).toEqual(figure(cell(report, 'coding/c1/speculative'), 'decode-tps'));
    expect(row.speedup).toEqual(of(report).comparisons[0]!.figures.find((entry) => entry.id === 'speedup')!.figure);
  });

  it('labels what the caller assumed, and what was not timed for long, beside each number', () => {
    const report = judged();
    const price = figure(cell(report, 'coding/c1/plain'), 'price-per-million');
    expect(price).toMatchObject({ warnings: expect.arrayContaining([expect.objectContaining({ code: 'assumed' })]) });
    expect(figure(cell(report, 'coding/c1/plain'), 'decode-tps')).not.toMatchObject({
      warnings: expect.arrayContaining([expect.objectContaining({ code: 'assumed' })]),
    });
    const plan = { ...run.manifest.plan, speed: { ...run.manifest.plan.speed!, mode: 'short' as const } };
    const short = judged({ manifest: { ...run.manifest, plan } });
    expect(of(short).statement).toMatch(/^Short run/);
    for (const entry of of(short).cells) {
      expect(entry.headline).toBe(false);
      for (const { figure: shown } of entry.figures) {
        if (shown.state === 'measured') expect(shown.warnings.map((warning) => warning.code)).toContain('short-run');
      }
    }
  });

  it('is no headline in one process, and is one when each segment had its own', () => {
    expect(of(judged()).cells.some((entry) => entry.headline)).toBe(false);
    const fresh = (foreignCores: number): TimingRow[] =>
      run.timings.map((row) => (row.kind === 'segment' ? { ...row, freshProcess: true, foreignCores } : row));
    expect(of(judged({ timings: fresh(0) })).cells.every((entry) => entry.headline)).toBe(true);
    expect(of(judged({ timings: fresh(0.5) })).cells.some((entry) => entry.headline)).toBe(false);
    const half = fresh(0).filter((row) => row.segment < 4);
    expect(of(judged({ timings: half })).cells.some((entry) => entry.headline)).toBe(false);
  });

  it('tells acceptance by facet, counts every prompt once, and says what the prompts do not tell', () => {
    const { facets, absentFacets } = of(judged());
    expect(absentFacets).toEqual([{ facet: 'thinking', reason: expect.stringMatching(/no prompt/) }]);
    for (const decoding of ['greedy']) {
      const language = facets.filter((row) => row.facet === 'language' && row.decoding === decoding);
      expect(language.map((row) => [row.value, row.prompts])).toEqual([
        ['en', 24],
        ['zh', 8],
      ]);
      const rounds = language.reduce((sum, row) => sum + row.rounds, 0);
      const whole = judged().acceptance.filter((row) => row.decoding === decoding);
      expect(rounds).toBe(whole.reduce((sum, row) => sum + row.rounds, 0));
    }
    expect(facets.filter((row) => row.facet === 'temperature').map((row) => row.value)).toEqual([
      '0 (greedy)',
      '1',
      '1',
    ]);
    expect(facets.every((row) => row.source === 'trace')).toBe(true);
  });

  it('sees that the scripted drafts are synthetic, by their card and by their law', () => {
    const checks = new Map(of(judged()).checks.map((check) => [check.id, check.outcome]));
    expect(checks.get('synthetic-acceptance')).toBe('found');
    expect(checks.get('forced-acceptance')).toBe('found');
    expect(checks.get('defects')).toBe('clear');
    expect(checks.get('order')).toBe('found');
    expect(checks.get('throttling')).toBe('not checked');
    expect(checks.get('repeated-requests')).toBe('clear');
    expect(checks.get('harness-overhead')).toBe('not checked');
  });

  it('holds the cost of the harness against the limit', () => {
    const check = (meanUs: number) =>
      of(judged({ events: [...run.events, { t_ns: 1, kind: 'harness-overhead', meanUs, rounds: 1000 }] })).checks.find(
        (entry) => entry.id === 'harness-overhead',
      )!;
    expect(check(0.4).outcome).toBe('clear');
    // The shortest step is 2 ms: 1 % of it is 20 us.
    expect(check(19).outcome).toBe('clear');
    expect(check(21).outcome).toBe('found');
    expect(check(21).evidence).toMatch(/21\.00 us a round .* shortest step of a cell is 2000 us/);
  });
});

describe('a cell that does not hold together is not printed', () => {
  it('when time went by outside the steps: the identity breaks beyond 2 %', () => {
    // Every step, by either clock, says 5 % less than the time that went by.
    const rows = shorter(1.05);
    const report = judged({ timings: rows });
    const entry = cell(report, 'coding/c1/plain');
    expect(entry.identity).toMatchObject({ holds: false });
    expect(entry.identity!.residual).toBeCloseTo(1 - 1 / 1.05, 6);
    for (const { figure: shown } of entry.figures) expect(shown.state).toBe('not yet measured');
    expect(report.speed[0]!.decodeTokensPerSecond.state).toBe('not yet measured');
    expect(report.warnings.map((warning) => warning.code)).toContain('invalid');
    expect(outcome(report, 'timings')).toBe('inconclusive');
    expect(exitCodeOf(report.verdicts)).toBe(4);
  });

  it('and the rows themselves are wrong when steps take longer than the time that went by', () => {
    const rows = sessions((row) => ({ stepNs: row.stepNs.map((ns) => 1.05 * ns) }));
    const report = judged({ timings: rows });
    expect(cell(report, 'coding/c1/plain').identity!.holds).toBe(false);
    expect(outcome(report, 'timings')).toBe('internally inconsistent');
    expect(exitCodeOf(report.verdicts)).toBe(1);
  });

  it('but 1 % is within the tolerance', () => {
    const rows = shorter(1.01);
    expect(cell(judged({ timings: rows }), 'coding/c1/plain').invalidBecause).toEqual([]);
  });

  it('when the hardware slowed itself down; a power cap is shown but is the product', () => {
    const reading = (reason: string): TelemetryRow[] =>
      cellTimes().map((t) => ({
        t_ns: t,
        source: 'nvidia-smi',
        device: '0',
        throttle_reasons: [reason],
        sm_clock_mhz: 1000,
      }));
    const hard = judged({ telemetry: reading('hw_thermal_slowdown') });
    expect(cell(hard, 'coding/c1/plain').invalidBecause.join()).toMatch(/slowed itself down/);
    const soft = judged({ telemetry: reading('sw_power_cap') });
    expect(cell(soft, 'coding/c1/plain').invalidBecause).toEqual([]);
    expect(cell(soft, 'coding/c1/plain').warnings.map((warning) => warning.code)).toContain('throttled');
    expect(of(soft).checks.find((check) => check.id === 'throttling')!.outcome).toBe('found');
  });

  it('when a timed session failed', () => {
    const rows = sessions((row, i) => (row.role === 'measured' && i % 7 === 0 ? { fault: 'the device is gone' } : {}));
    const report = judged({ timings: rows });
    expect(of(report).cells.some((entry) => entry.invalidBecause.join().includes('failed'))).toBe(true);
    expect(outcome(report, 'timed-output')).toBe('refuted');
  });
});

function cellTimes(): number[] {
  return run.timings.flatMap((row) => (row.kind === 'session' && row.role === 'measured' ? [row.startNs + 1e6] : []));
}

describe('what a reader must be told', () => {
  it('energy per token, where a sensor covers the windows', () => {
    const end = Math.max(...run.timings.map((row) => (row.kind === 'segment' ? row.endNs : 0)));
    const telemetry = Array.from({ length: Math.ceil(end / 1e8) + 2 }, (_, i) => ({
      t_ns: i * 1e8,
      source: 'nvidia-smi',
      device: '0',
      power_w: 400,
    }));
    const entry = cell(judged({ telemetry }), 'coding/c1/plain');
    expect(valueIn(entry, 'energy-per-token')).toBeCloseTo((400 * entry.window.seconds) / entry.window.tokens, 6);
    expect(figure(cell(judged(), 'coding/c1/plain'), 'energy-per-token').state).toBe('not yet measured');
  });

  it('a switch that forces acceptance makes the run unpublishable', () => {
    const timings = run.timings.map((row) =>
      row.kind === 'segment' ? { ...row, switches: ['SGLANG_SIMULATE_ACC_LEN'] } : row,
    );
    const report = judged({ timings });
    expect(report.run.notPublishableBecause.join()).toMatch(/SGLANG_SIMULATE_ACC_LEN was set/);
    expect(cell(report, 'chat/c1/plain').warnings.map((warning) => warning.code)).toContain('synthetic-acceptance');
  });

  it('foreign load, the greatest of any segment', () => {
    const timings = run.timings.map((row, i) =>
      row.kind === 'segment' ? { ...row, foreignCores: i === run.timings.length - 1 ? 1.5 : 0 } : row,
    );
    const report = judged({ timings });
    expect(of(report).checks.find((check) => check.id === 'foreign-load')).toMatchObject({ outcome: 'found' });
    expect(
      cell(report, 'coding/c1/plain')
        .warnings.map((warning) => warning.text)
        .join(),
    ).toMatch(/1\.5 cores/);
  });

  it('an output without a consistent verdict marks every figure of the cell', () => {
    const rows = sessions((row) =>
      row.segment === 1 ? { tokens: row.tokens.map((token) => (token + 1) % 16) } : {},
    ).map((row) => (row.kind === 'segment' ? { ...row, freshProcess: true } : row));
    const report = judged({ timings: rows });
    expect(of(report).cells.some((entry) => entry.headline)).toBe(false);
    expect(outcome(report, 'timed-output')).toBe('refuted');
    for (const entry of of(report).cells) {
      expect(entry.correctness.outcome).not.toBe('consistent');
      expect(entry.warnings.map((warning) => warning.code)).toContain('no-correctness-verdict');
    }
  });

  it('nothing at all was timed: no figure, no headline, inconclusive', () => {
    const report = judged({ timings: [] });
    expect(outcome(report, 'timings')).toBe('inconclusive');
    expect(outcome(report, 'timed-output')).toBe('inconclusive');
    for (const entry of of(report).cells) {
      expect(entry.headline).toBe(false);
      for (const { figure: shown } of entry.figures) expect(shown.state).toBe('not yet measured');
    }
  });
});
