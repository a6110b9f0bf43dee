/**
 * What one run of the node benchmark does, in which order, decided before its first token: a pure function of the options and of what
 * the machine has, so that a check can make it anew. Cells are grouped in stages; a stage runs on one model, its repeats interleaved in
 * an order drawn from the seed. Stages that would not fit the time budget are left out by priority and named, never silently.
 */
import { z } from 'zod';
import { derivedSeed } from '../../bundle/digests.ts';
import { EnvironmentError, InputError } from '../../engine.ts';
import { Random } from '../../stats/philox.ts';
import type { ExpertFormat, LaunchMode, NodeModelSpec } from './machine.ts';
import { BLOCK, expectedCommitted, PROFILES, Profile } from './profile.ts';
import { gpuBytes, layersThatFit, PRO, stepBytes } from './shape.ts';

const NODE_PLAN_SCHEMA_ID = 'kilotoken/node-plan@1';

export const GROUPS = [
  'headline',
  'lossless',
  'ablation',
  'reference',
  'layers',
  'context',
  'block',
  'gpus',
  'routing',
  'collectives',
] as const;
export type Group = (typeof GROUPS)[number];

const Count = z.int().positive();
const Lack = z.string().min(1).nullable();

export const NodePlanInput = z.strictObject({
  shape: z.literal('pro'),
  /** Unsigned 64-bit, decimal: of weights, prompt, corruption and order. */
  seed: z.string().regex(/^[0-9]{1,20}$/),
  /** GPUs used, and the least free memory among them in bytes. */
  gpus: Count,
  freeBytes: z.number().positive(),
  /** Null: as many as fit. */
  layers: z.int().min(2).max(PRO.layers).nullable(),
  /** Null: it can. Else why not. */
  lacks: z.strictObject({
    fp8Experts: Lack,
    reference: Lack,
    filledContext: Lack,
    sharedRouting: Lack,
    readCeiling: Lack,
    /** Missing from plans that are older than the collectives. */
    collectives: Lack.optional(),
  }),
  groups: z.array(z.enum(GROUPS)).min(1),
  budgetSeconds: z.number().positive(),
  losslessTokens: Count,
  repeats: Count,
  /** Tokens of a timed generation: speculative headline, sweeps, plain decoding, the reference. */
  tokens: z.strictObject({ headline: Count, sweep: Count, plain: Count, reference: Count }),
  /** The first is what sweeps and ablation run at; all of them are headlines. */
  profiles: z.array(Profile).min(1),
});
export type NodePlanInput = z.infer<typeof NodePlanInput>;

export const PlanModel = z.strictObject({
  id: z.string().min(1),
  engine: z.enum(['stack', 'reference']),
  experts: z.enum(['mxfp4', 'fp8']),
  layers: Count,
  gpus: Count,
  sharedRouting: z.number().min(0).max(1),
  maxContext: Count,
  /** Of the reference, which fills its cache once, when it is opened. */
  filledContext: z.int().nonnegative().nullable(),
  seed: z.string(),
  /** gpuBytes of shape.ts: an estimate. */
  estimatedGpuBytes: z.number().positive(),
});
export type PlanModel = z.infer<typeof PlanModel>;

export const PlanCell = z.strictObject({
  id: z.string().min(1),
  group: z.enum(['record', ...GROUPS]),
  model: z.string().min(1),
  mode: z.enum(['ops', 'graph', 'resident']),
  block: z.int().min(1).max(BLOCK),
  /** Name of a profile; null for plain decoding. */
  profile: z.string().nullable(),
  /** Positions before the first output token, and how many of them are a prompt that is prefilled. */
  context: Count,
  promptTokens: Count,
  tokens: z.int().min(2),
});
export type PlanCell = z.infer<typeof PlanCell>;

export const PlanTask = z.strictObject({
  cell: z.string().min(1),
  /** warm-up: recorded and not counted. traced: with clocks of every operation, and not timed for that. */
  role: z.enum(['record', 'warm-up', 'timed', 'traced']),
  repeat: z.int().nonnegative(),
});
export type PlanTask = z.infer<typeof PlanTask>;

