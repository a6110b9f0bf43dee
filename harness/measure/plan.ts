/** The speed part of a plan: which prompts are timed, which warm up, which are sent twice, and in which turns. */
import { type Economics, type SpeedArm, SpeedPlan } from './rows.ts';

export interface SpeedOptions {
  readonly mode: SpeedPlan['mode'];
  readonly promptsPerScenario: number;
  readonly tokens: number;
  /** Each is four processes: off, on, on, off. */
  readonly blocks: number;
  /** Least time a process spends on a cell, seconds. */
  readonly segmentSeconds: number;
  /** What a headline asks for, seconds a cell and arm. */
  readonly leastSeconds: number;
  readonly concurrency: readonly number[];
  readonly warmup: SpeedPlan['warmup'];
  readonly economics: Economics;
}

/** MLPerf's least duration of a run (Inference rules), which is also the least here for a headline. */
export const HEADLINE_SECONDS = 600;

const NO_ECONOMICS: Economics = { taskTokens: [1000], price: null, machineHour: null };

/** A minute for the nano model on two cores. */
export const SHORT_SPEED: SpeedOptions = {
  mode: 'short',
  promptsPerScenario: 12,
  tokens: 64,
  blocks: 2,
  segmentSeconds: 1,
  leastSeconds: HEADLINE_SECONDS,
  concurrency: [1],
  warmup: { windowSeconds: 0.05, windows: 5, tolerance: 0.05, mostSeconds: 0.4 },
  economics: NO_ECONOMICS,
};

export const QUICK_SPEED: SpeedOptions = {
  ...SHORT_SPEED,
  promptsPerScenario: 2,
  tokens: 32,
  blocks: 1,
  segmentSeconds: 0.2,
  warmup: { ...SHORT_SPEED.warmup, mostSeconds: 0.2 },
};

/** For a figure that is quoted: ten minutes a cell and arm, warm by the stricter criterion. */
export const SUSTAINED_SPEED: SpeedOptions = {
  ...SHORT_SPEED,
  mode: 'sustained',
  promptsPerScenario: 32,
  tokens: 512,
  blocks: 2,
  segmentSeconds: HEADLINE_SECONDS / 4,
  warmup: { windowSeconds: 2, windows: 5, tolerance: 0.01, mostSeconds: 30 },
};

const WARMUP_PROMPTS = 4;
const PROBE_PROMPTS = 4;
const PROBE_TIMES = 3;

export interface SpeedPrompt {
  readonly id: string;
  readonly scenario: string;
}

export interface SpeedEngines {
  readonly plain: string;
  readonly speculative: string;
}

export function makeSpeedPlan(
  prompts: readonly SpeedPrompt[],
  engines: SpeedEngines,
  options: SpeedOptions,
): SpeedPlan {
  const scenarios = [...new Set(prompts.map((prompt) => prompt.scenario))];
  const cells = scenarios.flatMap((scenario) => {
    const own = prompts.filter((prompt) => prompt.scenario === scenario).map((prompt) => prompt.id);
    const timed = spaced(own, options.promptsPerScenario);
    const rest = own.filter((id) => !timed.includes(id));
    const warm = rest.slice(0, WARMUP_PROMPTS);
    const probe = rest.slice(WARMUP_PROMPTS, WARMUP_PROMPTS + PROBE_PROMPTS);
    return options.concurrency.map((concurrency) => ({
      id: `${scenario}/c${concurrency}`,
      scenario,
      prompts: timed,
      // A suite that is timed whole has to warm up on itself.
      warmupPrompts: warm.length > 0 ? warm : timed.slice(0, WARMUP_PROMPTS),
      // One lane only: with several, requests disturb each other.
      probePrompts: concurrency === 1 ? probe : [],
      concurrency,
    }));
  });
  const turn: readonly SpeedArm[] = ['plain', 'speculative', 'speculative', 'plain'];
  return SpeedPlan.parse({
    mode: options.mode,
    rule: 'match',
    ...engines,
    temperature: 0,
    topP: 1,
    topK: 0,
    maxTokens: options.tokens,
    cells,
    order: Array.from({ length: options.blocks }, () => turn).flat(),
    segmentSeconds: options.segmentSeconds,
    leastSeconds: options.leastSeconds,
    warmup: options.warmup,
    peakSeconds: 1,
    probeTimes: PROBE_TIMES,
    identityTolerance: 0.02,
    economics: options.economics,
  });
}

/** `count` items at even distances, the first included; all of them if there are fewer. */
function spaced<T>(items: readonly T[], count: number): T[] {
  const n = Math.min(count, items.length);
  return Array.from({ length: n }, (_, i) => items[Math.floor((i * items.length) / n)]!);
}
