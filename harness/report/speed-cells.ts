/**
 * The cells of a speed measurement: every definition of speed with its formula, its interval and how directly it was observed; the
 * identities that tie them together; and what makes a cell invalid. Notation as in measure/cells.ts: a request is sent at t_s, chunk
 * j of n_j tokens arrives at t_j, N tokens in m chunks; the first chunk is the prefill's.
 */
import type { TelemetryRow } from '../bundle/rows.ts';
import {
  amortisedLatencies,
  type CellData,
  chunkLatencies,
  emptySums,
  type TimeSums,
  tokenLatencies,
} from '../measure/cells.ts';
import { pricePerMillion, taskSeconds, tokensWithin, triesWithin } from '../measure/economics.ts';
import { type Between, between, ratioBetween, speedInterval, spreadKnown, widened } from '../measure/interval.ts';
import { percentile, quantile } from '../measure/percentile.ts';
import { energyOver } from '../measure/power.ts';
import type { SpeedPlan } from '../measure/rows.ts';
import type { Source } from '../measure/source.ts';
import { allBusy, peakOf } from '../measure/windows.ts';
import { type BootstrapOptions, bcaInterval, type ClusterStatistic } from '../stats/bootstrap.ts';
import type { Figure, Measured, Warning } from './schema.ts';

type Sums = Readonly<TimeSums>;

export function absentFigure(reason: string): Measured {
  return { state: 'not yet measured', reason };
}

interface Definition {
  readonly id: string;
  readonly name: string;
  readonly formula: string;
  readonly unit: string;
  readonly source: Source;
  readonly of: (sums: Sums) => number;
  /** Said where the value cannot be computed. */
  readonly absent?: string;
}

const MS = 1e6;
const S = 1e9;

/** Figures that are ratios of sums, so that sums over any set of prompts give them. */
export const DEFINITIONS: readonly Definition[] = [
  {
    id: 'decode-tps',
    name: 'Decode tokens per second',
    formula: '(N − n₁) / (t_m − t₁), pooled over requests',
    unit: 'tokens/s',
    source: 'trace',
    of: (s) => s.decodeTokens / (s.spanNs / S),
  },
  {
    id: 'e2e-tps',
    name: 'End-to-end tokens per second',
    formula: 'N / (t_m − t_s), pooled over requests',
    unit: 'tokens/s',
    source: 'request',
    of: (s) => s.tokens / (s.wholeNs / S),
  },
  {
    id: 'ttft',
    name: 'Time to first token',
    formula: 't₁ − t_s, mean over requests',
    unit: 'ms',
    source: 'request',
    of: (s) => s.firstNs / s.sessions / MS,
  },
  {
    id: 'ttst',
    name: 'Time to second chunk',
    formula: 't₂ − t₁, mean over requests',
    unit: 'ms',
    source: 'trace',
    of: (s) => s.secondNs / s.seconds / MS,
  },
  {
    id: 'tpot',
    name: 'Time per output token',
    formula: '(t_m − t₁) / (N − n₁), pooled',
    unit: 'ms',
    source: 'trace',
    of: (s) => s.spanNs / s.decodeTokens / MS,
  },
  {
    id: 'step',
    name: 'Step time',
    formula: 'mean of a verify step, clock of the harness',
    unit: 'ms',
    source: 'trace',
    of: (s) => s.stepNs / s.rounds / MS,
  },
  {
    id: 'engine-step',
    name: 'Step time by the engine',
    formula: "mean of a verify step, the engine's clock",
    unit: 'ms',
    source: 'trace',
    of: (s) => s.engineNs / s.rounds / MS,
  },
  {
    id: 'device-step',
    name: 'Step time on the device',
    formula: "mean of a verify step, the device's clock",
    unit: 'ms',
    source: 'trace',
    of: (s) => s.deviceNs / s.rounds / MS,
    absent: 'the engine has no clock on a device',
  },
  {
    id: 'draft-share',
    name: 'Share of drafting',
    formula: "drafting / step, the engine's clock",
    unit: 'share of the step',
    source: 'trace',
    of: (s) => s.draftNs / s.engineNs,
  },
  {
    id: 'verify-share',
    name: 'Share of verification',
    formula: "verification / step, the engine's clock",
    unit: 'share of the step',
    source: 'trace',
    of: (s) => s.verifyNs / s.engineNs,
  },
  {
    id: 'server-tps',
    name: 'Tokens per second by the engine',
    formula: "decode tokens / sum of step times, the device's clock or the engine's",
    unit: 'tokens/s',
    source: 'trace',
    of: (s) => s.decodeTokens / ((Number.isFinite(s.deviceNs) ? s.deviceNs : s.engineNs) / S),
  },
  {
    id: 'transport',
    name: 'Outside the engine',
    formula: "1 − sum of the engine's step times / (t_m − t₁)",
    unit: 'share of the time',
    source: 'trace',
    of: (s) => 1 - s.engineNs / s.spanNs,
  },
  {
    id: 'prefill-tps',
    name: 'Prefill tokens per second',
    formula: 'prompt tokens / time of the prefill step',
    unit: 'tokens/s',
    source: 'trace',
    of: (s) => s.promptTokens / (s.prefillNs / S),
  },
  {
    id: 'kept-al',
    name: 'Tokens kept a step',
    formula: '(N − n₁) / (m − 1), pooled',
    unit: 'tokens/step',
    source: 'trace',
    of: (s) => s.decodeTokens / s.rounds,
  },
  {
    id: 'raw-al',
    name: 'Acceptance length in timed sessions',
    formula: 'mean of accepted drafts + 1, before any cut',
    unit: 'tokens/step',
    source: 'trace',
    of: (s) => s.raw / s.rounds,
  },
];