export const PlanStage = z.strictObject({
  id: z.string().min(1),
  model: z.string().min(1),
  /** 1 is never left out. */
  priority: Count,
  /** Rough, for the budget alone. */
  estimateSeconds: z.number().nonnegative(),
  tasks: z.array(PlanTask).min(1),
});
export type PlanStage = z.infer<typeof PlanStage>;

export const NotMeasured = z.strictObject({
  cell: z.string().min(1),
  group: z.enum(GROUPS),
  reason: z.string().min(1),
});
export type NotMeasured = z.infer<typeof NotMeasured>;

/** The all-reduce alone, over so many GPUs one count after the other, behind all stages, so that it costs them neither memory nor a fault. */
export const PlanCollectives = z.strictObject({
  gpus: z.array(z.int().min(2)).min(1),
  /** Kept free of the budget. */
  estimateSeconds: z.number().positive(),
});
export type PlanCollectives = z.infer<typeof PlanCollectives>;

export const NodePlan = z.strictObject({
  schema: z.literal(NODE_PLAN_SCHEMA_ID),
  input: NodePlanInput,
  models: z.array(PlanModel),
  cells: z.array(PlanCell),
  stages: z.array(PlanStage),
  notMeasured: z.array(NotMeasured),
  collectives: PlanCollectives.optional(),
});
export type NodePlan = z.infer<typeof NodePlan>;

export const NODE_DEFAULTS = {
  budgetSeconds: 900,
  losslessTokens: 20_000,
  repeats: 5,
  tokens: { headline: 2048, sweep: 1024, plain: 384, reference: 64 },
} as const;

/** Fewer tokens of the losslessness test than this are labelled a short run. */
export const LOSSLESS_TOKENS = 20_000;

/** Where headline, ablation and most sweeps stand. */
export const BASE_CONTEXT = 4096;
const CONTEXTS = [1024, 4096, 16_384, 32_768, 65_536, 131_072];
export const LONG_CONTEXT = 131_072;
const GPU_COUNTS = [1, 2, 4, 8];
const ROUTINGS = [0.5, 1];
/** Seconds of the all-reduce alone on one count of GPUs: connecting NCCL takes most of them. */
const COLLECTIVE_SECONDS = 5;
const MODES: readonly LaunchMode[] = ['ops', 'graph', 'resident'];
const PROMPT_TOKENS = 16;
/** Tokens of a generation that only warms up. */
const WARM_TOKENS = 24;
const SWEEP_REPEATS = 3;
/** Tokens of a generation whose last round is traced. */
const TRACED_TOKENS = 64;
/** Groups with cells on the model of the headline, whose continuation is recorded before all else. */
const ON_MAIN: readonly Group[] = ['headline', 'lossless', 'ablation', 'layers', 'block', 'routing'];
/** Tokens recorded beyond what is compared: the last block may look past the end. */
const SLACK = 2 * BLOCK;
const LOSSLESS_RUNS = 2;

/** Context a cell stands at when the cache cannot be filled by a formula, and a prompt is prefilled instead. */
const PREFILLED_CONTEXT = 256;

export function recordId(model: string, context: number): string {
  return `record/${model}/${context}`;
}

/**
 * Seed of what corrupts the proposals of one generation. Cells that differ in launches, GPUs or formats alone share the draws of a
 * repeat, so that they are compared at the same acceptance.
 */
export function corruptionSeed(seed: string, cell: PlanCell, task: PlanTask): string {
  // The runs of the losslessness test are to be the same run.
  const repeat = cell.group === 'lossless' ? 'lossless' : String(task.repeat);
  return derivedSeed(seed, `corrupt/${cell.profile}/${cell.block}/${cell.context}/${repeat}`);
}

/** The prompt of a generation, a function of the seed: ids of the vocabulary but the last, which is the draft's mask. */
export function promptOf(seed: string, tokens: number): number[] {
  const random = new Random(derivedSeed(seed, 'prompt'), 0);
  return Array.from({ length: tokens }, () => random.below(PRO.vocab - 1));
}

