/**
 * The plan of an audit, fixed before the first token: which engines decode which prompts how, and what is concluded
 * from it. Sessions follow from the plan alone, so a reader can tell from a run directory what is missing.
 */
import { derivedSeed, tokensDigest } from './bundle/digests.ts';
import type { Arm, PhasePlan, Plan, PromptRow, Rule, Shard } from './bundle/rows.ts';
import type { Decoding } from './engine.ts';
import { makeSpeedPlan, QUICK_SPEED, SHORT_SPEED, type SpeedOptions } from './measure/plan.ts';

export interface AuditPrompt {
  readonly id: string;
  readonly scenario: string;
  readonly ids: readonly number[];
  /** What the suite says of it: `lang:en`, `thinking:on` and the like. */
  readonly tags?: readonly string[];
}

/** Every size of an audit. The defaults fit the nano model on two cores in about two minutes. */
export interface PlanOptions {
  readonly seed: string;
  readonly stopIds: readonly number[];
  /** Greedy tokens a prompt. */
  readonly tokens: number;
  /** Tokens a prompt at temperature 1, for `match` and `coupled`. */
  readonly sampledTokens: number;
  readonly lawPrompts: number;
  /** Sessions per arm and law prompt. */
  readonly lawSeeds: number;
  readonly lawTokens: number;
  readonly lawPromptTokens: number;
  readonly speed: SpeedOptions;
  /** Sessions in flight outside the timed part. */
  readonly concurrency: number;
  readonly stepTimeoutSeconds: number;
  /** A look, whatever its sizes are changed to: never published. */
  readonly quick?: true;
}

export const DEFAULT_PLAN: Omit<PlanOptions, 'seed' | 'stopIds'> = {
  tokens: 48,
  sampledTokens: 16,
  lawPrompts: 8,
  lawSeeds: 250,
  lawTokens: 4,
  lawPromptTokens: 16,
  speed: SHORT_SPEED,
  concurrency: 2,
  stepTimeoutSeconds: 60,
};

/** Fewer tokens of everything; prompts are thinned out by the caller. Shows that all of it works and is never published. */
export const QUICK_PLAN: Omit<PlanOptions, 'seed' | 'stopIds'> = {
  ...DEFAULT_PLAN,
  tokens: 24,
  sampledTokens: 8,
  lawSeeds: 200,
  speed: QUICK_SPEED,
  quick: true,
};

/** Names the engine of a rule and an arm, as the manifest keys it. */
export type EngineNames = (rule: Rule, arm: Arm) => string;

export function makePlan(
  prompts: readonly AuditPrompt[],
  engines: EngineNames,
  options: PlanOptions,
): { readonly plan: Plan; readonly rows: PromptRow[] } {
  const rows = prompts.map(promptRow);
  const lawRows = lawPrompts(prompts, options).map(promptRow);
  const phase = (id: string, test: PhasePlan['test'], rule: Rule, rest: Partial<PhasePlan>): PhasePlan => ({
    id,
    test,
    rule,
    plain: engines(rule, 'plain'),
    speculative: engines(rule, 'speculative'),
    prompts: rows.map((row) => row.id),
    temperature: 1,
    topP: 1,
    topK: 0,
    maxTokens: options.tokens,
    repeats: 1,
    concurrency: options.concurrency,
    ...rest,
  });
  const sampled = { maxTokens: options.sampledTokens };
  const plan: Plan = {
    seed: options.seed,
    stopIds: [...options.stopIds],
    phases: [
      phase('greedy', 'equality', 'match', { temperature: 0 }),
      phase('match', 'equality', 'match', sampled),
      phase('coupled', 'equality', 'coupled', sampled),
      phase('reject', 'law', 'reject', {
        prompts: lawRows.map((row) => row.id),
        maxTokens: options.lawTokens,
        repeats: options.lawSeeds,
      }),
    ],
    lawPromptTokens: options.lawPromptTokens,
    lawAlpha: 1e-3,
    lawPower: 0.99,
    lawLargestBlindEffect: 0.25,
    stepTimeoutSeconds: options.stepTimeoutSeconds,
    bootstrapResamples: 2000,
    ...(options.quick ? { quick: true } : {}),
    speed: makeSpeedPlan(
      rows,
      { plain: engines('match', 'plain'), speculative: engines('match', 'speculative') },
      options.speed,
    ),
  };
  return { plan, rows: [...rows, ...lawRows] };
}

