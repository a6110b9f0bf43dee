/** The plan fixes everything beforehand; the word lossless has a subject; the exit code follows from the verdicts. */
import { describe, expect, it } from 'vitest';
import { EngineCardRow } from '../../../harness/bundle/rows.ts';
import { cellsOf } from '../../../harness/bundle/shards.ts';
import { makePlan, sessionCount, speedCellsOf, tasksOf } from '../../../harness/plan.ts';
import { exitCodeOf } from '../../../harness/report/build.ts';
import type { Verdict } from '../../../harness/report/schema.ts';
import { comparability } from '../../../harness/verify/comparability.ts';
import { SMALL_PLAN, scriptedPrompts } from '../../support/scripted-audit.ts';

const { plan, rows } = makePlan(scriptedPrompts(), (rule, arm) => `${rule}-${arm}`, SMALL_PLAN);
const phase = (id: string) => plan.phases.find((entry) => entry.id === id)!;

describe('the plan', () => {
  it('decodes every prompt on both sides in the equality phases, with one seed a pair', () => {
    for (const id of ['greedy', 'match', 'coupled']) {
      const tasks = tasksOf(plan, phase(id));
      expect(tasks).toHaveLength(2 * scriptedPrompts().length);
      for (let i = 0; i < tasks.length; i += 2) {
        expect(tasks[i]!.prompt).toBe(tasks[i + 1]!.prompt);
        expect([tasks[i]!.arm, tasks[i + 1]!.arm]).toEqual(['plain', 'speculative']);
        expect(tasks[i]!.decoding).toEqual(tasks[i + 1]!.decoding);
      }
    }
    expect(phase('greedy').temperature).toBe(0);
    expect(phase('coupled')).toMatchObject({ temperature: 1, rule: 'coupled', plain: 'coupled-plain' });
  });

  it('never uses a seed twice in the law test: its samples must be independent', () => {
    const seeds = tasksOf(plan, phase('reject')).map((task) => task.decoding.seed);
    expect(new Set(seeds).size).toBe(seeds.length);
    expect(seeds.length).toBe(sessionCount(phase('reject')));
  });

  it('times A B B A in processes of their own, each scenario a cell, warm on prompts that are not timed', () => {
    const { speed } = plan;
    expect(speed!.order).toEqual(['plain', 'speculative', 'speculative', 'plain']);
    expect(speed!.cells.map((cell) => cell.id)).toEqual(['coding/c1', 'chat/c1']);
    for (const cell of speed!.cells) {
      const all = [...cell.prompts, ...cell.warmupPrompts, ...cell.probePrompts];
      expect(new Set(all).size).toBe(all.length);
      expect(cell.prompts).toHaveLength(SMALL_PLAN.speed.promptsPerScenario);
      expect(cell.warmupPrompts.length).toBeGreaterThan(0);
      for (const id of all) expect(rows.find((row) => row.id === id)!.scenario).toBe(cell.scenario);
    }
    expect(plan.phases.map((entry) => entry.test)).not.toContain('speed');
  });

  it('deals every cell to exactly one shard, whole', () => {
    for (const of of [1, 2, 3, 7]) {
      const dealt = Array.from({ length: of }, (_, i) => speedCellsOf(plan, { index: i + 1, of })).flat();
      expect(dealt.sort()).toEqual(plan.speed!.cells.map((cell) => cell.id).sort());
      const cells = Array.from({ length: of }, (_, i) => [...cellsOf(plan, { index: i + 1, of })]).flat();
      expect(new Set(cells).size).toBe(cells.length);
      expect(cells).toHaveLength(plan.phases.reduce((sum, entry) => sum + entry.prompts.length, 0));
    }
    expect(speedCellsOf(plan, null)).toHaveLength(2);
  });

  it('names sessions uniquely, and keeps law prompts apart from the suites', () => {
    const names = plan.phases.flatMap((entry) => tasksOf(plan, entry).map((task) => task.session));
    expect(new Set(names).size).toBe(names.length);
    expect(new Set(rows.map((row) => row.id)).size).toBe(rows.length);
    for (const id of phase('reject').prompts) {
      expect(id).toMatch(/#end$/);
      expect(rows.find((row) => row.id === id)!.ids.length).toBeLessThanOrEqual(SMALL_PLAN.lawPromptTokens);
    }
  });

  it('is the same for the same options and another for another seed', () => {
    const again = makePlan(scriptedPrompts(), (rule, arm) => `${rule}-${arm}`, SMALL_PLAN);
    expect(again).toEqual({ plan, rows });
    const other = makePlan(scriptedPrompts(), (rule, arm) => `${rule}-${arm}`, { ...SMALL_PLAN, seed: '8' });
    expect(tasksOf(other.plan, other.plan.phases[1]!)[0]!.decoding.seed).not.toBe(
      tasksOf(plan, phase('match'))[0]!.decoding.seed,
    );
  });
});

const CARD = EngineCardRow.parse({
  name: 'e',
  weightsDigest: `sha256:${'a'.repeat(64)}`,
  draftDigest: 'none',
  numerics: { id: 'experts=mxfp4;act=fp8', experts: 'mxfp4', linears: 'fp8', activations: 'fp8', kv: 'bf16' },
  device: 'cpu',
  topology: 'none',
  tensorParallel: 1,
  blockSize: 8,
  rule: 'match',
  buildDigest: 'none',
  vocabSize: 16,
  maxContext: 64,
  defects: [],
  syntheticAcceptance: null,
});

describe('comparability', () => {
  it('is lossless only for the same weights in the same numerics', () => {
    expect(comparability(CARD, { ...CARD, blockSize: 1, device: 'gpu' }).kind).toBe('lossless');
    const others = [
      { ...CARD, weightsDigest: `sha256:${'b'.repeat(64)}` },
      { ...CARD, numerics: { ...CARD.numerics, id: 'experts=fp8;act=fp8' } },
      { ...CARD, vocabSize: 17 },
    ];
    for (const other of others) {
      const pair = comparability(CARD, other);
      expect(pair.kind).toBe('fidelity');
      if (pair.kind === 'fidelity') expect(pair.because).toHaveLength(1);
    }
  });

  it('is fidelity when an engine cannot name its weights, even if neither can', () => {
    const nameless = { ...CARD, weightsDigest: 'none' };
    expect(comparability(nameless, nameless).kind).toBe('fidelity');
  });
});

describe('the exit code', () => {
  const verdicts = (...outcomes: Verdict['outcome'][]): Verdict[] =>
    outcomes.map((outcome) => ({ outcome }) as Verdict);

  it.each([
    [['consistent', 'consistent'], 0],
    [['consistent', 'not testable here'], 0],
    [['consistent', 'refuted'], 1],
    [['inconclusive', 'refuted'], 1],
    [['consistent', 'internally inconsistent'], 1],
    [['consistent', 'inconclusive'], 4],
    [['not testable here'], 4],
    [[], 4],
  ] as const)('%j gives %i', (outcomes, code) => {
    expect(exitCodeOf(verdicts(...outcomes))).toBe(code);
  });
});
