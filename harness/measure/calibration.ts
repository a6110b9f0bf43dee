/**
 * Calibration of the figures: whole campaigns on a synthetic engine whose acceptance law, step time, jitter and spread between processes
 * are known, so that the true value of every figure is known too (exactly, by dynamic programming over rounds). The share of
 * campaigns whose interval holds the true value must be what the interval says. A wrong estimator, on the same campaigns, must miss.
 */

import type { Engine, Round, Session } from '../engine.ts';
import { ManualClock } from '../engines/scripted.ts';
import type { Figure } from '../report/schema.ts';
import {
  aggregateFigure,
  comparisonFigures,
  definitionFigures,
  economicsFigures,
  type FigureContext,
  latencyFigures,
  ratioFigure,
} from '../report/speed-cells.ts';
import { bcaInterval, meanOf, ratioOfSums } from '../stats/bootstrap.ts';
import { normalQuantile } from '../stats/chisquare.ts';
import { Random } from '../stats/philox.ts';
import { clopperPearson } from '../stats/proportion.ts';
import { type CellData, cellData } from './cells.ts';
import { nullEngine } from './null-engine.ts';
import { makeSpeedPlan, SHORT_SPEED } from './plan.ts';
import type { SpeedArm, TimingRow } from './rows.ts';
import { runSegment } from './timed.ts';

/** Everything true of the synthetic engine. */
export interface Law {
  /** Kinds of prompts: their share, and the probability that a draft is accepted after those before it were. */
  readonly kinds: readonly { readonly share: number; readonly accept: number }[];
  readonly blockSize: number;
  /** Tokens of every session, the prefill's included. */
  readonly tokens: number;
  /** Mean step times, nanoseconds. */
  readonly stepNs: Readonly<Record<SpeedArm, number>>;
  /** Standard deviation of the logarithm of a step time: within a process, and of its level from process to process. */
  readonly jitter: number;
  readonly processSpread: number;
  /** Prefill: fixed and per prompt token, nanoseconds, without jitter but with the process's level. */
  readonly prefillNs: { readonly fixed: number; readonly perToken: number };
  /** Prompt lengths, uniform over this range. */
  readonly promptTokens: { readonly least: number; readonly most: number };
  /** Share of a step that the engine says is drafting. */
  readonly draftShare: number;
  /** Time a step spends outside the engine, share of the step. */
  readonly outside: number;
}

export const LAW: Law = {
  kinds: [
    { share: 0.3, accept: 0.5 },
    { share: 0.4, accept: 0.75 },
    { share: 0.3, accept: 0.9 },
  ],
  blockSize: 8,
  tokens: 48,
  stepNs: { plain: 2e6, speculative: 3e6 },
  jitter: 0.2,
  processSpread: 0.02,
  prefillNs: { fixed: 5e6, perToken: 2e4 },
  promptTokens: { least: 20, most: 400 },
  draftShare: 0.25,
  outside: 0.04,
};

export interface CalibrationOptions {
  readonly law: Law;
  readonly campaigns: number;
  readonly prompts: number;
  readonly blocks: number;
  readonly resamples: number;
  readonly seed: string;
}

const LEVEL = 0.95;
const TASK = 1000;
const HOUR = 2;
const PRICE = 3;

/** Expected rounds, and of the raw count and its per-prompt mean, for a session that decodes `tokens` after its first. */
export function roundsLaw(accept: number, blockSize: number, tokens: number) {
  const emit = Array.from({ length: blockSize }, (_, e) =>
    e < blockSize - 1 ? accept ** e * (1 - accept) : accept ** (blockSize - 1),
  );
  let left = new Float64Array(tokens + 1);
  left[tokens] = 1;
  let rounds = 0;
  let raw = 0;
  let rawPerRound = 0;
  let keptPerRound = 0;
  for (let r = 1; r <= tokens; r++) {
    const next = new Float64Array(tokens + 1);
    for (let k = 1; k <= tokens; k++) {
      if (left[k] === 0) continue;
      for (let e = 1; e <= blockSize; e++) {
        const p = left[k]! * emit[e - 1]!;
        if (e < k) {
          next[k - e]! += p;
          continue;
        }
        rounds += p * r;
        raw += p * (tokens + e - k);
        rawPerRound += (p * (tokens + e - k)) / r;
        keptPerRound += (p * tokens) / r;
      }
    }
    left = next;
  }
  return { rounds, raw, rawPerRound, keptPerRound };
}