function promptRow(prompt: AuditPrompt): PromptRow {
  const { tags, ...rest } = prompt;
  const said = tags === undefined ? {} : { tags: [...tags] };
  return { ...rest, ids: [...prompt.ids], digest: tokensDigest(prompt.ids), ...said };
}

/** Evenly spaced prompts of each scenario, at most `count` of each. */
function perScenario(prompts: readonly AuditPrompt[], count: number): AuditPrompt[] {
  return [...new Set(prompts.map((prompt) => prompt.scenario))].flatMap((scenario) => {
    const own = prompts.filter((prompt) => prompt.scenario === scenario);
    const n = Math.min(count, own.length);
    return Array.from({ length: n }, (_, i) => own[Math.floor((i * own.length) / n)]!);
  });
}

/**
 * Prompts of the law test: the ends of suite prompts, spread over the scenarios. Short, because thousands of sessions
 * each pay for the prefill; the law after a short prefix is as good a law as any.
 */
function lawPrompts(prompts: readonly AuditPrompt[], options: PlanOptions): AuditPrompt[] {
  const scenarios = [...new Set(prompts.map((prompt) => prompt.scenario))];
  const each = Math.ceil(options.lawPrompts / scenarios.length);
  return perScenario(prompts, each)
    .sort((a, b) => scenarios.indexOf(a.scenario) - scenarios.indexOf(b.scenario))
    .slice(0, Math.max(options.lawPrompts, 1))
    .map((prompt) => ({ ...prompt, id: `${prompt.id}#end`, ids: prompt.ids.slice(-options.lawPromptTokens) }));
}

export interface SessionTask {
  readonly session: string;
  readonly phase: PhasePlan;
  readonly arm: Arm;
  readonly engine: string;
  readonly prompt: string;
  readonly repeat: number;
  readonly decoding: Decoding;
}

export function sessionName(phase: PhasePlan, arm: Arm, prompt: string, repeat: number): string {
  return `${phase.id}/${arm}/${prompt}/${repeat}`;
}

/**
 * The cells of the speed part that a shard runs; all without one. They are dealt out after the cells of the phases (bundle/shards.ts), whole:
 * both arms of a cell are timed on one machine.
 */
export function speedCellsOf(plan: Plan, shard: Shard | null): string[] {
  const cells = plan.speed?.cells ?? [];
  return cells
    .filter((_, i) => shard === null || shardOfSpeedCell(plan, i, shard.of) === shard.index)
    .map((cell) => cell.id);
}

/** Index, from 1, of the shard that runs speed cell `i`. */
export function shardOfSpeedCell(plan: Plan, i: number, of: number): number {
  const before = plan.phases.reduce((sum, phase) => sum + phase.prompts.length, 0);
  return ((before + i) % of) + 1;
}

/** How many sessions a phase opens. */
export function sessionCount(phase: PhasePlan): number {
  return phase.prompts.length * phase.repeats * 2;
}

/**
 * The sessions of a phase, in the order they are opened. Both arms of a comparison stand side by side. The speed phases of earlier runs
 * went A B B A, so that drift of the machine fell on both arms alike.
 */
export function tasksOf(plan: Plan, phase: PhasePlan): SessionTask[] {
  const tasks: SessionTask[] = [];
  for (const prompt of phase.prompts) {
    for (let repeat = 0; repeat < phase.repeats; repeat++) {
      const swap = phase.test === 'speed' && repeat % 2 === 1;
      for (const arm of swap ? (['speculative', 'plain'] as const) : (['plain', 'speculative'] as const)) {
        // Equal tokens need equal seeds; samples of a law need their own.
        const purpose = `${phase.id}/${prompt}/${repeat}${phase.test === 'law' ? `/${arm}` : ''}`;
        tasks.push({
          session: sessionName(phase, arm, prompt, repeat),
          phase,
          arm,
          engine: arm === 'plain' ? phase.plain : phase.speculative,
          prompt,
          repeat,
          decoding: {
            seed: derivedSeed(plan.seed, purpose),
            temperature: phase.temperature,
            topP: phase.topP,
            topK: phase.topK,
            maxTokens: phase.maxTokens,
            stopIds: plan.stopIds,
          },
        });
      }
    }
  }
  return tasks;
}
