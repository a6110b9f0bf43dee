/**
 * What a speed measurement fixes beforehand and what it writes down. The plan says which arm runs in which process, how a
 * process warms up and for how long it is timed; a timing row holds one whole session as arrays with one entry a round, so
 * that ten minutes of rounds stay a few megabytes and nothing is written while the clock runs.
 *
 * All times are nanoseconds of one monotonic clock; `startNs` counts from the start of the run, in every process alike.
 */
import { z } from 'zod';

const Count = z.int().nonnegative();
const Ns = z.number().nonnegative();
const Seconds = z.number().nonnegative();
const Name = z.string().min(1);

export const SpeedArm = z.enum(['plain', 'speculative']);

/** A user's own figures; kilotoken knows no price. */
export const Economics = z.strictObject({
  /** Lengths of the tasks whose time is wanted, tokens. */
  taskTokens: z.array(z.int().positive()),
  /** Price of the faster and of the ordinary service, in the same unit per token. */
  price: z.strictObject({ speculative: z.number().positive(), plain: z.number().positive() }).nullable(),
  /** What an hour of the machine costs, and in what. */
  machineHour: z.strictObject({ value: z.number().positive(), currency: Name }).nullable(),
});

export const SpeedCellPlan = z.strictObject({
  id: Name,
  scenario: Name,
  /** Timed prompts, in order; every pass takes all of them. */
  prompts: z.array(Name).min(1),
  /** Prompts a process warms up with; none of them is timed where the suite is large enough. */
  warmupPrompts: z.array(Name).min(1),
  /** Prompts nobody decoded before, each sent several times in a row to see whether a repetition is faster. */
  probePrompts: z.array(Name),
  /** Sessions in flight at once. */
  concurrency: z.int().positive(),
});

export const SpeedPlan = z.strictObject({
  /** sustained: at least `leastSeconds` of measurement a cell and arm. short: less; said wherever a figure stands. */
  mode: z.enum(['short', 'sustained']),
  rule: z.enum(['match', 'reject', 'coupled']),
  plain: Name,
  speculative: Name,
  temperature: z.number().nonnegative(),
  topP: z.number().positive().max(1),
  topK: Count,
  maxTokens: z.int().positive(),
  cells: z.array(SpeedCellPlan),
  /** The arm of each segment, in order. A segment is one fresh process that runs every cell. */
  order: z.array(SpeedArm),
  /** A cell of a segment takes whole passes over its prompts until so much time has gone by; 0: one pass. */
  segmentSeconds: Seconds,
  /** The least sum of segments of a headline cell, seconds. */
  leastSeconds: Seconds,
  warmup: z.strictObject({
    /** Steady: the mean step times of the last `windows` windows of `windowSeconds` lie within `tolerance` of their mean. */
    windowSeconds: z.number().positive(),
    windows: z.int().min(2),
    tolerance: z.number().positive(),
    /** Timing begins after so long even if it was not steady; that is said. */
    mostSeconds: Seconds,
  }),
  /** Width of the window a peak is read from, seconds. */
  peakSeconds: z.number().positive(),
  /** How often a probe prompt is sent, the first time included. */
  probeTimes: z.int().min(2),
  /** Largest relative difference between tokens per second and acceptance length over step time. */
  identityTolerance: z.number().positive(),
  economics: Economics,
});

/** One session of a segment, whatever came of it. Arrays: one entry a round, the prefill first. */
export const TimedSession = z.strictObject({
  kind: z.literal('session'),
  segment: Count,
  cell: Name,
  role: z.enum(['warm-up', 'measured', 'probe']),
  /** Counts the sessions of a cell and role within its segment. */
  ordinal: Count,
  lane: Count,
  prompt: Name,
  /** Which pass over the prompts, or which sending of a probe; 0 is the first. */
  pass: Count,
  seed: z.string().regex(/^[0-9]{1,20}$/),
  promptTokens: z.int().positive(),
  /** Just before open(). */
  startNs: Ns,
  /** End of each step, from startNs; atNs[0] is the time to the first token. */
  atNs: z.array(Ns),
  /** Harness clock around each step. */
  stepNs: z.array(Ns),
  /** The engine's wall clock for each step, and its parts. */
  engineNs: z.array(Ns),
  draftNs: z.array(Ns),
  verifyNs: z.array(Ns),
  /** The device's clock for each step; null when the engine cannot tell. */
  deviceNs: z.array(Ns).nullable(),
  kept: z.array(Count),
  accepted: z.array(Count),
  drafted: z.array(Count),
  tokens: z.array(Count),
  finish: z.enum(['stop', 'length']).nullable(),
  /** In words, what went wrong; null after a proper end. */
  fault: z.string().nullable(),
});

/** One process of one arm. */
export const TimedSegment = z.strictObject({
  kind: z.literal('segment'),
  segment: Count,
  arm: SpeedArm,
  engine: Name,
  /** True when the segment had a process of its own. */
  freshProcess: z.boolean(),
  startNs: Ns,
  /** End of the last session, same clock. */
  endNs: Ns,
  /** Set variables that are known to force or assume acceptance, by name. */
  switches: z.array(z.string()),
  /** Cores that other processes kept busy, on average; null where it cannot be told. */
  foreignCores: z.number().nonnegative().nullable(),
  /** Other programs that held the GPU; null where there is none or it cannot be told. */
  gpuProcesses: z.array(z.string()).nullable(),
  /** Null after a proper end. */
  fault: z.string().nullable(),
});

export const TimingRow = z.discriminatedUnion('kind', [TimedSession, TimedSegment]);

export type SpeedArm = z.infer<typeof SpeedArm>;
export type Economics = z.infer<typeof Economics>;
export type SpeedCellPlan = z.infer<typeof SpeedCellPlan>;
export type SpeedPlan = z.infer<typeof SpeedPlan>;
export type TimedSession = z.infer<typeof TimedSession>;
export type TimedSegment = z.infer<typeof TimedSegment>;
export type TimingRow = z.infer<typeof TimingRow>;
