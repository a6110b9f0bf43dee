/** The loop that times an engine: what it writes down, in which turns, and what it makes of engines that fail. */
import { describe, expect, it } from 'vitest';
import { lyingEngine } from '../../../harness/engines/liars.ts';
import { cellData } from '../../../harness/measure/cells.ts';
import { compareTimed, timedBooks } from '../../../harness/measure/timed-books.ts';
import { DEFINITIONS } from '../../../harness/report/speed-cells.ts';
import { ACCEPT, STEP, sessionsOf, smallPlan, timedRun } from './support.ts';

const value = (id: string, sums: ReturnType<typeof cellData>[number]['total']): number =>
  DEFINITIONS.find((definition) => definition.id === id)!.of(sums);

describe('a truthful engine', () => {
  it('is timed in the turns of the plan, warms up first, and every figure is the known one', async () => {
    const { plan, rows, books } = await timedRun();
    expect(rows.filter((row) => row.kind === 'segment').map((row) => row.arm)).toEqual(plan.order);
    for (const segment of plan.order.keys()) {
      const roles = sessionsOf(rows)
        .filter((row) => row.segment === segment)
        .map((row) => row.role);
      expect(roles).toEqual([...roles].sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b)));
      expect(roles.filter((role) => role === 'measured')).toHaveLength(3);
      expect(roles.filter((role) => role === 'probe')).toHaveLength(
        plan.probeTimes * plan.cells[0]!.probePrompts.length,
      );
    }
    expect(timedBooks(rows, books)).toEqual([]);
    expect(compareTimed(plan, rows)).toMatchObject({ differences: [], alone: 0 });

    const [plain, speculative] = cellData(plan, rows);
    const { total } = plain!;
    // Two segments of three sessions, 24 tokens each, the first of each by the prefill.
    expect(total).toMatchObject({ sessions: 6, tokens: 144, decodeTokens: 138, rounds: 138 });
    expect(value('decode-tps', total)).toBeCloseTo(1e9 / STEP.plain, 9);
    expect(value('ttft', total)).toBeCloseTo(STEP.prefill / 1e6, 9);
    expect(value('ttst', total)).toBeCloseTo(STEP.plain / 1e6, 9);
    expect(value('tpot', total)).toBeCloseTo(STEP.plain / 1e6, 9);
    expect(value('e2e-tps', total)).toBeCloseTo(24e9 / (STEP.prefill + 23 * STEP.plain), 9);
    expect(value('step', speculative!.total)).toBeCloseTo(STEP.speculative / 1e6, 9);
    expect(value('decode-tps', speculative!.total)).toBeCloseTo(
      (value('kept-al', speculative!.total) * 1e9) / STEP.speculative,
      9,
    );
    expect(value('raw-al', speculative!.total)).toBeGreaterThan(1);
    expect(value('raw-al', speculative!.total)).toBeLessThan(1 + ACCEPT.length);
    expect(value('transport', total)).toBe(0);
  });

  it('takes whole passes until the time of a segment is over', async () => {
    // One pass over three prompts takes 3 x (10 + 23 x 2) ms = 168 ms plain.
    const { plan, rows } = await timedRun(smallPlan({ segmentSeconds: 0.3 }));
    for (const [segment, arm] of plan.order.entries()) {
      const own = sessionsOf(rows).filter((row) => row.segment === segment && row.role === 'measured');
      expect(own.length % 3).toBe(0);
      const first = own[0]!.startNs;
      const lastPass = own.at(-3)!.startNs - first;
      expect(lastPass).toBeLessThan(0.3e9);
      if (arm === 'plain') expect(own).toHaveLength(6);
      expect(own.map((row) => row.pass)).toEqual(own.map((_, i) => Math.floor(i / 3)));
    }
  });

  it('runs several sessions at once where the plan says so, each in its lane', async () => {
    const base = smallPlan();
    const plan = { ...base, cells: base.cells.map((cell) => ({ ...cell, concurrency: 2, probePrompts: [] })) };
    const { rows } = await timedRun(plan);
    expect(new Set(sessionsOf(rows).map((row) => row.lane))).toEqual(new Set([0, 1]));
    const ordinals = sessionsOf(rows)
      .filter((row) => row.segment === 0 && row.role === 'measured')
      .map((row) => row.ordinal);
    expect(ordinals.sort()).toEqual([0, 1, 2]);
  });
});