export const DECODE = DEFINITIONS[0]!;
export const STEP = DEFINITIONS.find((definition) => definition.id === 'step')!;
export const PREFILL = DEFINITIONS.find((definition) => definition.id === 'prefill-tps')!;

const KEYS = Object.keys(emptySums()) as (keyof TimeSums)[];

/** The definition's value on any multiset of prompts. */
export function pooled(prompts: readonly Sums[], of: (sums: Sums) => number): ClusterStatistic {
  // Only what the formula reads is summed; which that is, is seen by asking it once.
  const read = new Set<keyof TimeSums>();
  of(
    new Proxy(emptySums(), {
      get: (target, key) => {
        read.add(key as keyof TimeSums);
        return target[key as keyof TimeSums];
      },
    }),
  );
  // A formula may read one sum or another; sums it may fall back to are kept too.
  if (read.has('deviceNs')) read.add('engineNs');
  const keys = KEYS.filter((key) => read.has(key));
  const columns = keys.map((key) => Float64Array.from(prompts, (sums) => sums[key]));
  const sums = emptySums();
  return (indices) => {
    for (let k = 0; k < keys.length; k++) {
      const column = columns[k]!;
      let sum = 0;
      for (let i = 0; i < indices.length; i++) sum += column[indices[i]!]!;
      sums[keys[k]!] = sum;
    }
    return of(sums);
  };
}

export interface FigureContext {
  readonly bootstrap: BootstrapOptions;
  readonly warnings: readonly Warning[];
  /** Why the cell may not be used; then no figure of it is printed. */
  readonly invalid: string | null;
}

const allOf = (n: number): Uint32Array => Uint32Array.from({ length: n }, (_, i) => i);

/** A figure of one arm by its definition, with its interval over prompts and processes. */
export function ratioFigure(
  cell: CellData,
  definition: Omit<Definition, 'id' | 'name' | 'formula' | 'source'>,
  context: FigureContext,
): Measured {
  if (context.invalid !== null) return absentFigure(context.invalid);
  const prompts = [...cell.byPrompt.values()];
  const statistic = pooled(prompts, definition.of);
  const value = statistic(allOf(prompts.length));
  if (prompts.length === 0 || !Number.isFinite(value)) {
    return absentFigure(definition.absent ?? 'no session of this kind has ended');
  }
  const processes = between([...cell.bySegment.values()].map(definition.of));
  const ends = speedInterval(prompts.length, statistic, processes, context.bootstrap);
  return {
    state: 'measured',
    value,
    unit: definition.unit,
    interval:
      ends === null ? null : { low: ends.low, high: ends.high, level: context.bootstrap.level, method: ends.method },
    n: prompts.length,
    of: 'prompts',
    warnings: [...context.warnings],
  };
}

export function definitionFigures(cell: CellData, context: FigureContext): Figure[] {
  return [
    ...DEFINITIONS.map((definition) => ({
      id: definition.id,
      name: definition.name,
      formula: definition.formula,
      source: definition.source,
      figure: ratioFigure(cell, definition, context),
    })),
    ...UNTOLD,
  ];
}

/** Definitions that need to know which tokens are reasoning: token ids do not say. */
const UNTOLD: readonly Figure[] = (['reasoning', 'answer'] as const).map((what) => ({
  id: what === 'reasoning' ? 'ttfr' : 'ttfa',
  name: `Time to first ${what} token`,
  formula: `t of the first ${what} token − t_s, mean over requests`,
  source: 'request',
  figure: absentFigure('the engine gives token ids and does not say which of them are reasoning'),
}));

