/**
 * What passes between the end of a step and the beginning of the next is the harness's own time: it is short, and it does not depend on how long the
 * step took; it does when step times were shortened afterwards and the times of day were not. Medians are compared, so that a
 * collector or a busy machine, which make single pauses long, do not look like it.
 */
import type { Findings } from './findings.ts';

/** Pauses of a kind that are needed before they are compared. */
const NEEDED = 10;
/** What a nanosecond of step adds to the pause behind it: above this, step times were shortened. */
const SLOPE = 0.02;
/** Share of a decode step by which pauses behind decode steps may exceed those behind prefills. */
const EXCESS = 0.05;

/** Differences of pauses below this are the machine's, whatever the steps are, nanoseconds. */
const FLOOR_NS = 50_000;

/** A step and what passed on the side of it that has no time of day of its own, nanoseconds. */
export interface Pause {
  readonly step: number;
  readonly pause: number;
}

/** By name of what is compared within itself, for instance an engine; only sessions that ran alone belong here. */
export class Pauses {
  readonly #groups = new Map<string, { prefill: Pause[]; decode: Pause[] }>();

  add(group: string, behindPrefill: boolean, pause: Pause): void {
    let pauses = this.#groups.get(group);
    if (pauses === undefined) {
      pauses = { prefill: [], decode: [] };
      this.#groups.set(group, pauses);
    }
    pauses[behindPrefill ? 'prefill' : 'decode'].push(pause);
  }

  /** `bare`: nothing happens between the steps but the reading of a clock, so that long pauses alone are enough. */
  compare(check: string, findings: Findings, bare: boolean): void {
    for (const [group, { prefill, decode }] of this.#groups) {
      const complain = (text: string): void =>
        findings.difference(check, `${group}: ${text}: step times were shortened`);
      if (bare && decode.length >= NEEDED) {
        const [pause, step] = [median(decode, 'pause'), median(decode, 'step')];
        if (pause > Math.max(FLOOR_NS, EXCESS * step)) {
          complain(`${Math.round(pause)} ns pass between steps of ${Math.round(step)} ns`);
          continue;
        }
      }
      const sorted = [...decode].sort((a, b) => a.step - b.step);
      const third = Math.floor(sorted.length / 3);
      const pairs = [
        ['decode steps', sorted.slice(0, third), sorted.slice(-third)],
        ['prefills', decode, prefill],
      ] as const;
      for (const [name, short, long] of pairs) {
        if (short.length < NEEDED || long.length < NEEDED) continue;
        const rise = median(long, 'step') - median(short, 'step');
        if (rise < 0.05 * median(short, 'step')) continue;
        const longer = median(long, 'pause') - median(short, 'pause');
        const slope = longer / rise;
        if (slope > SLOPE && longer > FLOOR_NS) {
          complain(`pauses grow with the ${name} beside them, by ${slope.toFixed(2)} ns a ns`);
          break;
        }
      }
      if (prefill.length < NEEDED || decode.length < NEEDED) continue;
      const excess = median(decode, 'pause') - median(prefill, 'pause');
      if (excess > Math.max(FLOOR_NS, EXCESS * median(decode, 'step'))) {
        complain(`${Math.round(excess)} ns more pass behind a decode step than behind a prefill`);
      }
    }
  }
}

function median(pauses: readonly Pause[], key: keyof Pause): number {
  const values = pauses.map((pause) => pause[key]).sort((a, b) => a - b);
  return values[Math.floor(values.length / 2)]!;
}
