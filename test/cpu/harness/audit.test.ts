/** The audit over engines whose output, acceptance law and step time are known, and over engines that lie. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Engine } from '../../../harness/engine.ts';
import { LIES, type Lie, lyingEngine } from '../../../harness/engines/liars.ts';
import { exitCodeOf } from '../../../harness/report/build.ts';
import type { Measured, Report } from '../../../harness/report/schema.ts';
import {
  ACCEPTANCE,
  SMALL_PLAN,
  STEP_NS,
  scriptedAudit,
  scriptedPrompts,
  withDirectory,
} from '../../support/scripted-audit.ts';

function outcome(report: Report, id: string): string {
  const verdict = report.verdicts.find((entry) => entry.id === id);
  if (verdict === undefined) throw new Error(`no verdict ${id}`);
  return verdict.outcome;
}

function measured(figure: Measured): Extract<Measured, { state: 'measured' }> {
  if (figure.state !== 'measured') throw new Error(figure.reason);
  return figure;
}

describe('a truthful engine', () => {
  it('passes, and every verdict says what it would have caught', async () => {
    await withDirectory(async (directory) => {
      const { report, interrupted } = await scriptedAudit({
        directory: join(directory, 'run'),
        plan: { lawSeeds: 500 },
      });
      expect(interrupted).toBe(false);
      expect(report.verdicts.map((verdict) => [verdict.id, verdict.outcome])).toEqual([
        ['sessions', 'consistent'],
        ['books', 'consistent'],
        ['greedy', 'consistent'],
        ['match', 'consistent'],
        ['coupled', 'consistent'],
        ['reject', 'consistent'],
        ['timings', 'consistent'],
        ['timed-output', 'consistent'],
      ]);
      expect(exitCodeOf(report.verdicts)).toBe(0);
      for (const verdict of report.verdicts) expect(verdict.wouldHaveCaught).toMatch(/\w/);
      expect(report.verdicts.find((verdict) => verdict.id === 'greedy')!.evidence).toMatch(/no difference/);
    });
  });

  it('comes back with its known acceptance length and step times', async () => {
    await withDirectory(async (directory) => {
      const { report } = await scriptedAudit({
        directory: join(directory, 'run'),
        prompts: scriptedPrompts(40),
        plan: {
          tokens: 120,
          stopIds: [],
          lawSeeds: 1,
          speed: { ...SMALL_PLAN.speed, promptsPerScenario: 8, tokens: 60 },
        },
      });
      const survivals = ACCEPTANCE.map((_, i) => ACCEPTANCE.slice(0, i + 1).reduce((a, b) => a * b));
      const expected = 1 + survivals.reduce((a, b) => a + b);
      for (const row of report.acceptance.filter((entry) => entry.decoding === 'greedy')) {
        const raw = measured(row.rawMicro);
        // The interval is 3.92 standard errors wide; the seed is fixed, so four of them are a hard bound here.
        const width = raw.interval!.high - raw.interval!.low;
        expect(Math.abs(raw.value - expected)).toBeLessThan((4 / 3.92) * width);
        expect(width).toBeLessThan(0.6);
        expect(raw.interval!.low).toBeLessThan(raw.value);
        expect(raw.interval!.high).toBeGreaterThan(raw.value);
        expect(1 + row.survival.reduce((a, b) => a + b, 0)).toBeCloseTo(raw.value, 9);
        expect(measured(row.keptMicro).value).toBeLessThanOrEqual(raw.value);
        expect(row.histogram.reduce((a, b) => a + b, 0)).toBe(row.rounds);
      }
      for (const scenario of ['coding', 'chat']) {
        const [plain, speculative] = report.speed.filter((row) => row.scenario === scenario);
        expect(measured(plain!.stepMs).value).toBeCloseTo(STEP_NS.plain / 1e6, 9);
        expect(measured(speculative!.stepMs).value).toBeCloseTo(STEP_NS.speculative / 1e6, 9);
        expect(measured(plain!.decodeTokensPerSecond).value).toBeCloseTo(1e9 / STEP_NS.plain, 6);
        const speedup = measured(speculative!.speedup);
        const kept = measured(speculative!.decodeTokensPerSecond).value / measured(plain!.decodeTokensPerSecond).value;
        expect(speedup.value).toBeCloseTo(kept, 9);
        expect(speedup.interval!.low).toBeGreaterThan(1);
        expect(plain!.speedup.state).toBe('not yet measured');
      }
    });
  });
});

/** Where each lie must surface. A lie that no verdict names is a hole. */
const SURFACES: Record<Lie, { readonly verdict: string; readonly outcome: string; readonly says?: RegExp }> = {
  'past-stop': { verdict: 'books', outcome: 'internally inconsistent' },
  'accepted-plus-one': { verdict: 'books', outcome: 'internally inconsistent' },
  'too-many-tokens': { verdict: 'books', outcome: 'internally inconsistent' },
  'past-limit': { verdict: 'sessions', outcome: 'refuted', says: /overran: \d+ tokens in [4-9] rounds/ },
  'wrong-token': { verdict: 'greedy', outcome: 'refuted' },
  'early-end': { verdict: 'greedy', outcome: 'refuted' },
  'slow-clock': { verdict: 'books', outcome: 'internally inconsistent' },
  'nan-count': { verdict: 'sessions', outcome: 'refuted', says: /malformed: round 2: accepted/ },
  'foreign-token': { verdict: 'books', outcome: 'internally inconsistent' },
  throws: { verdict: 'sessions', outcome: 'refuted', says: /threw: the device is gone/ },
  'throws-on-open': { verdict: 'sessions', outcome: 'refuted', says: /threw: no such device/ },
  hangs: { verdict: 'sessions', outcome: 'refuted', says: /hung: no answer to round 2 within 250 ms/ },
  'hangs-on-open': { verdict: 'sessions', outcome: 'refuted', says: /hung: no answer to open/ },
};