/** Tokens of a warm-up generation. */
export function taskTokens(cell: PlanCell, task: PlanTask): number {
  return task.role === 'warm-up' ? Math.min(WARM_TOKENS, cell.tokens) : cell.tokens;
}

class Draft {
  readonly models: PlanModel[] = [];
  readonly cells: PlanCell[] = [];
  readonly stages: PlanStage[] = [];
  readonly notMeasured: NotMeasured[] = [];
  readonly #input: NodePlanInput;

  constructor(input: NodePlanInput) {
    this.#input = input;
  }

  model(spec: Omit<PlanModel, 'id' | 'estimatedGpuBytes' | 'seed'>): PlanModel {
    const routing = spec.sharedRouting === 0 ? '' : `-routing${spec.sharedRouting}`;
    const long = spec.maxContext > LONG_CONTEXT ? '-long' : '';
    const id = `${spec.engine}-${spec.experts}-${spec.layers}x${spec.gpus}${routing}${long}`;
    const known = this.models.find((model) => model.id === id);
    if (known !== undefined) return known;
    const estimatedGpuBytes = gpuBytes({ ...spec, draft: spec.engine === 'stack' });
    const made = { id, ...spec, seed: this.#input.seed, estimatedGpuBytes };
    this.models.push(made);
    return made;
  }

  cell(cell: Omit<PlanCell, 'promptTokens'>): PlanCell {
    const known = this.cells.find(({ id }) => id === cell.id);
    if (known !== undefined) return known;
    const promptTokens = this.#input.lacks.filledContext === null ? PROMPT_TOKENS : cell.context;
    const made = { ...cell, promptTokens };
    this.cells.push(made);
    return made;
  }

  /** The plain continuation that others on the same model and context are compared with. */
  record(model: PlanModel, context: number, tokens: number): PlanTask {
    const id = recordId(model.id, context);
    const mode = model.engine === 'reference' ? 'ops' : 'resident';
    this.cell({ id, group: 'record', model: model.id, mode, block: 1, profile: null, context, tokens: tokens + SLACK });
    return { cell: id, role: 'record', repeat: 0 };
  }

  /** Repeats interleaved: every repeat is all cells once, in an order of its own. */
  stage(
    id: string,
    model: PlanModel,
    priority: number,
    first: PlanTask[],
    cells: PlanCell[],
    repeats: number,
    from = 0,
    role: 'timed' | 'traced' = 'timed',
  ): void {
    const random = new Random(derivedSeed(this.#input.seed, `order/${id}`), 0);
    const tasks: PlanTask[] = [...first];
    for (const cell of cells) tasks.push({ cell: cell.id, role: 'warm-up', repeat: from });
    for (let repeat = from; repeat < from + repeats; repeat++) {
      const order = cells.map((cell) => cell.id);
      for (let i = order.length - 1; i > 0; i--) {
        const j = random.below(i + 1);
        [order[i], order[j]] = [order[j]!, order[i]!];
      }
      tasks.push(...order.map((cell): PlanTask => ({ cell, role, repeat })));
    }
    const estimateSeconds = tasks.reduce((sum, task) => sum + this.#taskSeconds(model, task), 0);
    this.stages.push({ id, model: model.id, priority, estimateSeconds, tasks });
  }

  #taskSeconds(model: PlanModel, task: PlanTask): number {
    const cell = this.cells.find(({ id }) => id === task.cell)!;
    const profile = this.#input.profiles.find(({ name }) => name === cell.profile);
    const perRound = profile === undefined ? 1 : expectedCommitted(profile.chances, cell.block);
    const step = stepSeconds(model, cell.mode, cell.block, cell.context);
    return 0.3 + (cell.promptTokens / BLOCK) * step + (taskTokens(cell, task) / perRound) * step;
  }

  absent(group: Group, reason: string, ...cells: string[]): void {
    for (const cell of cells) this.notMeasured.push({ cell, group, reason });
  }
}

/** Seconds of a step, roughly and on the slow side: for the budget alone, never for a figure. */
function stepSeconds(model: PlanModel, mode: LaunchMode, block: number, context: number): number {
  const distinct = PRO.experts * (1 - (1 - PRO.expertsPerToken / PRO.experts) ** block);
  const { total } = stepBytes({ ...model, speculation: block > 1, distinct, context });
  const rate = model.engine === 'reference' ? 1e12 : 2e12;
  const perLayer = model.engine === 'reference' ? 250e-6 : { ops: 150e-6, graph: 60e-6, resident: 30e-6 }[mode];
  return total / (model.gpus * rate) + model.layers * perLayer;
}

/** Seconds to make a model's weights on the GPUs, roughly: for the budget. */
export function loadSeconds(model: PlanModel): number {
  return 3 + model.estimatedGpuBytes / 15e9;
}

/** Seconds of a whole plan by its own rough estimates. */
export function estimateSeconds({ stages, models, collectives }: NodePlan): number {
  return secondsOf(stages, models) + (collectives?.estimateSeconds ?? 0);
}

function secondsOf(stages: readonly PlanStage[], models: readonly PlanModel[]): number {
  return stages.reduce((sum, stage, i) => {
    const model = models.find(({ id }) => id === stage.model)!;
    return sum + stage.estimateSeconds + (stage.model === stages[i - 1]?.model ? 0 : loadSeconds(model));
  }, 0);
}

/** Throws InputError for options that no machine can run; `gpus`: null, as many as there are. */
export function checkNodeUsage({ gpus, profiles }: Pick<NodePlanInput, 'profiles'> & { gpus: number | null }): void {
  if (gpus !== null && !GPU_COUNTS.includes(gpus))
    throw new InputError(`the shape divides among 1, 2, 4 or 8 GPUs, not ${gpus}`);
  const names = profiles.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) < i);
  if (twice !== undefined)
    throw new InputError(
      `two acceptance profiles are called "${twice}"; a file's name is its profile's, and ${PROFILES.map(({ name }) => name).join(', ')} are built in`,
    );
}

/** Throws InputError for options that contradict each other, EnvironmentError when not even two layers fit. */
export function makeNodePlan(options: NodePlanInput): NodePlan {
  const input = NodePlanInput.parse(options);
  const { gpus, lacks, profiles, tokens, repeats } = input;
  checkNodeUsage(input);
  const wants = (group: Group): boolean => input.groups.includes(group);
  const draft = new Draft(input);
  const base = lacks.filledContext === null ? BASE_CONTEXT : PREFILLED_CONTEXT;
  const profile = profiles[0]!;

  const recorded = Math.max(
    wants('headline') ? tokens.headline : 0,
    wants('lossless') ? input.losslessTokens : 0,
    tokens.sweep,
    tokens.plain,
  );
  // Caches are as long as a model allows: the long contexts have a model of their own.
  const room = {
    main: base + recorded + 2 * SLACK,
    small: base + tokens.sweep + 2 * SLACK,
    long: LONG_CONTEXT + tokens.sweep + 2 * SLACK,
  };
  const model = (experts: ExpertFormat, count: number, most: number, maxContext: number, sharedRouting = 0) => {
    const layers = Math.min(most, layersThatFit({ gpus: count, experts, draft: true, maxContext }, input.freeBytes));
    return layers < 2
      ? null
      : draft.model({ engine: 'stack', experts, layers, gpus: count, sharedRouting, maxContext, filledContext: null });
  };
  if (input.layers !== null) {
    const need = gpuBytes({ layers: input.layers, gpus, experts: 'mxfp4', draft: true, maxContext: room.main });
    if (need > input.freeBytes) throw memoryLack(input.layers, gpus, need, input.freeBytes);
  }
  const main = model('mxfp4', gpus, input.layers ?? PRO.layers, room.main);
  if (main === null) {
    const need = gpuBytes({ layers: 2, gpus, experts: 'mxfp4', draft: true, maxContext: room.main });
    throw memoryLack(2, gpus, need, input.freeBytes);
  }

  /** One cell at the base context: speculation on at the first profile, or off. */
  const at = (id: string, group: Group, on: PlanModel, speculation: boolean, mode: LaunchMode = 'resident'): PlanCell =>
    draft.cell({
      id,
      group,
      model: on.id,
      mode,
      block: speculation ? BLOCK : 1,
      profile: speculation ? profile.name : null,
      context: base,
      tokens: speculation ? tokens.sweep : tokens.plain,
    });
  const pair = (prefix: string, group: Group, on: PlanModel): PlanCell[] => [
    at(`${prefix}/on`, group, on, true),
    at(`${prefix}/off`, group, on, false),
  ];

  // The plain continuation is what every speculative output is compared with, and the one warm machine the rest starts from.
  const recordTask = draft.record(main, base, recorded);
  const headlines = profiles.map((each) =>
    draft.cell({
      id: `headline/${each.name}`,
      group: 'headline',
      model: main.id,
      mode: 'resident',
      block: BLOCK,
      profile: each.name,
      context: base,
      tokens: tokens.headline,
    }),
  );
  const onMain = ON_MAIN.some(wants);
  if (wants('headline')) draft.stage('headline', main, 1, [recordTask], headlines, repeats);
  else {
    draft.cells.splice(draft.cells.indexOf(headlines[0]!), headlines.length);
    if (onMain) draft.stage('record', main, 1, [recordTask], [], 0);
  }

  if (wants('lossless')) {
    // The published profile with the most rejections rolls back most often.
    const hardest = profiles.reduce((a, b) => (b.target < a.target ? b : a));
    const cell = draft.cell({
      id: `lossless/${hardest.name}`,
      group: 'lossless',
      model: main.id,
      mode: 'resident',
      block: BLOCK,
      profile: hardest.name,
      context: base,
      tokens: input.losslessTokens,
    });
    draft.stage('lossless', main, 2, [], [cell], LOSSLESS_RUNS);
  }

  const ablation = (on: PlanModel): PlanCell[] =>
    MODES.flatMap((mode) => [
      at(`ablation/${on.experts}/off/${mode}`, 'ablation', on, false, mode),
      at(`ablation/${on.experts}/on/${mode}`, 'ablation', on, true, mode),
    ]);
  if (wants('ablation')) draft.stage('ablation-mxfp4', main, 3, [], ablation(main), repeats);

  if (wants('layers')) {
    const cells = pair('layers', 'layers', main).map((cell) =>
      Object.assign(cell, { tokens: Math.min(TRACED_TOKENS, cell.tokens) }),
    );
    draft.stage('layers', main, 6, [], cells, SWEEP_REPEATS, 0, 'traced');
  }

  if (wants('block')) {
    const cells = Array.from({ length: BLOCK }, (_, i) =>
      draft.cell({
        id: `block/${i + 1}`,
        group: 'block',
        model: main.id,
        mode: 'resident',
        block: i + 1,
        profile: i === 0 ? null : profile.name,
        context: base,
        tokens: i === 0 ? tokens.plain : tokens.sweep,
      }),
    );
    draft.stage('block', main, 7, [], cells, SWEEP_REPEATS);
  }

  // What the dial of routing is held against, where the ablation does not have it.
  if (wants('routing') && !wants('ablation'))
    draft.stage('routing-0', main, 9, [], [at('routing/0/on', 'routing', main, true)], SWEEP_REPEATS);

  if (wants('context')) {
    const contexts = CONTEXTS.map((context) => ({ id: `context/${context}`, context }));
    if (lacks.filledContext !== null) draft.absent('context', lacks.filledContext, ...contexts.map(({ id }) => id));
    else {
      const long = model('mxfp4', gpus, main.layers, room.long);
      if (long === null)
        draft.absent('context', 'the long caches do not fit beside two layers', ...contexts.map(({ id }) => id));
      else {
        const records = contexts.map(({ context }) => draft.record(long, context, tokens.sweep));
        const cells = contexts.map(({ id, context }) =>
          draft.cell({
            id,
            group: 'context',
            model: long.id,
            mode: 'resident',
            block: BLOCK,
            profile: profile.name,
            context,
            tokens: tokens.sweep,
          }),
        );
        draft.stage('context', long, 6, records, cells, SWEEP_REPEATS);
      }
    }
  }

  if (wants('reference')) planReference();
  if (wants('ablation')) {
    const reason =
      lacks.fp8Experts ??
      (layersThatFit({ gpus, experts: 'fp8', draft: true, maxContext: room.small }, input.freeBytes) < 2
        ? 'two layers with FP8 experts do not fit the memory'
        : null);
    if (reason !== null) {
      draft.absent(
        'ablation',
        reason,
        ...MODES.flatMap((mode) => [`ablation/fp8/off/${mode}`, `ablation/fp8/on/${mode}`]),
      );
    } else {
      const wide = model('fp8', gpus, main.layers, room.small)!;
      draft.stage('ablation-fp8', wide, 5, [draft.record(wide, base, tokens.sweep)], ablation(wide), repeats);
      // MXFP4 before and behind FP8, so that a drift of the machine is not taken for a difference of formats.
      draft.stage('ablation-mxfp4-again', main, 10, [], ablation(main), repeats, repeats);
    }
  }
  if (wants('gpus')) planGpus();
  if (wants('routing')) {
    for (const share of ROUTINGS) {
      if (lacks.sharedRouting !== null) {
        draft.absent('routing', lacks.sharedRouting, `routing/${share}/on`);
        continue;
      }
      const on = draft.model({ ...specOf(main), sharedRouting: share, maxContext: room.small });
      const cell = at(`routing/${share}/on`, 'routing', on, true);
      draft.stage(`routing-${share}`, on, 9, [draft.record(on, base, tokens.sweep)], [cell], SWEEP_REPEATS);
    }
  }
  return withinBudget(draft, input, planCollectives());

  function planCollectives(): PlanCollectives | null {
    if (!wants('collectives')) return null;
    const counts = GPU_COUNTS.filter((count) => count > 1 && count <= gpus);
    for (const count of GPU_COUNTS.filter((each) => each > Math.max(1, gpus)))
      draft.absent('collectives', `not yet measured on ${count} GPUs: this run has ${gpus}`, `collectives/${count}`);
    const lack = lacks.collectives ?? null;
    if (lack !== null) draft.absent('collectives', lack, ...counts.map((count) => `collectives/${count}`));
    return lack !== null || counts.length === 0
      ? null
      : { gpus: counts, estimateSeconds: COLLECTIVE_SECONDS * counts.length };
  }

  function planReference(): void {
    if (lacks.reference !== null) {
      draft.absent('reference', lacks.reference, 'reference/plain', 'reference/graph');
      return;
    }
    const maxContext = base + tokens.reference + 2 * SLACK;
    const most = input.layers ?? PRO.layers;
    const layers = Math.min(most, layersThatFit({ gpus, experts: 'fp8', draft: false, maxContext }, input.freeBytes));
    if (layers < 2) {
      draft.absent(
        'reference',
        'two layers with FP8 experts do not fit the memory',
        'reference/plain',
        'reference/graph',
      );
      return;
    }
    const filledContext = lacks.filledContext === null ? base - PROMPT_TOKENS : 0;
    const spec = {
      engine: 'reference',
      experts: 'fp8',
      layers,
      gpus,
      sharedRouting: 0,
      maxContext,
      filledContext,
    } as const;
    const reference = draft.model(spec);
    // A launch an operation is what the claim is held against; the same launches as one graph stand beside it.
    const cells = (['ops', 'graph'] as const).map((mode) =>
      draft.cell({
        id: mode === 'ops' ? 'reference/plain' : 'reference/graph',
        group: 'reference',
        model: reference.id,
        mode,
        block: 1,
        profile: null,
        context: base,
        tokens: tokens.reference,
      }),
    );
    // One behind the other: the reference is made anew to be launched otherwise.
    draft.stage('reference', reference, 4, [], cells.slice(0, 1), SWEEP_REPEATS);
    draft.stage('reference-graph', reference, 8, [], cells.slice(1), SWEEP_REPEATS);
    if (layers === main!.layers) return;
    // A ratio is between equal shapes: the stack once more with the layers that the reference has.
    const matched = draft.model({ ...specOf(main!), layers, maxContext: room.small });
    const record = draft.record(matched, base, tokens.sweep);
    draft.stage('matched', matched, 4, [record], pair('matched', 'reference', matched), SWEEP_REPEATS);
  }

  function planGpus(): void {
    const counts = GPU_COUNTS.filter((count) => count <= gpus);
    const most = layersThatFit(
      { gpus: counts[0]!, experts: 'mxfp4', draft: true, maxContext: room.small },
      input.freeBytes,
    );
    const layers = Math.min(most, main!.layers);
    for (const count of GPU_COUNTS) {
      const ids = [`gpus/${count}/on`, `gpus/${count}/off`];
      if (count > gpus) draft.absent('gpus', `not yet measured on ${count} GPUs: this run has ${gpus}`, ...ids);
      else if (layers < 2) draft.absent('gpus', 'two layers do not fit the memory of one GPU', ...ids);
      else {
        const on = draft.model({ ...specOf(main!), layers, gpus: count, maxContext: room.small });
        // The very model of the headline when nothing about it is smaller.
        const record = on.id === main!.id && onMain ? [] : [draft.record(on, base, tokens.sweep)];
        draft.stage(`gpus-${count}`, on, 8, record, pair(`gpus/${count}`, 'gpus', on), SWEEP_REPEATS);
      }
    }
  }
}

function specOf({
  id,
  estimatedGpuBytes,
  seed,
  ...spec
}: PlanModel): Omit<PlanModel, 'id' | 'estimatedGpuBytes' | 'seed'> {
  return spec;
}

export function modelSpec({ id, estimatedGpuBytes, ...spec }: PlanModel): NodeModelSpec {
  return spec;
}

function memoryLack(layers: number, gpus: number, need: number, free: number): EnvironmentError {
  const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1);
  return new EnvironmentError(
    `${layers} layers on ${gpus} GPU${gpus === 1 ? '' : 's'} need about ${gib(need)} GiB of each; ${gib(free)} GiB are free`,
  );
}