const LATENCIES = [
  {
    id: 'icl',
    name: 'Inter-chunk latency',
    formula: 't_(j+1) − t_j',
    of: chunkLatencies,
    ps: [0.5, 0.9, 0.99],
  },
  {
    id: 'itl-amortised',
    name: 'Inter-token latency, amortised',
    formula: '(t_(j+1) − t_j) / n_(j+1), once a token',
    of: amortisedLatencies,
    ps: [0.5, 0.99],
  },
  {
    id: 'itl-raw',
    name: 'Inter-token latency, as received',
    formula: '0 within a chunk, the step before it',
    of: tokenLatencies,
    ps: [0.99],
  },
] as const;

/** Latency percentiles with intervals by order statistics. */
export function latencyFigures(cell: CellData, context: FigureContext): Figure[] {
  return LATENCIES.flatMap(({ id, name, formula, of, ps }) => {
    const sorted = of(cell.sessions);
    const bySegment = [...cell.bySegment.keys()].map((segment) =>
      of(cell.sessions.filter((row) => row.segment === segment)),
    );
    return ps.map((p): Figure => {
      const found = context.invalid === null ? percentile(sorted, p, context.bootstrap.level) : null;
      const own = bySegment.map((values) => quantile(values, p));
      const processes = between(own);
      const ends =
        found === null || !spreadKnown(processes)
          ? null
          : widened(found.value, found, sorted.length - 1, processes, context.bootstrap.level);
      const reason = context.invalid ?? `${sorted.length} latencies are too few for the ${100 * p}th percentile`;
      return {
        id: `${id}-p${100 * p}`,
        name: `${name}, p${100 * p}`,
        formula: `${formula}, ${100 * p}th percentile`,
        source: 'trace',
        figure:
          found === null
            ? absentFigure(reason)
            : {
                state: 'measured',
                value: found.value / MS,
                unit: 'ms',
                interval: ends && {
                  low: ends.low / MS,
                  high: ends.high / MS,
                  level: context.bootstrap.level,
                  method:
                    "order statistics, rounds taken as independent; widened by the spread between processes (Student's t)",
                },
                n: sorted.length,
                of: 'latencies',
                warnings: [...context.warnings],
              },
      };
    });
  });
}

export interface PeakCheck {
  readonly figure: Figure;
  readonly check: { seconds: number; ratio: number; most: number; holds: boolean } | null;
}

/** The best window of any process, and whether it lies within what the block allows: tokens <= block x rounds of the window. */
export function peakFigure(cell: CellData, plan: SpeedPlan, blockSize: number, context: FigureContext): PeakCheck {
  const peaks = [...cell.bySegment.keys()].flatMap((segment) => {
    const peak = peakOf(
      cell.sessions.filter((row) => row.segment === segment),
      plan.peakSeconds,
    );
    return peak === null ? [] : [peak];
  });
  const base = {
    id: 'peak',
    name: `Peak over ${plan.peakSeconds} s`,
    formula: `most tokens in any ${plan.peakSeconds} s / ${plan.peakSeconds} s, all slots together`,
    source: 'trace' as const,
  };
  const [first] = peaks;
  if (first === undefined || context.invalid !== null) {
    const reason = context.invalid ?? `no process was timed for ${plan.peakSeconds} s`;
    return { figure: { ...base, figure: absentFigure(reason) }, check: null };
  }
  const peak = peaks.reduce((a, b) => (b.tokensPerSecond > a.tokensPerSecond ? b : a), first);
  const mean = cell.concurrency * DECODE.of(cell.total);
  const al = cell.total.decodeTokens / cell.total.rounds;
  const meanStep = cell.total.spanNs / S / cell.total.rounds;
  // Steps of the window over the mean step: in a stretch of short contexts steps are shorter than on average.
  const pace = (peak.rounds * meanStep) / plan.peakSeconds / cell.concurrency;
  const most = (blockSize / al) * Math.max(1, pace);
  const ratio = peak.tokensPerSecond / mean;
  return {
    figure: {
      ...base,
      figure: {
        state: 'measured',
        value: peak.tokensPerSecond,
        unit: 'tokens/s',
        interval: null,
        n: peaks.length,
        of: 'processes',
        warnings: [...context.warnings],
      },
    },
    check: { seconds: plan.peakSeconds, ratio, most, holds: ratio <= most * (1 + 1e-9) },
  };
}

