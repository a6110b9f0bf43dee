/**
 * The same rounds with a seed instead of exploration: one session, token by token, with the counters of the engine. It
 * checks enumeration from the side, stands in where a law has no closed form, and is the sampler a replay compares with.
 */
import type { VerificationRule } from '../engine.ts';
import type { Fixture } from './fixture.ts';
import { CORRECT, type Hooks } from './hooks.ts';
import { Model } from './model.ts';
import { keyOf, type Law } from './plain.ts';
import { openingState, prefillRound, type RoundResult, type Run, verifyRound } from './round.ts';
import { CounterSource, type Source } from './source.ts';

export interface SimulatedRound {
  readonly kept: readonly number[];
  /** Raw: before the cut at a stop id or a limit. */
  readonly tokens: readonly number[];
  readonly accepted: number;
}

export interface Simulated {
  readonly tokens: readonly number[];
  /** The decode rounds; the prefill is not one. */
  readonly rounds: readonly SimulatedRound[];
}

/** A sampler of sessions of one fixture. `sourceOf` stands in for the counter generator. */
export class Simulator {
  readonly #run: Run;

  constructor(fixture: Fixture, rule: VerificationRule, change: Partial<Hooks> = {}) {
    this.#run = { model: new Model(fixture), rule, hooks: { ...CORRECT, ...change } };
  }

  session(seed: string, source: Source = new CounterSource(seed)): Simulated {
    const { model, hooks } = this.#run;
    const { prompt, decoding, tokens: window } = model.fixture;
    const emitted: number[] = [];
    const rounds: SimulatedRound[] = [];
    let state = openingState(model);
    for (let round = 0; ; round++) {
      const clock = { position: prompt.length + emitted.length, round };
      const step = round === 0 ? prefillRound : verifyRound;
      const result: RoundResult = step(this.#run, state, clock, source);
      const { kept, ended } = hooks.emit({
        emitted: emitted.length,
        tokens: result.tokens,
        stopIds: decoding.stopIds,
        maxTokens: decoding.maxTokens ?? window,
        memory: result.next.memory,
      });
      const seen = kept.slice(0, window - emitted.length);
      emitted.push(...seen);
      if (round > 0) rounds.push({ kept: seen, tokens: result.tokens, accepted: result.accepted });
      if (ended || emitted.length >= window) return { tokens: emitted, rounds };
      state = result.next;
    }
  }
}

/** Shares of the first `length` emitted tokens over sessions with seeds first .. first + sessions - 1. */
export function simulatedLaw(simulator: Simulator, length: number, sessions: number, first: number): Law {
  const law = new Map<string, number>();
  for (let i = 0; i < sessions; i++) {
    const key = keyOf(simulator.session(String(first + i)).tokens.slice(0, length));
    law.set(key, (law.get(key) ?? 0) + 1 / sessions);
  }
  return law;
}