/** The true value of every figure that has an interval. Both arms: figures of the plain arm carry `off`. */
export function truths(law: Law): Map<string, number> {
  const decode = law.tokens - 1;
  const kinds = law.kinds.map((kind) => ({ ...kind, ...roundsLaw(kind.accept, law.blockSize, decode) }));
  const mean = (of: (kind: (typeof kinds)[number]) => number): number =>
    kinds.reduce((sum, kind) => sum + kind.share * of(kind), 0);
  const promptTokens = (law.promptTokens.least + law.promptTokens.most) / 2;
  const first = (law.prefillNs.fixed + law.prefillNs.perToken * promptTokens) / 1e9;
  const z = (p: number): number => {
    // A step's time is lognormal within and between processes, so it is lognormal altogether, with mean 1.
    const spread = Math.hypot(law.jitter, law.processSpread);
    return Math.exp(normalQuantile(p) * spread - spread ** 2 / 2);
  };
  const found = new Map<string, number>();
  const pace: Record<SpeedArm, { rounds: number; raw: number; perToken: number; e2e: number }> = {
    plain: arm(decode, decode, law.stepNs.plain),
    speculative: arm(
      mean((kind) => kind.rounds),
      mean((kind) => kind.raw),
      law.stepNs.speculative,
    ),
  };
  function arm(rounds: number, raw: number, stepNs: number) {
    const span = (rounds * stepNs) / 1e9;
    return { rounds, raw, perToken: span / decode, e2e: law.tokens / (first + span) };
  }
  for (const side of ['plain', 'speculative'] as const) {
    const name = (id: string): string => (side === 'plain' ? `off ${id}` : `on ${id}`);
    const { rounds, raw, perToken, e2e } = pace[side];
    const step = law.stepNs[side] / 1e6;
    const values: Record<string, number> = {
      'decode-tps': 1 / perToken,
      'e2e-tps': e2e,
      ttft: 1000 * first,
      ttst: step,
      tpot: 1000 * perToken,
      step,
      'engine-step': step * (1 - law.outside),
      'draft-share': law.draftShare,
      'verify-share': 1 - law.draftShare,
      'server-tps': 1 / perToken / (1 - law.outside),
      transport: law.outside,
      'prefill-tps': promptTokens / first,
      'kept-al': decode / rounds,
      'raw-al': raw / rounds,
      'aggregate-tps': e2e,
      'icl-p50': step * z(0.5),
      'icl-p90': step * z(0.9),
      'icl-p99': step * z(0.99),
      [`task-${TASK}`]: first + (TASK - 1) * perToken,
      'tokens-10s': 1 + (10 - first) / perToken,
      'price-per-million': (HOUR / 3600 / e2e) * 1e6,
    };
    for (const [id, value] of Object.entries(values)) found.set(name(id), value);
  }
  const speedup = pace.plain.perToken / pace.speculative.perToken;
  found.set('speedup', speedup);
  found.set('e2e-speedup', pace.speculative.e2e / pace.plain.e2e);
  found.set('step-cost', law.stepNs.speculative / law.stepNs.plain);
  found.set('ideal-speedup', pace.speculative.raw / pace.speculative.rounds);
  found.set('price-per-speed', speedup / PRICE);
  found.set('acceptance raw micro', pace.speculative.raw / pace.speculative.rounds);
  found.set('acceptance kept micro', decode / pace.speculative.rounds);
  found.set(
    'acceptance raw macro',
    mean((kind) => kind.rawPerRound),
  );
  found.set(
    'acceptance kept macro',
    mean((kind) => kind.keptPerRound),
  );
  return found;
}

