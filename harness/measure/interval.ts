/**
 * Intervals of speed figures. Two things vary: the prompts, and from one process to the next the machine (memory layout,
 * clocks, neighbours). A bootstrap over prompts sees the first only, so its interval is widened by the spread between
 * processes. Prompts are the same in every process, so that spread holds none of theirs.
 */
import { type BootstrapOptions, bcaInterval, type ClusterStatistic } from '../stats/bootstrap.ts';
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

/**
 * BCa over prompts, each side widened in quadrature by t * error, where t is Student's for the degrees of freedom that Welch
 * and Satterthwaite give prompts and processes together. Null without two prompts; without two processes the method says that
 * their spread is not in it.
 */
export function speedInterval(
  prompts: number,
  statistic: ClusterStatistic,
  processes: Between | null,
  options: BootstrapOptions,
): SpeedInterval | null {
  const value = statistic(Uint32Array.from({ length: prompts }, (_, i) => i));
  const ends = bcaInterval(prompts, statistic, options);
  if (ends === null) return null;
  const base = `BCa bootstrap by prompt, ${options.resamples} resamples, seed ${options.seed}`;
  if (processes === null)
    return { ...ends, method: `${base}; one process, so the spread between processes is not in it` };
  const tail = 1 - (1 - options.level) / 2;
  const side = (end: number): number => {
    const half = Math.abs(end - value);
    const z = studentQuantile(tail, 1e6);
    const ofPrompts = (half / z) ** 2;
    const ofProcesses = processes.error ** 2;
    if (ofProcesses === 0) return half;
    // Prompts count as many degrees of freedom as there are, less one.
    const df =
      (ofPrompts + ofProcesses) ** 2 / (ofPrompts ** 2 / Math.max(1, prompts - 1) + ofProcesses ** 2 / processes.df);
    const t = Math.max(z, studentQuantile(tail, df));
    return t * Math.sqrt(ofPrompts + ofProcesses);
  };
  return {
    low: value - side(ends.low),
    high: value + side(ends.high),
    method: `${base}; widened by the spread between ${processes.df + 1 === Math.round(processes.df + 1) ? `${processes.df + 1} processes` : 'processes'} (Student's t)`,
  };
}

/** Student's interval of a mean over processes: for figures that have no prompts to resample. */
export function processInterval(values: readonly number[], level: number): SpeedInterval | null {
  const spread = between(values);
  if (spread === null) return null;
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const half = studentQuantile(1 - (1 - level) / 2, spread.df) * spread.error;
  return { low: mean - half, high: mean + half, method: `Student's t over ${values.length} processes` };
}
