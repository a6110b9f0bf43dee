/**
 * The places where a round can go wrong, each a function with a correct default. A defect replaces one of them (a few
 * replace two that are one line in a real sampler); nothing else in the oracle knows that defects exist.
 */
import type { Variant } from './model.ts';
import type { RoundView } from './round.ts';
import { normalised, type Row } from './rows.ts';
import { type Address, STREAM } from './source.ts';

/** What has been emitted, and what the next round brings. */
export interface Emission {
  /** Tokens emitted before this round. */
  readonly emitted: number;
  /** The round's tokens before any cut. */
  readonly tokens: readonly number[];
  readonly stopIds: readonly number[];
  /** Limit on emitted tokens; the run's length if the decoding names none. */
  readonly maxTokens: number;
  /** Memory after the round, for a defect that counts something else. */
  readonly memory: readonly number[];
}

export interface Emitted {
  readonly kept: readonly number[];
  readonly ended: boolean;
}

export interface Hooks {
  /** Which decoding processes the target row of a slot. */
  variant(view: RoundView, slot: number): Variant;
  /** The counts the penalties of a slot see: tokens before it, accepted drafts in, rejected drafts out. */
  penaltyCounts(view: RoundView, slot: number): readonly number[];
  /** The draft's law at a slot. */
  draftRow(view: RoundView, slot: number): Row;
  /** The drafted token. */
  propose(view: RoundView, slot: number): number;
  /** The target row that verification reads at a slot 0 .. k - 1. */
  targetRow(view: RoundView, slot: number): Row;
  /** The draft row that verification reads: what q is in the ratio and in the residual. */
  ratioRow(view: RoundView, slot: number): Row;
  /** True where a draft is taken without a look. */
  unchecked(view: RoundView, slot: number): boolean;
  /** [numerator, denominator] of the acceptance probability of a draft. */
  odds(view: RoundView, slot: number, draft: number): readonly [number, number];
  /** The law of the correction after a refusal. */
  residual(view: RoundView, slot: number, draft: number): Row;
  drawResidual(view: RoundView, slot: number, row: Row): number;
  /** The row of the token after k acceptances. */
  bonusRow(view: RoundView): Row;
  coinAddress(view: RoundView, slot: number): Address;
  targetAddress(view: RoundView, slot: number): Address;
  noiseAddress(view: RoundView, slot: number): Address;
  /** What a refusal emits. */
  correction(view: RoundView, slot: number, token: number): readonly number[];
  /** What the target's cache holds of the round afterwards. `refused` is the slot of the refused draft. */
  cached(view: RoundView, tokens: readonly number[], refused: number | null): readonly number[];
  /** What the penalties count of the round afterwards. */
  penaltyTokens(view: RoundView, tokens: readonly number[], accepted: number): readonly number[];
  memory(view: RoundView): readonly number[];
  /** Stop ids and the limit. */
  emit(emission: Emission): Emitted;
}

export const CORRECT: Hooks = {
  variant: () => 'asked',
  penaltyCounts: (view, slot) =>
    view.model.penalties ? view.countedAfter(view.draftsBefore(slot)) : view.state.counted,
  draftRow: (view, slot) => view.model.draftRow(view.state.context, slot),
  propose: (view, slot) => {
    if (view.rule === 'match' || view.model.greedy) return view.model.draftArgmax(view.state.context, slot);
    const q = view.q(slot);
    return view.rule === 'coupled'
      ? view.source.gumbel(view.hooks.noiseAddress(view, slot), q)
      : view.source.pick(view.address(STREAM.draft, slot), q);
  },
  targetRow: (view, slot) => view.p(slot),
  ratioRow: (view, slot) => view.q(slot),
  unchecked: () => false,
  odds: (view, slot, draft) => [view.hooks.targetRow(view, slot)[draft]!, view.hooks.ratioRow(view, slot)[draft]!],
  residual: (view, slot) => {
    const p = view.hooks.targetRow(view, slot);
    const q = view.hooks.ratioRow(view, slot);
    return normalised(
      p.map((value, id) => Math.max(value - q[id]!, 0)),
      p,
    );
  },
  drawResidual: (view, slot, row) => view.source.pick(view.address(STREAM.residual, slot), row),
  bonusRow: (view) => view.p(view.k),
  coinAddress: (view, slot) => view.address(STREAM.coin, slot),
  targetAddress: (view, slot) => view.address(STREAM.target, slot, 0),
  noiseAddress: (view, slot) => view.address(STREAM.gumbel, slot, 0),
  correction: (_view, _slot, token) => [token],
  cached: (_view, tokens) => tokens,
  penaltyTokens: (_view, tokens) => tokens,
  memory: () => [],
  emit: ({ emitted, tokens, stopIds, maxTokens }) => {
    const within = tokens.slice(0, maxTokens - emitted);
    const stop = within.findIndex((token) => stopIds.includes(token));
    const kept = stop < 0 ? within : within.slice(0, stop + 1);
    return { kept, ended: stop >= 0 || emitted + kept.length >= maxTokens };
  },
};
