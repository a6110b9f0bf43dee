/**
 * The exact law of what a rule emits, by dynamic programming over (tokens emitted, state of the engine). A round's
 * outcomes depend on the state alone, so they are explored once a state; prefixes with the same tokens and state are one
 * node, and branches of probability 0 do not exist.
 */
import type { VerificationRule } from '../engine.ts';
import { type Outcome, outcomesOf } from './branching.ts';
import { type Fixture, runLength } from './fixture.ts';
import { CORRECT, type Hooks } from './hooks.ts';
import { Model } from './model.ts';
import { autoregressiveLaw, distanceOf, keyOf, type Law } from './plain.ts';
import { openingState, prefillRound, type RoundResult, type Run, type State, verifyRound } from './round.ts';

/** Acceptance over the decode rounds of a run; the prefill and its token are not part of it. */
export interface Acceptance {
  /** E[tokens before any cut] / E[rounds], the bonus token counted: the micro average of endlessly many runs. */
  readonly raw: number;
  /** E[tokens kept] / E[rounds]: cut at a stop id and at the end of the run. */
  readonly kept: number;
  /** E[tokens before any cut] in the first decode round. */
  readonly firstRound: number;
  /** Expected decode rounds of a run. */
  readonly rounds: number;
  /** Share of decode rounds with 0 .. block - 1 accepted drafts: expected counts over expected rounds. */
  readonly histogram: readonly number[];
}

export interface Enumeration {
  readonly law: Law;
  /** The law of plain decoding. */
  readonly reference: Law;
  /** P(accepted = j) of the first decode round, where a run has one. */
  readonly firstRound: readonly number[] | null;
  /** Total variation distance to the autoregressive law. */
  readonly distance: number;
  /** Probability of emitting what plain decoding never emits. */
  readonly offSupport: number;
  /** Null if a run has no decode round: it ends with the prefill's token. */
  readonly acceptance: Acceptance | null;
}

/** Largest distance that rounding explains. */
export const LAW_TOLERANCE = 1e-12;

interface Node {
  readonly tokens: readonly number[];
  readonly state: State;
  mass: number;
}

/** What the rounds from one state do, wherever the run stands. */
interface Rounds {
  /** By tokens and state afterwards; `accepted` of an entry is that of one of its paths. */
  readonly outcomes: readonly Outcome<RoundResult>[];
  readonly meanTokens: number;
  /** P(accepted = j). */
  readonly accepted: readonly number[];
}

interface Step {
  readonly kept: readonly number[];
  readonly ended: boolean;
  readonly next: State;
  probability: number;
}

const stateKey = ({ context, counted, memory }: State): string => `${context};${counted.join()};${memory.join()}`;

export function enumerate(fixture: Fixture, rule: VerificationRule, change: Partial<Hooks> = {}): Enumeration {
  const run: Run = { model: new Model(fixture), rule, hooks: { ...CORRECT, ...change } };
  const length = runLength(fixture);
  const explorer = new Explorer(run);
  const tally = new Tally(fixture.block);
  const law = new Map<string, number>();
  // frontier[n]: nodes with n emitted tokens. Every round emits at least one, so one pass in order of length sees all.
  const frontier: Map<string, Node>[] = Array.from({ length: fixture.tokens + 1 }, () => new Map());
  const follow = (from: readonly number[], mass: number, steps: readonly Step[]): void => {
    for (const step of steps) {
      const tokens = [...from, ...step.kept];
      const share = mass * step.probability;
      if (step.ended || tokens.length >= fixture.tokens) {
        const key = keyOf(tokens);
        law.set(key, (law.get(key) ?? 0) + share);
        continue;
      }
      const nodes = frontier[tokens.length]!;
      const key = `${keyOf(tokens)}|${stateKey(step.next)}`;
      const node = nodes.get(key);
      if (node === undefined) nodes.set(key, { tokens, state: step.next, mass: share });
      else node.mass += share;
    }
  };
  follow([], 1, explorer.prefill());
  for (const nodes of frontier) {
    for (const { tokens, state, mass } of nodes.values()) {
      const steps = explorer.steps(state, tokens.length);
      tally.add(mass, explorer.rounds(state), steps, tokens.length === 1);
      follow(tokens, mass, steps);
    }
  }
  const reference = autoregressiveLaw(run.model, length);
  return {
    law,
    reference,
    ...distanceOf(law, reference),
    acceptance: tally.acceptance(),
    firstRound: tally.firstRound(),
  };
}

