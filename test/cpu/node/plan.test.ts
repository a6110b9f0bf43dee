/** The plan of a node benchmark: a function of its options, whole, interleaved, and within its budget by priority. */
import { describe, expect, it } from 'vitest';
import { planNodeBench } from '../../../harness/bench/node/bench.ts';
import { FakeMachine, type FakeOptions } from '../../../harness/bench/node/fake.ts';
import {
  corruptionSeed,
  estimateSeconds,
  GROUPS,
  makeNodePlan,
  NODE_DEFAULTS,
  type NodePlan,
  type NodePlanInput,
} from '../../../harness/bench/node/plan.ts';
import { PROFILES } from '../../../harness/bench/node/profile.ts';
import { SMALL } from './support.ts';

const NO_LACKS = {
  fp8Experts: null,
  reference: null,
  filledContext: null,
  sharedRouting: null,
  readCeiling: null,
  collectives: null,
};
const INPUT: NodePlanInput = {
  shape: 'pro',
  seed: '1',
  gpus: 8,
  freeBytes: 150e9,
  layers: null,
  lacks: NO_LACKS,
  groups: [...GROUPS],
  ...NODE_DEFAULTS,
  profiles: [...PROFILES],
};

const tasksOf = (plan: NodePlan, stage: string) => plan.stages.find(({ id }) => id === stage)!.tasks;
const plan = (change: Partial<NodePlanInput> = {}): NodePlan => makeNodePlan({ ...INPUT, ...change });

describe('the plan on eight GPUs', () => {
  it('has four headlines, twelve ablation cells, the sweeps, the reference and 20,000 tokens twice', () => {
    const { cells, notMeasured, models } = plan();
    const of = (group: string): string[] => cells.filter((cell) => cell.group === group).map(({ id }) => id);
    expect(of('headline')).toEqual(['headline/coding', 'headline/math', 'headline/agent', 'headline/all']);
    expect(of('ablation')).toHaveLength(12);
    expect(of('context')).toEqual([1024, 4096, 16_384, 32_768, 65_536, 131_072].map((context) => `context/${context}`));
    expect(of('block')).toHaveLength(8);
    expect(of('gpus')).toHaveLength(8);
    expect(of('routing')).toEqual(['routing/0.5/on', 'routing/1/on']);
    expect(of('reference')).toEqual(['reference/plain', 'reference/graph']);
    expect(notMeasured).toEqual([]);
    expect(models[0]).toMatchObject({ layers: 70, gpus: 8, experts: 'mxfp4' });
    expect(cells.find(({ group }) => group === 'lossless')!.tokens).toBe(20_000);
    expect(tasksOf(plan(), 'lossless').filter(({ role }) => role === 'timed')).toHaveLength(2);
  });

  it('is the same again, and another with another seed', () => {
    expect(plan()).toEqual(plan());
    expect(tasksOf(plan({ seed: '2' }), 'ablation-mxfp4')).not.toEqual(tasksOf(plan(), 'ablation-mxfp4'));
  });

  it('interleaves: every repeat holds every cell once, in orders of their own', () => {
    const timed = tasksOf(plan(), 'ablation-mxfp4').filter(({ role }) => role === 'timed');
    const orders = new Set<string>();
    for (let repeat = 0; repeat < NODE_DEFAULTS.repeats; repeat++) {
      const cells = timed.slice(6 * repeat, 6 * repeat + 6);
      expect(cells.map((task) => task.repeat)).toEqual(new Array(6).fill(repeat));
      expect(new Set(cells.map((task) => task.cell)).size).toBe(6);
      orders.add(cells.map((task) => task.cell).join());
    }
    expect(orders.size).toBeGreaterThan(1);
  });

  it('records before it proposes', () => {
    for (const change of [{}, { gpus: 4 }, { gpus: 1 }]) {
      const made = plan(change);
      const recorded = new Set<string>();
      for (const task of made.stages.flatMap(({ tasks }) => tasks)) {
        const cell = made.cells.find(({ id }) => id === task.cell)!;
        const text = `${cell.model}/${cell.context}`;
        if (task.role === 'record') recorded.add(text);
        if (cell.profile !== null) expect([cell.id, recorded.has(text)]).toEqual([cell.id, true]);
        const longest = made.cells.find(({ id }) => id === `record/${text}`);
        if (cell.profile !== null) expect(longest!.tokens).toBeGreaterThanOrEqual(cell.tokens + 8);
      }
    }
  });

  it('fits every generation into its model', () => {
    for (const gpus of [1, 2, 4, 8]) {
      const made = plan({ gpus, budgetSeconds: 1e6 });
      for (const cell of made.cells) {
        const model = made.models.find(({ id }) => id === cell.model)!;
        expect(cell.context + cell.tokens).toBeLessThanOrEqual(model.maxContext);
        expect(model.estimatedGpuBytes).toBeLessThanOrEqual(150e9);
      }
    }
  });

  it('gives cells that differ in launches alone the same draws, repeats others', () => {
    const made = plan();
    const seedOf = (id: string, repeat: number): string =>
      corruptionSeed('1', made.cells.find((cell) => cell.id === id)!, { cell: id, role: 'timed', repeat });
    expect(seedOf('ablation/mxfp4/on/ops', 2)).toBe(seedOf('ablation/mxfp4/on/resident', 2));
    expect(seedOf('ablation/mxfp4/on/ops', 2)).not.toBe(seedOf('ablation/mxfp4/on/ops', 3));
    expect(seedOf('headline/coding', 0)).not.toBe(seedOf('headline/math', 0));
    expect(seedOf('lossless/agent', 0)).toBe(seedOf('lossless/agent', 1));
  });
});