/**
 * How far past the budget a plan may go by its own rough estimates. The run holds them against what its stages really took, and leaves
 * out what then does not fit.
 */
const LENIENCE = 1.5;

/** Leaves out, by priority, what would run far past the budget, and names it. The collectives stay. */
function withinBudget(draft: Draft, input: NodePlanInput, collectives: PlanCollectives | null): NodePlan {
  const budget = input.budgetSeconds - (collectives?.estimateSeconds ?? 0);
  const kept = new Set<PlanStage>();
  const inOrder = (): PlanStage[] => draft.stages.filter((stage) => kept.has(stage));
  for (const stage of [...draft.stages].sort((a, b) => a.priority - b.priority)) {
    kept.add(stage);
    if (stage.priority > 1 && secondsOf(inOrder(), draft.models) > LENIENCE * budget) kept.delete(stage);
  }
  const stages = inOrder();
  const used = new Set(stages.flatMap((stage) => stage.tasks.map((task) => task.cell)));
  const models = new Set(stages.map((stage) => stage.model));
  for (const stage of draft.stages.filter((each) => !kept.has(each))) {
    const reason = `left out: stage ${stage.id} does not fit the budget of ${input.budgetSeconds} s`;
    for (const { cell: id, role } of stage.tasks) {
      // A stage that repeats cells of one that stays takes nothing away but repeats.
      const named = used.has(id) || draft.notMeasured.some(({ cell }) => cell === id);
      const { group } = draft.cells.find((cell) => cell.id === id)!;
      if (role !== 'warm-up' && group !== 'record' && !named) draft.absent(group, reason, id);
    }
  }
  return NodePlan.parse({
    schema: NODE_PLAN_SCHEMA_ID,
    input,
    models: draft.models.filter(({ id }) => models.has(id)),
    cells: draft.cells.filter(({ id }) => used.has(id)),
    stages,
    notMeasured: draft.notMeasured,
    ...(collectives === null ? {} : { collectives }),
  });
}