/** Outcomes of rounds, remembered by state. */
class Explorer {
  readonly #run: Run;
  readonly #rounds = new Map<string, Rounds>();
  readonly #steps = new Map<string, Step[]>();

  constructor(run: Run) {
    this.#run = run;
  }

  prefill(): Step[] {
    const state = openingState(this.#run.model);
    const clock = { position: 0, round: 0 };
    return this.#cut(
      outcomesOf((source) => prefillRound(this.#run, state, clock, source)),
      0,
    );
  }

  rounds(state: State): Rounds {
    const key = stateKey(state);
    const known = this.#rounds.get(key);
    if (known !== undefined) return known;
    // Addresses need only differ within a round: every number that decided something belongs to a token that was emitted.
    const merged = new Map<string, { value: RoundResult; probability: number }>();
    const accepted = new Array<number>(this.#run.model.fixture.block).fill(0);
    let meanTokens = 0;
    for (const outcome of outcomesOf((source) => verifyRound(this.#run, state, { position: 0, round: 1 }, source))) {
      const { value, probability } = outcome;
      accepted[value.accepted]! += probability;
      meanTokens += probability * value.tokens.length;
      const same = `${keyOf(value.tokens)}|${stateKey(value.next)}`;
      const known = merged.get(same);
      if (known === undefined) merged.set(same, { value, probability });
      else known.probability += probability;
    }
    const rounds = { outcomes: [...merged.values()], meanTokens, accepted };
    this.#rounds.set(key, rounds);
    return rounds;
  }

  /** The same with stop ids and limits applied at `emitted` tokens, equal results merged. */
  steps(state: State, emitted: number): Step[] {
    const key = `${stateKey(state)}|${emitted}`;
    const known = this.#steps.get(key);
    if (known !== undefined) return known;
    const steps = this.#cut(this.rounds(state).outcomes, emitted);
    this.#steps.set(key, steps);
    return steps;
  }

  #cut(outcomes: Iterable<Outcome<RoundResult>>, emitted: number): Step[] {
    const { hooks, model } = this.#run;
    const { tokens: window, decoding } = model.fixture;
    const merged = new Map<string, Step>();
    for (const { value, probability } of outcomes) {
      const { kept, ended } = hooks.emit({
        emitted,
        tokens: value.tokens,
        stopIds: decoding.stopIds,
        maxTokens: decoding.maxTokens ?? window,
        memory: value.next.memory,
      });
      const seen = kept.slice(0, window - emitted);
      const over = ended || emitted + seen.length >= window;
      const key = over ? keyOf(seen) : `${keyOf(seen)}|${stateKey(value.next)}`;
      const step = merged.get(key);
      if (step === undefined) merged.set(key, { kept: seen, ended: over, next: value.next, probability });
      else step.probability += probability;
    }
    return [...merged.values()];
  }
}

/** Expected counts over the decode rounds. */
class Tally {
  #rounds = 0;
  #raw = 0;
  #kept = 0;
  #firstMass = 0;
  #firstRaw = 0;
  readonly #accepted: number[];
  readonly #firstAccepted: number[];

  constructor(block: number) {
    this.#accepted = new Array<number>(block).fill(0);
    this.#firstAccepted = [...this.#accepted];
  }

  add(mass: number, rounds: Rounds, steps: readonly Step[], first: boolean): void {
    this.#rounds += mass;
    this.#raw += mass * rounds.meanTokens;
    for (const { kept, probability } of steps) this.#kept += mass * probability * kept.length;
    for (const [count, probability] of rounds.accepted.entries()) this.#accepted[count]! += mass * probability;
    if (first) {
      this.#firstMass += mass;
      this.#firstRaw += mass * rounds.meanTokens;
      for (const [count, probability] of rounds.accepted.entries()) this.#firstAccepted[count]! += mass * probability;
    }
  }

  firstRound(): number[] | null {
    return this.#firstMass === 0 ? null : this.#firstAccepted.map((count) => count / this.#firstMass);
  }

  acceptance(): Acceptance | null {
    if (this.#rounds === 0) return null;
    return {
      raw: this.#raw / this.#rounds,
      kept: this.#kept / this.#rounds,
      firstRound: this.#firstRaw / this.#firstMass,
      rounds: this.#rounds,
      histogram: this.#accepted.map((count) => count / this.#rounds),
    };
  }
}