interface PromptTruth {
  readonly accept: number;
  readonly tokens: number;
}

/** An engine of the law: acceptance depends on the prompt alone, as greedy decoding does; times on process and chance. */
function syntheticEngine(
  law: Law,
  arm: SpeedArm,
  prompts: readonly PromptTruth[],
  clock: ManualClock,
  random: Random,
  level: number,
): Engine {
  const blockSize = arm === 'plain' ? 1 : law.blockSize;
  const lognormal = (): number => {
    const u = random.uniform();
    return Math.exp(normalQuantile(u) * law.jitter - law.jitter ** 2 / 2);
  };
  return {
    ...nullEngine({ blockSize }),
    open: async (ids, decoding): Promise<Session> => {
      const prompt = prompts[ids[0]!]!;
      const coins = new Random(decoding.seed, 77);
      let emitted = 0;
      const step = async (): Promise<Round> => {
        if (emitted === 0) {
          const ns = level * (law.prefillNs.fixed + law.prefillNs.perToken * prompt.tokens);
          clock.advance(ns);
          emitted = 1;
          return round('prefill', [0], 0, ns, null);
        }
        let accepted = 0;
        while (accepted < blockSize - 1 && coins.uniform() < prompt.accept) accepted += 1;
        const kept = Math.min(accepted + 1, decoding.maxTokens - emitted);
        emitted += kept;
        const ns = law.stepNs[arm] * level * lognormal();
        clock.advance(ns);
        return round(
          'decode',
          new Array<number>(kept).fill(0),
          accepted,
          ns,
          emitted === decoding.maxTokens ? 'length' : null,
        );
      };
      return { step, fork: () => Promise.reject(new Error('no fork')), close: async () => {} };
    },
  };
  function round(
    kind: Round['kind'],
    committed: number[],
    accepted: number,
    ns: number,
    finish: Round['finish'],
  ): Round {
    const total = ns * (1 - law.outside);
    const drafted = kind === 'prefill' ? [] : new Array<number>(blockSize - 1).fill(0);
    return {
      kind,
      committed,
      drafted,
      accepted,
      finish,
      deviceNs: null,
      hostNs: { draft: total * law.draftShare, verify: total * (1 - law.draftShare), total },
    };
  }
}