/** Tokens of all slots while all are busy, over that time. */
export function aggregateFigure(cell: CellData, context: FigureContext): Figure {
  const busy = [...cell.bySegment.keys()].map((segment) =>
    allBusy(
      cell.sessions.filter((row) => row.segment === segment),
      cell.concurrency,
    ),
  );
  const seconds = busy.reduce((sum, window) => sum + window.seconds, 0);
  const tokens = busy.reduce((sum, window) => sum + window.tokens, 0);
  const base = {
    id: 'aggregate-tps',
    name: `Aggregate tokens per second, ${cell.concurrency} at once`,
    formula: 'tokens while every slot is busy / that time',
    source: 'trace' as const,
  };
  if (context.invalid !== null || seconds === 0) {
    const reason = context.invalid ?? 'the slots were never all busy at once';
    return { ...base, figure: absentFigure(reason) };
  }
  const rates = busy.filter((window) => window.seconds > 0).map((window) => window.tokens / window.seconds);
  const value = tokens / seconds;
  // Tokens of several lanes are nobody's alone: how far prompts scatter is taken from the requests' own rates.
  const scatter = ownScatter(cell, context);
  const processes = between(rates);
  const ends =
    scatter === null || !spreadKnown(processes)
      ? null
      : widened(
          value,
          { low: value * scatter.low, high: value * scatter.high },
          cell.byPrompt.size - 1,
          processes,
          context.bootstrap.level,
        );
  return {
    ...base,
    figure: {
      state: 'measured',
      value,
      unit: 'tokens/s',
      interval:
        ends === null
          ? null
          : {
              ...ends,
              level: context.bootstrap.level,
              method: `scatter of the requests by prompt (BCa), widened by the spread between processes (Student's t)`,
            },
      n: rates.length,
      of: 'processes',
      warnings: [...context.warnings],
    },
  };
}

/** Ends of the BCa interval of end-to-end tokens per second over prompts, relative to its value. */
function ownScatter(cell: CellData, context: FigureContext): { low: number; high: number } | null {
  const prompts = [...cell.byPrompt.values()];
  const statistic = pooled(prompts, (s) => s.tokens / s.wholeNs);
  const ends = bcaInterval(prompts.length, statistic, context.bootstrap);
  const value = statistic(allOf(prompts.length));
  return ends === null ? null : { low: ends.low / value, high: ends.high / value };
}

/** What the measured pace means for a user: tasks, energy and, by the user's own figures, money. */
export function economicsFigures(
  cell: CellData,
  plan: SpeedPlan,
  telemetry: readonly TelemetryRow[],
  context: FigureContext,
): Figure[] {
  const { economics } = plan;
  const tasks = economics.taskTokens.map(
    (tokens): Figure => ({
      id: `task-${tokens}`,
      name: `Time for a task of ${tokens} tokens`,
      formula: `TTFT + (${tokens} − 1) × TPOT`,
      source: 'inferred',
      figure: ratioFigure(cell, { unit: 's', of: (s) => taskSeconds(paceOf(s), tokens) }, context),
    }),
  );
  const within: Figure = {
    id: 'tokens-10s',
    name: 'Tokens within 10 s',
    formula: '1 + (10 s − TTFT) / TPOT',
    source: 'inferred',
    figure: ratioFigure(cell, { unit: 'tokens', of: (s) => tokensWithin(paceOf(s), 10) }, context),
  };
  const energy = context.invalid === null ? energyOver(telemetry, cell.windows) : null;
  const perToken: Figure = {
    id: 'energy-per-token',
    name: 'Energy per token',
    formula: 'energy of the timed windows / tokens, prefill included',
    source: 'counter',
    figure:
      energy === null
        ? absentFigure(context.invalid ?? 'no sensor of this machine tells power or energy')
        : {
            state: 'measured',
            value: energy.joules / cell.total.tokens,
            unit: 'J/token',
            interval: null,
            n: cell.windows.length,
            of: `processes, by ${energy.source}`,
            warnings: [...context.warnings],
          },
  };
  const hour = economics.machineHour;
  const price: Figure[] =
    hour === null
      ? []
      : [
          {
            id: 'price-per-million',
            name: `Price of a million tokens at ${hour.value} ${hour.currency} an hour`,
            formula: 'price an hour / tokens an hour end to end, this concurrency',
            source: 'inferred',
            figure: ratioFigure(
              cell,
              {
                unit: `${hour.currency} per million tokens`,
                of: (s) => pricePerMillion(hour.value, (cell.concurrency * s.tokens) / (s.wholeNs / S)),
              },
              {
                ...context,
                warnings: [
                  ...context.warnings,
                  { code: 'assumed', text: `${hour.value} ${hour.currency} an hour is the caller's own figure` },
                ],
              },
            ),
          },
        ];
  return [...tasks, within, perToken, ...price];
}

