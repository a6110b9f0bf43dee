/**
 * Where the random numbers come from: no counter is read twice in a sequence, and each number is what the stated generator gives
 * at its counter. Where no generator is stated: no number comes twice in a round more often than its grid explains, and
 * all of them together look uniform (an e-process, so that any stopping is allowed).
 *
 * Under `coupled` the noise of a position is read once for the target and any number of times for drafts, by design.
 */
import type { Engine, Round } from '../engine.ts';
import { philox4x32, Random, seedWords, uniform52 } from '../stats/philox.ts';
import { UniformProcess } from './pit.ts';

const STREAMS: Readonly<Record<string, number>> = { target: 0, draft: 1, accept: 2, residual: 3 };
const NOISE = 4;
/** Tokens of each noise vector that are computed again, the one that won apart. */
const NOISE_SAMPLE = 8;
/** Coarsest grid that uniforms are expected on: 24 bits, an FP32 in [0, 1). */
const GRID = 2 ** -24;
/** A count of repeated values this unlikely refutes. */
const REPEATS_LEVEL = 1e-9;

export class CounterAudit {
  readonly #generator: Engine['generator'];
  readonly #sample: Random;
  readonly uniformity = new UniformProcess();
  /** Numbers read, and numbers computed again. */
  read = 0;
  recomputed = 0;
  /** The first of each fault, in words. */
  readonly problems: string[] = [];
  #pairs = 0;
  #repeats = 0;
  #repeated = '';

  /** `seed` chooses which tokens of noise are computed again. */
  constructor(generator: Engine['generator'], seed: string) {
    this.#generator = generator;
    this.#sample = new Random(seed, 47);
  }

  /** All rounds of one sequence, from its prefill. */
  session(seed: string, rounds: readonly Round[], where: string): void {
    const seen = new Set<string>();
    const key = seedWords(seed);
    const once = (counter: string): void => {
      if (seen.has(counter)) this.#complain(`${counter} is read twice ${where}`);
      seen.add(counter);
    };
    const expect = (counter: string, u: number, due: number): void => {
      this.recomputed += 1;
      if (u !== due) this.#complain(`${counter} gives ${u}, the stated generator ${due} ${where}`);
    };
    for (const { replay } of rounds) {
      if (replay === undefined) continue;
      const values = new Set<number>();
      for (const { stream, position, round, draw = 0, u } of replay.uniforms) {
        const counter = `stream ${stream}, position ${position}, draw ${draw}, round ${round}`;
        this.read += 1;
        if (![position, round, draw].every((word) => Number.isInteger(word) && word >= 0 && word < 2 ** 32)) {
          this.#complain(`${counter} is no counter ${where}`);
          continue;
        }
        once(counter);
        if (this.#generator !== undefined) {
          const words = philox4x32([position, STREAMS[stream] ?? 0xffff, draw, round], key.low, key.high);
          expect(counter, u, uniform52(words[0], words[1]));
          continue;
        }
        this.#pairs += values.size;
        if (values.has(u)) {
          this.#repeats += 1;
          this.#repeated ||= `${u} ${where}`;
        }
        values.add(u);
        this.uniformity.observe(u);
      }
      for (const { of, position, round, u } of replay.noise ?? []) {
        this.read += 1;
        if (of === 'target') once(`noise of the target, position ${position}, round ${round}`);
        if (this.#generator === undefined) continue;
        for (let i = 0; i <= NOISE_SAMPLE; i++) {
          const token = i === NOISE_SAMPLE ? indexOfLargest(u) : this.#sample.below(u.length);
          const words = philox4x32([position, NOISE, token >> 1, round], key.low, key.high);
          const due = token % 2 === 0 ? uniform52(words[0], words[1]) : uniform52(words[2], words[3]);
          expect(`noise, position ${position}, token ${token}, round ${round}`, u[token]!, due);
        }
      }
    }
  }

  /** What was found in all, with the test of repeated values, which needs their number. */
  found(): readonly string[] {
    const tooMany = this.#repeats > 0 && poissonTail(this.#repeats, this.#pairs * GRID) < REPEATS_LEVEL;
    return tooMany
      ? [
          ...this.problems,
          `${this.#repeats} numbers come twice in a round of ${this.#pairs} pairs, first ${this.#repeated}`,
        ]
      : this.problems;
  }

  #complain(text: string): void {
    // The first says what is wrong; a thousand say it no better.
    if (this.problems.length < 100) this.problems.push(text);
  }
}

function indexOfLargest(values: Float64Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** P(X >= count) of a Poisson law. */
export function poissonTail(count: number, mean: number): number {
  let term = Math.exp(-mean);
  let below = 0;
  for (let k = 0; k < count; k++) {
    below += term;
    term *= mean / (k + 1);
  }
  if (below < 0.5) return 1 - below;
  // The tail itself, not the difference to 1.
  let tail = 0;
  for (let k = count; term > 0 && k < count + 1000; k++) {
    tail += term;
    term *= mean / (k + 1);
  }
  return tail;
}