export interface Estimate {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** Estimators that published benchmarks use and that are wrong here; each is judged against the truth of the figure it claims. */
export const WRONG = {
  /** Time to the first token inside the time per token. */
  'ttft-inside tpot': 'on tpot',
  /** Mean of the requests' own rates in place of the pooled rate. */
  'mean-of-rates decode-tps': 'on decode-tps',
  /** The macro mean printed as the micro one. */
  'macro-as-micro raw-al': 'acceptance raw micro',
  /** Intervals that see prompts and not processes. */
  'one-process step': 'on step',
} as const;

/** One campaign: every figure with its interval, and the wrong estimators beside them. */
export async function simulate(options: CalibrationOptions, index: number): Promise<Map<string, Estimate>> {
  const { law } = options;
  const random = new Random(`${BigInt(options.seed) + BigInt(index)}`, 0xca1);
  const kindOf = (u: number): number => {
    let sum = 0;
    const at = law.kinds.findIndex((kind) => {
      sum += kind.share;
      return u < sum;
    });
    return at < 0 ? law.kinds.length - 1 : at;
  };
  const { least, most } = law.promptTokens;
  const prompts = Array.from(
    { length: options.prompts + 1 },
    (): PromptTruth => ({
      accept: law.kinds[kindOf(random.uniform())]!.accept,
      tokens: least + random.below(most - least + 1),
    }),
  );
  const names = prompts.map((_, i) => ({ id: `p${i}`, scenario: 'synthetic' }));
  const base = makeSpeedPlan(
    names,
    { plain: 'plain', speculative: 'speculative' },
    {
      ...SHORT_SPEED,
      promptsPerScenario: options.prompts,
      tokens: law.tokens,
      blocks: options.blocks,
      segmentSeconds: 0,
      warmup: { windowSeconds: 1, windows: 2, tolerance: 1, mostSeconds: 0 },
      economics: {
        taskTokens: [TASK],
        price: { speculative: PRICE, plain: 1 },
        machineHour: { value: HOUR, currency: 'units' },
      },
    },
  );
  // The last prompt is for warming up.
  const plan = {
    ...base,
    cells: base.cells.map((cell) => ({
      ...cell,
      prompts: names.slice(0, -1).map((name) => name.id),
      warmupPrompts: [names.at(-1)!.id],
      probePrompts: [],
    })),
  };
  const clock = new ManualClock();
  const rows: TimingRow[] = [];
  for (const [segment, arm] of plan.order.entries()) {
    const level = Math.exp(normalQuantile(random.uniform()) * law.processSpread - law.processSpread ** 2 / 2);
    await runSegment(
      {
        plan,
        seed: `${index}`,
        stopIds: [],
        segment,
        cells: plan.cells.map((cell) => cell.id),
        // The engine looks its prompt up by its first token; its length is what counts.
        prompts: Object.fromEntries(
          prompts.map((prompt, i) => [`p${i}`, [i, ...new Array<number>(prompt.tokens - 1).fill(0)]]),
        ),
        stepTimeoutSeconds: 3600,
      },
      {
        engine: syntheticEngine(law, arm, prompts, clock, random, level),
        now: clock.now,
        origin: 0n,
        freshProcess: true,
        signal: new AbortController().signal,
        sink: (row) => rows.push(row),
        surroundings: () => ({ switches: [], foreignCores: null, gpuProcesses: null }),
      },
    );
  }
  const [plain, speculative] = cellData(plan, rows) as [CellData, CellData];
  const context: FigureContext = {
    bootstrap: { resamples: options.resamples, level: LEVEL, seed: `${index}` },
    warnings: [],
    invalid: null,
  };
  const found = new Map<string, Estimate>();
  const take = (prefix: string, figures: readonly Figure[]): void => {
    for (const { id, figure } of figures) {
      if (figure.state !== 'measured' || figure.interval === null) continue;
      found.set(`${prefix}${id}`, { value: figure.value, low: figure.interval.low, high: figure.interval.high });
    }
  };
  for (const [prefix, cell] of [
    ['off ', plain],
    ['on ', speculative],
  ] as const) {
    take(prefix, definitionFigures(cell, context));
    take(prefix, latencyFigures(cell, context));
    take(prefix, [aggregateFigure(cell, context)]);
    take(prefix, economicsFigures(cell, plan, [], context));
  }
  take('', comparisonFigures(plain, speculative, plan, context));
  for (const [name, estimate] of acceptance(speculative, context)) found.set(name, estimate);
  for (const [name, estimate] of wrong(speculative, context)) found.set(name, estimate);
  return found;
}

/** The four acceptance lengths, by the estimators of the acceptance table, from one process: rounds are the same in all. */
function acceptance(cell: CellData, context: FigureContext): [string, Estimate][] {
  const own = [...cell.byPrompt.values()];
  const rounds = own.map((sums) => sums.rounds);
  const raw = own.map((sums) => sums.raw);
  const kept = own.map((sums) => sums.decodeTokens);
  const each = (values: readonly number[]): number[] => values.map((value, i) => value / rounds[i]!);
  const statistics = [
    ['acceptance raw micro', ratioOfSums(raw, rounds)],
    ['acceptance kept micro', ratioOfSums(kept, rounds)],
    ['acceptance raw macro', meanOf(each(raw))],
    ['acceptance kept macro', meanOf(each(kept))],
  ] as const;
  return statistics.map(([name, statistic]) => {
    const value = statistic(Uint32Array.from({ length: own.length }, (_, i) => i));
    const ends = bcaInterval(own.length, statistic, context.bootstrap) ?? { low: Number.NaN, high: Number.NaN };
    return [name, { value, ...ends }];
  });
}

function wrong(cell: CellData, context: FigureContext): [keyof typeof WRONG, Estimate][] {
  const of = (unit: string, formula: Parameters<typeof ratioFigure>[1]['of']): Estimate => {
    const figure = ratioFigure(cell, { unit, of: formula }, context);
    if (figure.state !== 'measured' || figure.interval === null) throw new Error('a simulated campaign has no figure');
    return { value: figure.value, low: figure.interval.low, high: figure.interval.high };
  };
  const own = [...cell.byPrompt.values()];
  const rates = meanOf(own.map((sums) => sums.decodeTokens / (sums.spanNs / 1e9)));
  const estimate = (statistic: ReturnType<typeof meanOf>): Estimate => {
    const ends = bcaInterval(own.length, statistic, context.bootstrap) ?? { low: Number.NaN, high: Number.NaN };
    return { value: statistic(Uint32Array.from({ length: own.length }, (_, i) => i)), ...ends };
  };
  return [
    ['ttft-inside tpot', of('', (s) => s.wholeNs / s.tokens / 1e6)],
    ['mean-of-rates decode-tps', estimate(rates)],
    ['macro-as-micro raw-al', estimate(meanOf(own.map((sums) => sums.raw / sums.rounds)))],
    [
      'one-process step',
      estimate(
        ratioOfSums(
          own.map((sums) => sums.stepNs / 1e6),
          own.map((sums) => sums.rounds),
        ),
      ),
    ],
  ];
}

export interface Coverage {
  readonly figure: string;
  readonly truth: number;
  /** Mean of the estimates over campaigns, over the truth. */
  readonly ratio: number;
  readonly held: number;
  readonly campaigns: number;
  /** Clopper-Pearson interval of the coverage at 99.9 %. */
  readonly low: number;
  readonly high: number;
}

/** A figure is calibrated when its stated level is not above what its coverage may be: the upper end of the 99.9 % interval. */
export function calibrated(coverage: Coverage): boolean {
  return coverage.high >= LEVEL;
}

export async function calibrateMeasurement(
  options: CalibrationOptions,
  progress: (done: number) => void = () => {},
): Promise<{ readonly figures: Coverage[]; readonly wrong: Coverage[] }> {
  const truth = truths(options.law);
  const targets = new Map([
    ...[...truth].map(([name, value]) => [name, value] as const),
    ...Object.entries(WRONG).map(([name, target]) => [name, truth.get(target)!] as const),
  ]);
  const tallies = new Map([...targets.keys()].map((name) => [name, { held: 0, sum: 0, n: 0 }]));
  for (let i = 0; i < options.campaigns; i++) {
    const estimates = await simulate(options, i);
    for (const [name, value] of targets) {
      const estimate = estimates.get(name);
      if (estimate === undefined) continue;
      const tally = tallies.get(name)!;
      tally.n += 1;
      tally.sum += estimate.value;
      // A hair of rounding: a figure without any variance has an interval of no width.
      const hair = 1e-6 * Math.abs(value);
      if (estimate.low - hair <= value && value <= estimate.high + hair) tally.held += 1;
    }
    progress(i + 1);
  }
  const rows = [...targets].map(([figure, value]): Coverage => {
    const { held, sum, n } = tallies.get(figure)!;
    const ends = n === 0 ? { low: 0, high: 0 } : clopperPearson(held, n, 0.999);
    return { figure, truth: value, ratio: n === 0 ? Number.NaN : sum / n / value, held, campaigns: n, ...ends };
  });
  return { figures: rows.filter((row) => !(row.figure in WRONG)), wrong: rows.filter((row) => row.figure in WRONG) };
}