function paceOf(sums: Sums): { first: number; perToken: number } {
  return { first: sums.firstNs / sums.sessions / S, perToken: sums.spanNs / sums.decodeTokens / S };
}

/** The two arms against each other, over the prompts both have. */
export function comparisonFigures(
  plain: CellData,
  speculative: CellData,
  plan: SpeedPlan,
  context: FigureContext,
): Figure[] {
  const ids = [...plain.byPrompt.keys()].filter((id) => speculative.byPrompt.has(id));
  const a = ids.map((id) => plain.byPrompt.get(id)!);
  const b = ids.map((id) => speculative.byPrompt.get(id)!);
  const ratio = (
    id: string,
    name: string,
    formula: string,
    ofPlain: (sums: Sums) => number,
    ofSpeculative: (sums: Sums) => number,
    source: Source,
    unit = 'x',
    warnings = context.warnings,
  ): Figure => {
    const base = { id, name, formula, source };
    if (context.invalid !== null) return { ...base, figure: absentFigure(context.invalid) };
    const [top, bottom] = [pooled(b, ofSpeculative), pooled(a, ofPlain)];
    const statistic: ClusterStatistic = (indices) => top(indices) / bottom(indices);
    const value = ids.length === 0 ? Number.NaN : statistic(allOf(ids.length));
    if (!Number.isFinite(value)) return { ...base, figure: absentFigure('no prompt was timed in both arms') };
    const spread = (cell: CellData, of: (sums: Sums) => number): Between | null =>
      between([...cell.bySegment.values()].map(of));
    const processes = ratioBetween(
      top(allOf(ids.length)),
      spread(speculative, ofSpeculative),
      bottom(allOf(ids.length)),
      spread(plain, ofPlain),
    );
    const ends = speedInterval(ids.length, statistic, processes, context.bootstrap);
    return {
      ...base,
      figure: {
        state: 'measured',
        value,
        unit,
        interval:
          ends === null
            ? null
            : { low: ends.low, high: ends.high, level: context.bootstrap.level, method: ends.method },
        n: ids.length,
        of: 'prompts',
        warnings: [...warnings],
      },
    };
  };
  const one = (_: Sums): number => 1;
  const { price } = plan.economics;
  return [
    ratio('speedup', 'Speed-up', 'decode tokens per second, on / off', DECODE.of, DECODE.of, 'trace'),
    ratio(
      'e2e-speedup',
      'Speed-up end to end',
      'end-to-end tokens per second, on / off',
      (s) => s.tokens / s.wholeNs,
      (s) => s.tokens / s.wholeNs,
      'request',
    ),
    ratio(
      'step-cost',
      'Cost of a verify step',
      'step time, on / off',
      (s) => s.stepNs / s.rounds,
      (s) => s.stepNs / s.rounds,
      'trace',
    ),
    ratio(
      'ideal-speedup',
      'Speed-up if a step cost what one token costs',
      'acceptance length, raw',
      one,
      (s) => s.raw / s.rounds,
      'inferred',
    ),
    ...plan.economics.taskTokens.map((tokens) => tries(plain, speculative, tokens, context)),
    ...(price === null
      ? []
      : [
          ratio(
            'price-per-speed',
            `Speed-up per price, at ${price.speculative / price.plain} times the price`,
            "speed-up / (price on / price off), the caller's own prices",
            (s) => (DECODE.of(s) * price.speculative) / price.plain,
            DECODE.of,
            'inferred',
            'x',
            [
              ...context.warnings,
              { code: 'assumed', text: `prices ${price.speculative} and ${price.plain} are the caller's own figures` },
            ],
          ),
        ]),
  ];
}

function tries(plain: CellData, speculative: CellData, tokens: number, context: FigureContext): Figure {
  const base: Omit<Figure, 'figure'> = {
    id: `tries-${tokens}`,
    name: `Tries of ${tokens} tokens within one of the baseline`,
    formula: 'floor(time of the task, off / time of the task, on), one after another',
    source: 'inferred',
  };
  const value =
    plain.total.rounds === 0 || speculative.total.rounds === 0
      ? Number.NaN
      : triesWithin(paceOf(plain.total), paceOf(speculative.total), tokens);
  if (context.invalid !== null || !Number.isFinite(value)) {
    return { ...base, figure: absentFigure(context.invalid ?? 'one of the arms was not timed') };
  }
  return {
    ...base,
    figure: {
      state: 'measured',
      value,
      unit: 'tries',
      interval: null,
      n: Math.min(plain.byPrompt.size, speculative.byPrompt.size),
      of: 'prompts',
      warnings: [...context.warnings],
    },
  };
}