describe('an engine that lies', () => {
  it.each(LIES)('%s is named and never passes', async (lie) => {
    await withDirectory(async (directory) => {
      const change = (engine: Engine, _rule: string, arm: string): Engine =>
        arm === 'speculative' ? lyingEngine(engine, lie) : engine;
      const { report } = await scriptedAudit({ directory: join(directory, 'run'), change, plan: { lawSeeds: 20 } });
      const surface = SURFACES[lie];
      const verdict = report.verdicts.find((entry) => entry.id === surface.verdict)!;
      expect(verdict.outcome).toBe(surface.outcome);
      expect(verdict.evidence).toMatch(surface.says ?? /./);
      expect(exitCodeOf(report.verdicts)).toBe(1);
    });
  });

  it('names the first difference so that it can be looked up', async () => {
    await withDirectory(async (directory) => {
      const change = (engine: Engine, rule: string, arm: string): Engine =>
        arm === 'speculative' && rule === 'coupled' ? lyingEngine(engine, 'wrong-token', 1) : engine;
      const { report } = await scriptedAudit({ directory: join(directory, 'run'), change, plan: { lawSeeds: 20 } });
      const verdict = report.verdicts.find((entry) => entry.id === 'coupled')!;
      expect(verdict.outcome).toBe('refuted');
      expect(verdict.evidence).toMatch(
        /prompt coding-0, position \d+: plain gives token \d+, speculation token \d+, after \d+/,
      );
      expect(outcome(report, 'match')).toBe('consistent');
    });
  });

  it('a law that leaks mass to one token is refuted, and the report is not publishable', async () => {
    await withDirectory(async (directory) => {
      const { report } = await scriptedAudit({
        directory: join(directory, 'run'),
        scripted: { leak: 0.25 },
        plan: { lawSeeds: 400 },
      });
      expect(outcome(report, 'reject')).toBe('refuted');
      expect(report.run.publishable).toBe(false);
      expect(report.run.notPublishableBecause.join()).toMatch(/defects compiled in/);
    });
  });

  it('speed without a verdict on its output carries the warning', async () => {
    await withDirectory(async (directory) => {
      const change = (engine: Engine, rule: string, arm: string): Engine =>
        arm === 'speculative' && rule === 'match' ? lyingEngine(engine, 'wrong-token') : engine;
      const { report } = await scriptedAudit({ directory: join(directory, 'run'), change, plan: { lawSeeds: 20 } });
      const codes = measured(report.speed[0]!.decodeTokensPerSecond).warnings.map((warning) => warning.code);
      expect(codes).toContain('no-correctness-verdict');
    });
  });
});

describe('the word lossless', () => {
  it('is refused to engines of other weights', async () => {
    await withDirectory(async (directory) => {
      const change = (engine: Engine, _rule: string, arm: string): Engine =>
        arm === 'speculative'
          ? { ...engine, card: { ...engine.card, weightsDigest: `sha256:${'0'.repeat(64)}` } }
          : engine;
      const { report } = await scriptedAudit({ directory: join(directory, 'run'), change });
      for (const id of ['greedy', 'match', 'coupled', 'reject']) expect(outcome(report, id)).toBe('not testable here');
      expect(JSON.stringify(report.verdicts)).not.toMatch(/lossless/i);
    });
  });
});

describe('an interrupted run', () => {
  it('is inconclusive on a law of which the last sessions are missing, however many there were', async () => {
    await withDirectory(async (directory) => {
      const controller = new AbortController();
      let sessions = 0;
      const change = (engine: Engine, rule: string): Engine => ({
        ...engine,
        open: (prompt, decoding) => {
          if (rule === 'reject') sessions += 1;
          if (sessions === 1990) controller.abort();
          return engine.open(prompt, decoding);
        },
      });
      const { report } = await scriptedAudit({
        directory: join(directory, 'run'),
        change,
        plan: { lawSeeds: 500 },
        input: { signal: controller.signal },
      });
      const law = report.verdicts.find((verdict) => verdict.id === 'reject')!;
      expect(law.outcome).toBe('inconclusive');
      expect(law.evidence).toMatch(/1\d sessions are missing/);
      expect(outcome(report, 'sessions')).toBe('inconclusive');
      expect(outcome(report, 'greedy')).toBe('consistent');
    });
  });

  it('is marked, judged on what is there and never consistent where sessions are missing', async () => {
    await withDirectory(async (directory) => {
      const controller = new AbortController();
      let sessions = 0;
      const change = (engine: Engine): Engine => ({
        ...engine,
        open: (prompt, decoding) => {
          sessions += 1;
          if (sessions === 20) controller.abort();
          return engine.open(prompt, decoding);
        },
      });
      const { report, interrupted } = await scriptedAudit({
        directory: join(directory, 'run'),
        change,
        input: { signal: controller.signal },
      });
      expect(interrupted).toBe(true);
      expect(report.run.publishable).toBe(false);
      expect(outcome(report, 'greedy')).toBe('inconclusive');
      expect(exitCodeOf(report.verdicts)).toBe(4);
    });
  });
});