describe('fewer GPUs', () => {
  it('take fewer layers and say so; counts that are not there are named', () => {
    const made = plan({ gpus: 2, budgetSeconds: 1e6 });
    expect(made.models[0]!.layers).toBeLessThan(70);
    expect(made.notMeasured.map(({ cell }) => cell)).toEqual([
      'gpus/4/on',
      'gpus/4/off',
      'gpus/8/on',
      'gpus/8/off',
      'collectives/4',
      'collectives/8',
    ]);
    expect(made.collectives!.gpus).toEqual([2]);
    expect(made.notMeasured[0]!.reason).toBe('not yet measured on 4 GPUs: this run has 2');
  });

  it('have a cell of the stack with the layers of the reference', () => {
    const made = plan({ gpus: 4, budgetSeconds: 1e6 });
    const layers = (cell: string): number =>
      made.models.find(({ id }) => id === made.cells.find((each) => each.id === cell)!.model)!.layers;
    expect(layers('headline/coding')).toBe(70);
    expect(layers('reference/plain')).toBeLessThan(70);
    expect(layers('matched/on')).toBe(layers('reference/plain'));
  });

  it('with too little memory end with the numbers', () => {
    expect(() => plan({ freeBytes: 8e9, gpus: 1 })).toThrow(
      /^2 layers on 1 GPU need about [\d.]+ GiB of each; 7\.5 GiB are free$/,
    );
    expect(() => plan({ gpus: 1, layers: 70 })).toThrow(/^70 layers on 1 GPU need about 5\d\d\.\d GiB/);
    expect(() => plan({ gpus: 3 })).toThrow(/1, 2, 4 or 8 GPUs, not 3/);
  });
});

