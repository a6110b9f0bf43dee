/**
 * One verify round of the three rules, written over (target rows, draft rows, source of randomness). Slots count from
 * 0: draft d_i and rows p_i, q_i of slot i = 0 .. k - 1, with k = block - 1, and p_k is the row of the bonus token.
 *
 *   reject   d_i ~ q_i; keep it if u * q_i(d_i) < p_i(d_i); at the first refusal draw from max(p_i - q_i, 0), normalised
 *            (from p_i if that has no mass); after k acceptances draw from p_k.
 *   match    d_i = argmax q_i; t_i ~ p_i by the position's own uniform; keep while t_i = d_i; t_i is emitted either way.
 *   coupled  d_i = argmax(log q_i + g), t_i = argmax(log p_i + g) with the position's own noise; as match.
 *
 * Temperature 0 is equality of argmaxes whatever the rule. Drafts are read only when their slot is reached: a draft that
 * is never reached decides nothing, because the draft's rows do not depend on the draft's tokens.
 *
 * Sources: Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding", 2023, algorithm 1;
 * Chen et al., "Accelerating Large Language Model Decoding with Speculative Sampling", 2023, algorithm 2; DFlash, arXiv
 * 2602.06036 (block drafts, equality with the target's sample); Daliri et al. 2024 (coupled).
 */
import type { VerificationRule } from '../engine.ts';
import type { Hooks } from './hooks.ts';
import type { Model } from './model.ts';
import { argmax, type Row } from './rows.ts';
import { type Address, type Source, STREAM } from './source.ts';

/** What a session carries from round to round, beside the tokens it has emitted. */
export interface State {
  /** Index of the last m tokens as the target's cache holds them. */
  readonly context: number;
  /** Generated tokens as the penalties count them, V counts; empty without penalties. */
  readonly counted: readonly number[];
  /** What a defective engine remembers besides; empty in a correct one. */
  readonly memory: readonly number[];
}

/** Where the session stands: absolute position of the round's first token, and the round's index (0 = prefill). */
export interface Clock {
  readonly position: number;
  readonly round: number;
}

export interface RoundResult {
  /** Tokens before any cut at a stop id or a limit. */
  readonly tokens: readonly number[];
  /** Drafts that passed verification. */
  readonly accepted: number;
  readonly next: State;
}

/** One round while it is being decided. Everything a hook may read. */
export class RoundView {
  readonly model: Model;
  readonly rule: VerificationRule;
  readonly hooks: Hooks;
  readonly state: State;
  readonly clock: Clock;
  readonly source: Source;
  /** Drafts of the block. */
  readonly k: number;
  readonly #drafts: number[] = [];

  constructor(run: Run, state: State, clock: Clock, source: Source) {
    this.model = run.model;
    this.rule = run.rule;
    this.hooks = run.hooks;
    this.state = state;
    this.clock = clock;
    this.source = source;
    this.k = run.model.drafts;
  }

  address(stream: number, slot: number, round = this.clock.round): Address {
    return { stream, position: this.clock.position + slot, round };
  }

  /** The drafted token of a slot; decided when first read, in slot order. */
  draft(slot: number): number {
    while (this.#drafts.length <= slot) this.#drafts.push(this.hooks.propose(this, this.#drafts.length));
    return this.#drafts[slot]!;
  }

  /** Context index of slot i: the cache followed by the drafts before it. */
  contextAt(slot: number): number {
    return this.#extended(this.state.context, slot, (i) => this.draft(i));
  }

  #extended(context: number, count: number, token: (i: number) => number): number {
    const { vocab, fixture } = this.model;
    let index = context;
    for (let i = 0; i < count; i++) index = (index * vocab + token(i)) % vocab ** fixture.order;
    return index;
  }

  /** The cache's context after some tokens. */
  contextAfter(tokens: readonly number[]): number {
    return this.#extended(this.state.context, tokens.length, (i) => tokens[i]!);
  }

