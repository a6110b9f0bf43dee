/**
 * When a process has warmed up. Step times are cut into windows of fixed length; it is steady when the mean step time of
 * each of the last few windows lies within a stated share of their common mean. Step time, not tokens a second: that one
 * varies with the text.
 */
import type { SpeedPlan } from './rows.ts';

export class Steadiness {
  readonly #plan: SpeedPlan['warmup'];
  readonly #means: number[] = [];
  #started: number | null = null;
  #sum = 0;
  #count = 0;

  constructor(plan: SpeedPlan['warmup']) {
    this.#plan = plan;
  }

  /** A decode step that ended at `atNs` and took `stepNs`. Windows without a step are not windows. */
  add(atNs: number, stepNs: number): void {
    this.#started ??= atNs - stepNs;
    this.#sum += stepNs;
    this.#count += 1;
    if (atNs - this.#started < this.#plan.windowSeconds * 1e9) return;
    this.#means.push(this.#sum / this.#count);
    if (this.#means.length > this.#plan.windows) this.#means.shift();
    this.#started = atNs;
    this.#sum = 0;
    this.#count = 0;
  }

  /** Largest distance of a window's mean from the mean of the last windows, relative; null before there are enough. */
  spread(): number | null {
    if (this.#means.length < this.#plan.windows) return null;
    const mean = this.#means.reduce((a, b) => a + b, 0) / this.#means.length;
    return Math.max(...this.#means.map((value) => Math.abs(value - mean))) / mean;
  }

  get steady(): boolean {
    const spread = this.spread();
    return spread !== null && spread <= this.#plan.tolerance;
  }
}

/** The criterion as it is printed. */
export function criterionText(plan: SpeedPlan['warmup']): string {
  const share = `${Number((100 * plan.tolerance).toPrecision(3))} %`;
  return `mean step times of the last ${plan.windows} windows of ${plan.windowSeconds} s within ${share} of their mean, or ${plan.mostSeconds} s`;
}