const ORDER = ['warm-up', 'measured', 'probe'];

describe('an engine that fails while it is timed', () => {
  it.each([
    ['throws', /the device is gone/],
    ['hangs', /hung: no answer to a step/],
    ['nan-count', /malformed: accepted/],
    ['past-limit', /overran/],
  ] as const)('%s: the session says so, and the segment is given up after three', async (lie, says) => {
    const { rows, plan } = await timedRun(
      smallPlan(),
      (engine, arm) => (arm === 'speculative' ? lyingEngine(engine, lie) : engine),
      0.1,
    );
    const bad = sessionsOf(rows).filter((row) => plan.order[row.segment] === 'speculative');
    expect(bad.length).toBeGreaterThan(0);
    for (const row of bad) expect(row.fault).toMatch(says);
    const segments = rows.filter((row) => row.kind === 'segment');
    expect(segments.filter((row) => row.arm === 'speculative').every((row) => /given up/.test(row.fault ?? ''))).toBe(
      true,
    );
    expect(segments.filter((row) => row.arm === 'plain').every((row) => row.fault === null)).toBe(true);
    // Sessions that failed are in no figure.
    expect(cellData(plan, rows)[1]!.total.sessions).toBe(0);
  });

  it.each(['accepted-plus-one', 'too-many-tokens', 'slow-clock', 'foreign-token'] as const)(
    '%s: the books name it',
    async (lie) => {
      const { rows, books } = await timedRun(smallPlan(), (engine, arm) =>
        arm === 'speculative' ? lyingEngine(engine, lie) : engine,
      );
      expect(timedBooks(rows, books).length).toBeGreaterThan(0);
    },
  );

  it('a wrong token is a difference between the arms', async () => {
    const { rows, plan } = await timedRun(smallPlan(), (engine, arm) =>
      arm === 'speculative' ? lyingEngine(engine, 'wrong-token') : engine,
    );
    expect(compareTimed(plan, rows).differences.length).toBeGreaterThan(0);
  });
});

describe('the books of a timed run', () => {
  it('name every single change of a row', async () => {
    const { rows, books, plan } = await timedRun();
    const at = rows.findIndex(
      (row) => row.kind === 'session' && row.role === 'measured' && plan.order[row.segment] === 'speculative',
    );
    const row = sessionsOf([rows[at]!])[0]!;
    const middle = Math.floor(row.kept.length / 2);
    const set = <T>(values: readonly T[], i: number, to: T): T[] => values.map((v, k) => (k === i ? to : v));
    const forgeries: Record<string, Partial<typeof row>> = {
      'more accepted': { accepted: set(row.accepted, middle, 3), drafted: set(row.drafted, middle, 3) },
      'a token less': { tokens: row.tokens.slice(1) },
      'a round less': { kept: row.kept.slice(1) },
      'time turned back': { atNs: set(row.atNs, middle, 0) },
      'a longer step': { stepNs: set(row.stepNs, middle, row.stepNs[middle]! * 10) },
      'a faster harness clock than the engine': { engineNs: set(row.engineNs, middle, row.stepNs[middle]! * 2) },
      'another prompt': { prompt: 'p9' },
      'another seed': { seed: '12345' },
      'another pass': { pass: 5 },
      'another lane': { lane: 1 },
      'another length': { promptTokens: 1 },
      'a segment of the other arm': { segment: 0, startNs: 1e15 },
      'a cell that is not planned': { cell: 'math/c1' },
      'a stop that is none': { finish: 'stop' },
    };
    for (const [name, change] of Object.entries(forgeries)) {
      const forged = rows.map((other, i) => (i === at ? { ...row, ...change } : other));
      if (name === 'more accepted' && row.accepted[middle] === 3) continue;
      const found = [...timedBooks(forged, books), ...compareTimed(plan, forged).differences];
      expect(found.length, name).toBeGreaterThan(0);
    }
    expect(timedBooks(rows, books)).toEqual([]);
  });
});
