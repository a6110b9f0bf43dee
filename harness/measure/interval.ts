/**
 * Intervals of speed figures. Two things vary: the prompts, and from one process to the next the machine (memory layout,
 * clocks, neighbours). A bootstrap over prompts sees the first only, so its interval is widened by the spread between
 * processes. Prompts are the same in every process, so that spread holds none of theirs.
 */
import { type BootstrapOptions, bcaInterval, type ClusterStatistic } from '../stats/bootstrap.ts';
import { normalQuantile } from '../stats/chisquare.ts';
import { studentQuantile } from '../stats/student.ts';

export interface Range {
  readonly low: number;
  readonly high: number;
}

export interface Between {
  /** Standard error of the figure that comes from the processes. */
  readonly error: number;
  /** Processes - 1; of a ratio of two arms, Welch and Satterthwaite's. */
  readonly df: number;
}

/** Mean of the same figure over processes, as a standard error; null below two of them. */
export function between(values: readonly number[]): Between | null {
  if (values.length < 2 || values.some((value) => !Number.isFinite(value))) return null;
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { error: Math.sqrt(squares / (values.length - 1) / values.length), df: values.length - 1 };
}

/** Of a ratio a / b from the errors of a and b, to first order (Welch 1947 for the degrees of freedom). */
export function ratioBetween(a: number, ofA: Between | null, b: number, ofB: Between | null): Between | null {
  if (ofA === null || ofB === null) return null;
  const u = (ofA.error / a) ** 2;
  const v = (ofB.error / b) ** 2;
  if (u + v === 0) return { error: 0, df: ofA.df + ofB.df };
  return {
    error: Math.abs(a / b) * Math.sqrt(u + v),
    df: (u + v) ** 2 / (u ** 2 / ofA.df + v ** 2 / ofB.df),
  };
}

export interface SpeedInterval extends Range {
  readonly method: string;
}

/** Processes an arm below which their spread is unknown for all practical purposes: Student's t of two is 12.7. */
export const LEAST_PROCESSES = 3;

/** Whether an interval can be stated at all. Of two arms, df lies between that of the smaller and the sum of both. */
export function spreadKnown(processes: Between | null): processes is Between {
  return processes !== null && (processes.error === 0 || processes.df >= LEAST_PROCESSES - 1);
}

/**
 * BCa over prompts, each side widened in quadrature by t * error, where t is Student's for the degrees of freedom that Welch
 * and Satterthwaite give prompts and processes together. Null without two prompts, and with too few processes to know their spread: an
 * interval without it would be too short, one with it of no use.
 */
export function speedInterval(
  prompts: number,
  statistic: ClusterStatistic,
  processes: Between | null,
  options: BootstrapOptions,
): SpeedInterval | null {
  if (!spreadKnown(processes)) return null;
  const value = statistic(Uint32Array.from({ length: prompts }, (_, i) => i));
  const ends = bcaInterval(prompts, statistic, options);
  if (ends === null) return null;
  const base = `BCa bootstrap by prompt, ${options.resamples} resamples, seed ${options.seed}`;
  const wider = widened(value, ends, prompts - 1, processes, options.level);
  return { ...wider, method: `${base}; widened by the spread between processes (Student's t)` };
}

/**
 * An interval around `value` with each side joined in quadrature with t * the standard error between processes: of positive figures on
 * the scale of logarithms, where a ratio's error is as long up as down. `df`: degrees of freedom of the interval as it stands.
 */
export function widened(value: number, ends: Range, df: number, processes: Between | null, level: number): Range {
  if (processes === null || processes.error === 0) return { low: ends.low, high: ends.high };
  const tail = 1 - (1 - level) / 2;
  const z = normalQuantile(tail);
  const logs = value > 0 && ends.low > 0;
  const side = (end: number): number => {
    const own = ((logs ? Math.log(end / value) : end - value) / z) ** 2;
    const theirs = (logs ? processes.error / value : processes.error) ** 2;
    // Welch and Satterthwaite's degrees of freedom of the sum.
    const both = (own + theirs) ** 2 / (own ** 2 / Math.max(1, df) + theirs ** 2 / processes.df);
    return studentQuantile(tail, both) * Math.sqrt(own + theirs);
  };
  const [down, up] = [side(ends.low), side(ends.high)];
  return logs ? { low: value * Math.exp(-down), high: value * Math.exp(up) } : { low: value - down, high: value + up };
}
