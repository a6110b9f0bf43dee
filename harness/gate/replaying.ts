/**
 * The two deterministic checks of a gate, fed session by session: does every decision follow from the rows and numbers that its
 * round carries, and are the numbers fresh ones? One differing decision outside the guard band refutes.
 */
import type { Decoding, Engine, Round } from '../engine.ts';
import { CounterAudit, poissonTail } from '../verify/counters.ts';
import { GUARD, type ReplaySetting, replayRound } from '../verify/replay.ts';
import type { Check } from './result.ts';

export interface RowsOfRound {
  readonly round: Round;
  /** Probabilities, [drafts + 1][vocab]; a round may carry fewer behind the last decisive one. */
  readonly p: readonly Float64Array[];
  readonly q: readonly Float64Array[];
}

/** More excused decisions than this probability explains refute. */
const EXCUSES_LEVEL = 1e-8;

export class ReplayJudge {
  readonly #setting: ReplaySetting;
  readonly #audit: CounterAudit;
  readonly #generator: Engine['generator'];
  #decisions = 0;
  #rounds = 0;
  #untold = 0;
  #different = 0;
  #first: string | null = null;
  readonly #excused: string[] = [];

  constructor(setting: ReplaySetting, generator: Engine['generator'], seed: string) {
    this.#setting = setting;
    this.#generator = generator;
    this.#audit = new CounterAudit(generator, seed);
  }

  /** Rounds of one session from its prefill; `prompt`: ids in it. */
  session(name: string, prompt: number, decoding: Decoding, rounds: readonly RowsOfRound[]): void {
    let position = prompt;
    for (const [index, { round, p, q }] of rounds.entries()) {
      const result = replayRound(this.#setting, decoding, round, { p, q }, position);
      position += round.committed.length;
      if (result.kind === 'untold') {
        this.#untold += 1;
        continue;
      }
      this.#rounds += 1;
      if (result.kind === 'same') {
        this.#decisions += result.decisions;
        for (const text of result.excused) this.#excused.push(`${name}, round ${index}: ${text}`);
        continue;
      }
      this.#different += 1;
      const said = result.kind === 'unfit' ? `the round holds ${result.text}` : result.text;
      this.#first ??= `${name}, round ${index}, ${said}`;
    }
    const where = `in ${name}`;
    this.#audit.session(
      decoding.seed,
      rounds.map(({ round }) => round),
      where,
    );
  }

  /** Decisions that were decided again. */
  get decisions(): number {
    return this.#decisions;
  }

  /** Whether replay has something to go by and found nothing. */
  get holds(): boolean {
    return this.#decisions > 0 && this.#first === null && this.#untold === 0;
  }

  /** `prefix`: `toy ` for the checks on toys. `would`: what differing decisions would have shown, in words. */
  checks(prefix: string, alpha: number, would: string | null): Check[] {
    return [this.#replayed(`${prefix}replay`, would), this.#counters(`${prefix}counters`, alpha)];
  }

  #replayed(id: string, would: string | null): Check {
    const base = {
      id,
      question: 'Does every decision follow from the rows and uniforms that its round carries?',
      n: this.#decisions,
      of: 'decisions',
      logE: null,
      decisive: false,
      wouldHaveCaught: null,
    };
    if (this.#rounds === 0) {
      return { ...base, outcome: 'not testable here', evidence: 'The rounds carry no uniforms to decide them by.' };
    }
    const mean = 2 * GUARD * this.#decisions;
    const excuses = this.#excused.length;
    const band = `guard band ${GUARD.toExponential(1)}, ${excuses} excused${excuses > 0 ? ` (first: ${this.#excused[0]})` : ''}`;
    if (this.#first !== null) {
      return {
        ...base,
        outcome: 'refuted',
        evidence: `${this.#different} of ${this.#rounds} rounds differ; first: ${this.#first} (${band}).`,
      };
    }
    if (excuses > 0 && poissonTail(excuses, mean) < EXCUSES_LEVEL) {
      return {
        ...base,
        outcome: 'refuted',
        evidence: `${excuses} of ${this.#decisions} decisions differ inside the guard band, ${mean.toExponential(1)} are expected; ${band}.`,
      };
    }
    if (this.#untold > 0) {
      return {
        ...base,
        outcome: 'refuted',
        evidence: `${this.#untold} of ${this.#untold + this.#rounds} rounds hold back the numbers that the others carry.`,
      };
    }
    return {
      ...base,
      outcome: 'consistent',
      evidence: `${this.#decisions} decisions of ${this.#rounds} rounds decided again, none otherwise (${band}).`,
      wouldHaveCaught: would,
    };
  }

  #counters(id: string, alpha: number): Check {
    const audit = this.#audit;
    const base = {
      id,
      question: 'Is every random number read once, and where its counter says?',
      n: audit.read,
      of: 'numbers',
      logE: null,
      decisive: false,
      wouldHaveCaught: null,
    };
    if (audit.read === 0) {
      return { ...base, outcome: 'not testable here', evidence: 'The rounds carry no numbers.' };
    }
    const problems = audit.found();
    if (problems.length > 0) {
      const count = problems.length >= 100 ? 'at least 100' : String(problems.length);
      return {
        ...base,
        outcome: 'refuted',
        evidence: `${count} ${count === '1' ? 'fault' : 'faults'}; the first: ${problems[0]}.`,
      };
    }
    const { logSup } = audit.uniformity.mixture;
    if (this.#generator === undefined) {
      const wealth = `e-value of their being uniform e^${logSup.toFixed(1)}`;
      const outcome = logSup >= Math.log(1 / alpha) ? 'refuted' : 'consistent';
      return {
        ...base,
        outcome,
        logE: logSup,
        evidence: `${audit.read} numbers, no counter twice in a sequence; no generator is stated, so only their law can be tested: ${wealth}.`,
        wouldHaveCaught:
          outcome === 'refuted'
            ? null
            : 'a counter read twice, a number that comes twice in a round, numbers that are not uniform',
      };
    }
    return {
      ...base,
      outcome: 'consistent',
      evidence: `${audit.read} numbers, no counter twice in a sequence; ${audit.recomputed} computed again by ${this.#generator}.`,
      wouldHaveCaught: 'a counter read twice, any number that is not the stated generator at its counter',
    };
  }
}
