/**
 * Rounds decided once more from what they carry: rows, uniforms, noise. Each decision of the engine is held against the rule
 * by itself, so that one difference does not make the rest incomparable. A uniform within GUARD of the edge it is compared with is
 * excused, because a device may round rows and cumulative sums otherwise; how many excuses are too many follows from their number.
 *
 *   inverse CDF  x is picked by u in [F(x-), F(x)), ids ascending; u beyond the last sum picks the last id with mass
 *   reject       draft d is kept iff u q(d) < p(d); else from max(p - q, 0) normalised, from p if that has no mass
 *   coupled      argmax of log row - log(-log u[token])
 *
 * Leviathan, Kalman, Matias 2023, algorithm 1; Daliri et al. 2024. Nothing here is shared with an engine.
 */
import type { Decoding, Round, RoundReplay, VerificationRule } from '../engine.ts';

/** 4 units in the last place of binary32, at 1: what rows and sums of a device that works in FP32 may be off by. */
export const GUARD = 4 * 2 ** -24;

export interface ReplaySetting {
  readonly rule: VerificationRule;
  /** Block of the engine; 1 is plain decoding. */
  readonly blockSize: number;
}

export type Replayed =
  /** The round carries no numbers that could decide it. */
  | { readonly kind: 'untold' }
  /** Every decision follows. */
  | { readonly kind: 'same'; readonly decisions: number; readonly excused: readonly string[] }
  /** One does not. */
  | { readonly kind: 'differs'; readonly text: string }
  /** The numbers are not those that the rule reads. */
  | { readonly kind: 'unfit'; readonly text: string };

class Stop extends Error {
  readonly outcome: Replayed;

  constructor(outcome: Replayed) {
    super();
    this.outcome = outcome;
  }
}

class RoundReplayer {
  readonly #replay: RoundReplay;
  readonly #first: number;
  #uniform = 0;
  #noise = 0;
  decisions = 0;
  readonly excused: string[] = [];

  /** `first`: absolute position of the round's first token. */
  constructor(replay: RoundReplay, first: number) {
    this.#replay = replay;
    this.#first = first;
  }

  uniform(...streams: readonly string[]): number {
    const use = this.#replay.uniforms[this.#uniform++];
    if (use === undefined || !streams.includes(use.stream)) {
      throw this.unfit(
        `${use === undefined ? 'no further uniform' : `a uniform of ${use.stream}`} where ${streams.join(' or ')} is read`,
      );
    }
    if (!(use.u >= 0 && use.u < 1)) throw this.unfit(`the uniform ${use.u} of ${use.stream}`);
    return use.u;
  }

  /** [V] uniforms behind the noise of one pick. */
  noise(of: 'draft' | 'target', vocab: number): Float64Array {
    const use = this.#replay.noise?.[this.#noise++];
    if (use === undefined || use.of !== of) {
      throw this.unfit(
        `${use === undefined ? 'no further noise' : `noise of the ${use.of}`} where that of the ${of} is read`,
      );
    }
    if (use.u.length !== vocab) throw this.unfit(`noise of ${use.u.length} tokens for a vocabulary of ${vocab}`);
    const bad = use.u.findIndex((u) => !(u > 0 && u < 1));
    if (bad >= 0) throw this.unfit(`the noise of token ${bad} comes from ${use.u[bad]}`);
    return use.u;
  }

  ended(): void {
    const { uniforms, noise = [] } = this.#replay;
    if (this.#uniform !== uniforms.length || this.#noise !== noise.length) {
      throw this.unfit(`${uniforms.length + noise.length - this.#uniform - this.#noise} numbers that decide nothing`);
    }
  }

  unfit(text: string): Stop {
    return new Stop({ kind: 'unfit', text });
  }

  /** `off`: how far the number is from allowing what the engine did; not positive if it does. */
  #settle(off: number, what: string, slot: number, numbers: () => string): void {
    this.decisions += 1;
    if (off <= 0) return;
    const text = `${what} at position ${this.#first + slot}: ${numbers()}`;
    if (!(off <= GUARD)) throw new Stop({ kind: 'differs', text });
    this.excused.push(text);
  }

  /** `row`: log-probabilities, or their weights `linear`; the engine picked x. */
  picked(row: Float64Array, u: number, x: number, what: string, slot: number): void {
    let before = 0;
    let total = 0;
    let last = 0;
    for (let y = 0; y < row.length; y++) {
      if (y === x) before = total;
      if (row[y]! > 0) last = y;
      total += row[y]!;
    }
    const mass = row[x] ?? 0;
    const after = x === last ? Number.POSITIVE_INFINITY : before + mass;
    // A token without mass is never within rounding.
    const off =
      mass > 0 ? Math.max(before - u, u - after + (u === after ? Number.MIN_VALUE : 0)) : Number.POSITIVE_INFINITY;
    this.#settle(off, what, slot, () => {
      const due = dueToken(row, u);
      return `u ${u} picks token ${due}, the engine took ${x}, which is due from ${before} to ${before + mass}`;
    });
  }

  accepted(u: number, p: number, q: number, kept: boolean, draft: number, slot: number): void {
    const margin = u * q - p;
    // p = 0 refuses and q = 0 < p accepts whatever the rounding.
    const sure = p === 0 || q === 0;
    const off = kept
      ? margin < 0
        ? 0
        : sure
          ? Number.POSITIVE_INFINITY
          : margin || Number.MIN_VALUE
      : margin < 0
        ? sure
          ? Number.POSITIVE_INFINITY
          : -margin
        : 0;
    this.#settle(off, `draft ${slot}`, slot, () => {
      const [did, due] = kept ? ['accepted', 'refuses'] : ['refused', 'accepts'];
      return `u ${u} ${due} token ${draft} with p ${p} and q ${q}, the engine ${did} it`;
    });
  }

  /** Largest value of `row` (log-probabilities), noise added where given; ties are anyone's within GUARD. */
  largest(row: Float64Array, u: Float64Array | null, x: number, what: string, slot: number): void {
    const value = (y: number): number => (u === null ? row[y]! : row[y]! - Math.log(-Math.log(u[y]!)));
    let best = 0;
    for (let y = 1; y < row.length; y++) if (value(y) > value(best) || Number.isNaN(value(best))) best = y;
    const own = x < row.length ? value(x) : Number.NEGATIVE_INFINITY;
    // Noise reaches 36, and a device in FP32 is off by as much more.
    const gap = best === x ? 0 : (value(best) - own) / Math.max(1, Math.abs(value(best)));
    // Equal values go to the lowest id.
    this.#settle(gap === 0 && best !== x ? Number.MIN_VALUE : gap, what, slot, () => {
      return `token ${best} has the largest value ${value(best)}, the engine took ${x} with ${own}`;
    });
  }
}