  /** The penalty counts with some tokens more. */
  countedAfter(tokens: readonly number[]): readonly number[] {
    if (!this.model.penalties) return this.state.counted;
    const counts = [...this.state.counted];
    for (const token of tokens) counts[token]! += 1;
    return counts;
  }

  /** Drafts of the slots before this one. */
  draftsBefore(slot: number): number[] {
    return Array.from({ length: slot }, (_, i) => this.draft(i));
  }

  /** p_i: the processed target row of a slot 0 .. k, the drafts before it taken as accepted. */
  p(slot: number): Row {
    const generated = this.hooks.penaltyCounts(this, slot);
    return this.model.targetRow(this.contextAt(slot), generated, this.hooks.variant(this, slot));
  }

  /** q_i: the processed draft row of a slot 0 .. k - 1. */
  q(slot: number): Row {
    return this.hooks.draftRow(this, slot);
  }

  finish(tokens: readonly number[], accepted: number, refused: number | null): RoundResult {
    const next: State = {
      context: this.contextAfter(this.hooks.cached(this, tokens, refused)),
      counted: this.countedAfter(this.hooks.penaltyTokens(this, tokens, accepted)),
      memory: this.hooks.memory(this),
    };
    return { tokens, accepted, next };
  }
}

/** What is being run: which model, by which rule, with which hooks. */
export interface Run {
  readonly model: Model;
  readonly rule: VerificationRule;
  readonly hooks: Hooks;
}

/** After the prompt, before anything was generated. */
export function openingState(model: Model): State {
  return {
    context: model.contextOf(model.fixture.prompt),
    counted: model.penalties ? new Array<number>(model.vocab).fill(0) : [],
    memory: [],
  };
}

/** The target's own token of a row: what plain decoding draws at that address. */
function targetToken(view: RoundView, row: Row, slot: number): number {
  if (view.model.greedy) return argmax(row);
  if (view.rule === 'coupled') return view.source.gumbel(view.hooks.noiseAddress(view, slot), row);
  return view.source.pick(view.hooks.targetAddress(view, slot), row);
}

/** Round 0: the prompt is read and one token drawn, without drafts. */
export function prefillRound(run: Run, state: State, clock: Clock, source: Source): RoundResult {
  const view = new RoundView(run, state, clock, source);
  const row = run.model.targetRow(state.context, state.counted);
  const token = targetToken(view, row, 0);
  return {
    tokens: [token],
    accepted: 0,
    next: { context: view.contextAfter([token]), counted: view.countedAfter([token]), memory: view.hooks.memory(view) },
  };
}

/** A later round. */
export function verifyRound(run: Run, state: State, clock: Clock, source: Source): RoundResult {
  const view = new RoundView(run, state, clock, source);
  return run.rule === 'reject' && !run.model.greedy && view.k > 0 ? byRejection(view) : byEquality(view);
}

function byEquality(view: RoundView): RoundResult {
  const { hooks, k } = view;
  const tokens: number[] = [];
  for (let slot = 0; slot < k; slot++) {
    const draft = view.draft(slot);
    const token = hooks.unchecked(view, slot) ? draft : targetToken(view, hooks.targetRow(view, slot), slot);
    if (token !== draft) return view.finish([...tokens, ...hooks.correction(view, slot, token)], slot, slot);
    tokens.push(draft);
  }
  return view.finish([...tokens, targetToken(view, hooks.bonusRow(view), k)], k, null);
}

function byRejection(view: RoundView): RoundResult {
  const { hooks, source, k } = view;
  const tokens: number[] = [];
  for (let slot = 0; slot < k; slot++) {
    const draft = view.draft(slot);
    const [numerator, denominator] = hooks.odds(view, slot, draft);
    if (!hooks.unchecked(view, slot) && !source.coin(hooks.coinAddress(view, slot), numerator, denominator)) {
      const token = hooks.drawResidual(view, slot, hooks.residual(view, slot, draft));
      return view.finish([...tokens, ...hooks.correction(view, slot, token)], slot, slot);
    }
    tokens.push(draft);
  }
  return view.finish([...tokens, source.pick(view.address(STREAM.residual, k), hooks.bonusRow(view))], k, null);
}