describe('the budget', () => {
  it('drops the least important first, names it, and keeps the headline', () => {
    const short = plan({ gpus: 4, budgetSeconds: 300 });
    expect(short.stages.map(({ id }) => id)).toContain('headline');
    expect(short.stages.length).toBeLessThan(plan({ gpus: 4, budgetSeconds: 1e6 }).stages.length);
    const absent = short.notMeasured.filter(({ reason }) => reason.startsWith('left out'));
    expect(absent.length).toBeGreaterThan(10);
    expect(absent[0]!.reason).toMatch(/does not fit the budget of 300 s/);
    const seen = [...short.cells.map(({ id }) => id), ...short.notMeasured.map(({ cell }) => cell)];
    const all = plan({ gpus: 4, budgetSeconds: 1e6 });
    const due = [...all.cells.map(({ id }) => id), ...all.notMeasured.map(({ cell }) => cell)];
    // No cell vanishes: it is planned or named.
    expect(due.filter((id) => !id.startsWith('record/') && !seen.includes(id))).toEqual([]);
    expect(new Set(seen).size).toBe(seen.length);
  });

  it('keeps the quarter of an hour by its own estimate', () => {
    expect(estimateSeconds(plan())).toBeLessThan(900);
    // The sweeps of docs/node.md, alone on four GPUs.
    expect(estimateSeconds(plan({ gpus: 4, groups: ['context', 'block', 'routing'] }))).toBeLessThan(300);
    expect(estimateSeconds(plan({ gpus: 4, groups: ['gpus'] }))).toBeLessThan(80);
  });

  it('runs only what is asked for', () => {
    expect(plan({ groups: ['block'] }).stages.map(({ id }) => id)).toEqual(['record', 'block']);
    expect(plan({ groups: ['headline'] }).cells.some(({ group }) => group === 'ablation')).toBe(false);
    const collectives = plan({ groups: ['collectives'] });
    expect(collectives.models).toEqual([]);
    expect(collectives.collectives!.gpus).toEqual([2, 4, 8]);
    expect(plan({ groups: ['headline'] }).collectives).toBeUndefined();
  });

  it('makes no model that nothing asks for', () => {
    const sweep = plan({ gpus: 4, groups: ['gpus'] });
    expect(sweep.models.map(({ layers, gpus }) => [layers, gpus])).toEqual([
      [sweep.models[0]!.layers, 1],
      [sweep.models[0]!.layers, 2],
      [sweep.models[0]!.layers, 4],
    ]);
    // Their layers are those of the main model's when it is asked for as few: still each is recorded.
    const few = plan({ gpus: 4, groups: ['gpus'], layers: 8 });
    const recorded = few.stages.flatMap(({ tasks }) => tasks).filter(({ role }) => role === 'record');
    expect(recorded).toHaveLength(3);
    expect(plan({ gpus: 4, groups: ['context'] }).models).toHaveLength(1);
  });

  it('holds the dial of routing against a cell of its own where there is no ablation', () => {
    expect(plan({ groups: ['routing'] }).cells.map(({ id }) => id)).toContain('routing/0/on');
    expect(plan({ groups: ['routing', 'ablation'] }).cells.map(({ id }) => id)).not.toContain('routing/0/on');
  });
});

describe('what the machine lacks', () => {
  const planned = (fake: FakeOptions, gpus: number | null = null) =>
    planNodeBench(new FakeMachine(fake), { ...SMALL, gpus });

  it('is named cell by cell', async () => {
    const reason = 'the stack holds MXFP4 experts only';
    const { plan: made } = await planned({
      capabilities: { fp8Experts: reason, reference: 'no NCCL', filledContext: 'no fill' },
    });
    const absent = new Map(made.notMeasured.map((row) => [row.cell, row.reason]));
    expect(absent.get('ablation/fp8/on/resident')).toBe(reason);
    expect(absent.get('reference/plain')).toBe('no NCCL');
    expect(absent.get('context/131072')).toBe('no fill');
    expect(made.cells.every((cell) => cell.promptTokens === cell.context)).toBe(true);
  });

  it.each([
    ['no GPU', { gpus: 0 }, null, /no GPU is visible/],
    ['too few', { gpus: 4 }, 8, /8 GPUs were asked for, 4 are visible/],
    [
      'a foreign process',
      { fault: { kind: 'foreign-memory', gpu: 3, bytes: 40e9 } },
      null,
      /GPU 3 has 37\.\d GiB in use by another program/,
    ],
    ['a missing link', { fault: { kind: 'no-peer', from: 2, to: 5 } }, null, /GPU 2 cannot reach the memory of GPU 5/],
    ['too little memory', { gpus: 1, memory: 8e9 }, null, /2 layers on 1 GPU need about .* GiB of each/],
  ] as [string, FakeOptions, number | null, RegExp][])('%s ends with one line', async (_, fake, gpus, text) => {
    await expect(planned(fake, gpus)).rejects.toMatchObject({
      name: 'EnvironmentError',
      message: expect.stringMatching(text),
    });
  });

  it('a link that is not used may be missing', async () => {
    const { plan: made } = await planned({ fault: { kind: 'no-peer', from: 2, to: 5 } }, 4);
    expect(made.input.gpus).toBe(4);
  });
});