function dueToken(row: Float64Array, u: number): number {
  let sum = 0;
  let last = 0;
  for (let y = 0; y < row.length; y++) {
    sum += row[y]!;
    if (sum > u) return y;
    if (row[y]! > 0) last = y;
  }
  return last;
}

/** max(p - q, 0) normalised; p without mass. Rounding alone leaves a mass of a few 1e-16 where p = q. */
export function residualRow(p: Float64Array, q: Float64Array): Float64Array {
  const rest = p.map((value, x) => Math.max(value - q[x]!, 0));
  const mass = rest.reduce((sum, value) => sum + value, 0);
  return mass > 1e-13 ? rest.map((value) => value / mass) : p;
}

/**
 * Decides a round again. `p`, `q`: its rows as probabilities, [drafts + 1][V] and [drafts][V]; `position`: absolute index of its
 * first token.
 */
export function replayRound(
  setting: ReplaySetting,
  decoding: Decoding,
  round: Round,
  rows: { readonly p: readonly Float64Array[]; readonly q: readonly Float64Array[] },
  position: number,
): Replayed {
  const { replay } = round;
  if (replay === undefined) return { kind: 'untold' };
  const greedy = decoding.temperature === 0;
  if (!greedy && replay.uniforms.length === 0 && (replay.noise ?? []).length === 0) return { kind: 'untold' };
  const replayer = new RoundReplayer(replay, position);
  try {
    decideAgain(replayer, setting, greedy, round, replay, rows);
  } catch (error) {
    if (error instanceof Stop) return error.outcome;
    throw error;
  }
  return { kind: 'same', decisions: replayer.decisions, excused: replayer.excused };
}

function decideAgain(
  replayer: RoundReplayer,
  { rule, blockSize }: ReplaySetting,
  greedy: boolean,
  { drafted, accepted, committed }: Round,
  replay: RoundReplay,
  { p, q }: { readonly p: readonly Float64Array[]; readonly q: readonly Float64Array[] },
): void {
  if (p.length <= accepted)
    throw replayer.unfit(`${p.length} target rows for ${accepted} accepted drafts and one token more`);
  const byRejection = !greedy && rule === 'reject' && blockSize > 1 && drafted.length > 0;
  drafted.forEach((token, i) => {
    const row = q[i];
    if (greedy || rule === 'match') {
      if (row !== undefined) replayer.largest(replay.q[i]!, null, token, `draft ${i}`, i);
    } else if (row === undefined) throw replayer.unfit('no draft rows');
    else if (rule === 'coupled') {
      replayer.largest(replay.q[i]!, replayer.noise('draft', row.length), token, `draft ${i}`, i);
    } else replayer.picked(row, replayer.uniform('draft'), token, `draft ${i}`, i);
  });
  for (let i = 0; i <= accepted; i++) {
    // What a stop id or a limit cut off was decided all the same, and cannot be seen.
    const token = i < accepted ? drafted[i] : committed[i];
    const what = i === drafted.length ? 'the token after the drafts' : i < accepted ? `draft ${i}` : 'the correction';
    if (!byRejection) {
      const target = greedy ? null : rule === 'coupled' ? replayer.noise('target', p[i]!.length) : null;
      if (greedy || target !== null) {
        if (token !== undefined) replayer.largest(replay.p[i]!, target, token, what, i);
      } else {
        const u = drafted.length === 0 ? replayer.uniform('target', 'residual') : replayer.uniform('target');
        if (token !== undefined) replayer.picked(p[i]!, u, token, what, i);
      }
      // An equality rule refuses what is not the target's own token; the books see a refused draft that was emitted.
      continue;
    }
    if (i < drafted.length) {
      const draft = drafted[i]!;
      replayer.accepted(replayer.uniform('accept'), p[i]![draft] ?? 0, q[i]![draft] ?? 0, i < accepted, draft, i);
    }
    if (i < accepted) continue;
    const u = replayer.uniform('residual');
    const row = i < drafted.length ? residualRow(p[i]!, q[i]!) : p[i]!;
    if (token !== undefined) replayer.picked(row, u, token, what, i);
  }
  replayer.ended();
}
