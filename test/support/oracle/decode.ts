/**
 * Decoding, said once more and slowly: processed rows, inverse-CDF and Gumbel-max draws, plain decoding and the draft-verify-accept
 * loop under the three rules. Every random number is addressed by position, so plain and speculative decoding can be compared.
 */

import type { OracleDraft } from './draft.ts';
import { gumbel, STREAM, uniform } from './random.ts';
import type { OracleTarget } from './target.ts';

export type Rule = 'match' | 'reject' | 'coupled';

export interface OracleDecoding {
  readonly seed: bigint;
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly maxTokens: number;
  readonly stopIds: readonly number[];
}

export interface OracleRound {
  readonly committed: number[];
  readonly drafted: number[];
  readonly accepted: number;
  readonly finish: 'stop' | 'length' | null;
}

/** Lowest id of the largest value. */
export function argmax(row: ArrayLike<number>): number {
  let best = 0;
  for (let id = 1; id < row.length; id++) if (row[id]! > row[best]!) best = id;
  return best;
}

/** Probabilities after temperature, top-k and top-p; filtered tokens hold 0. Temperature 0: all mass on the argmax. */
export function processedRow(logits: Float64Array, decoding: OracleDecoding): Float64Array {
  const { temperature, topK, topP } = decoding;
  const p = new Float64Array(logits.length);
  if (temperature === 0) {
    p[argmax(logits)] = 1;
    return p;
  }
  const scaled = logits.map((logit) => logit / temperature);
  const order = [...scaled.keys()].sort((a, b) => scaled[b]! - scaled[a]! || a - b);
  const kept = topK > 0 ? order.slice(0, topK) : order;
  const max = scaled[kept[0]!]!;
  let total = 0;
  for (const id of kept) {
    p[id] = Math.exp(scaled[id]! - max);
    total += p[id]!;
  }
  for (const id of kept) p[id]! /= total;
  if (topP >= 1) return p;

  let mass = 0;
  let count = 0;
  while (count < kept.length && mass < topP) mass += p[kept[count++]!]!;
  for (const id of kept.slice(count)) p[id] = 0;
  return p.map((value) => value / mass);
}

/** Smallest id whose cumulative probability exceeds u; the last id with mass if rounding exhausts the row. */
export function inverseCdf(p: ArrayLike<number>, u: number): number {
  let cumulative = 0;
  let last = 0;
  for (let id = 0; id < p.length; id++) {
    if (p[id]! > 0) last = id;
    cumulative += p[id]!;
    if (cumulative > u) return id;
  }
  return last;
}

/** argmax of log p + Gumbel noise of (position, token). */
export function coupledPick(p: Float64Array, seed: bigint, position: number): number {
  const noisy = Float64Array.from(p, (value, id) =>
    value > 0 ? Math.log(value) + gumbel(seed, position, id) : Number.NEGATIVE_INFINITY,
  );
  return argmax(noisy);
}

/** One target draw as plain decoding makes it. */
function draw(logits: Float64Array, rule: Rule, decoding: OracleDecoding, position: number): number {
  if (decoding.temperature === 0) return argmax(logits);
  const p = processedRow(logits, decoding);
  if (rule === 'coupled') return coupledPick(p, decoding.seed, position);
  return inverseCdf(p, uniform(decoding.seed, position, STREAM.targetSample, 0));
}

/**
 * The rule `reject` on one block: keep draft i while u q(d) < p(d); else draw from (p - q)+; behind the last draft from p.
 * @param p processed target rows, one more than drafts
 * @param at seed, position of the anchor, round
 */
export function verifyByRejection(
  p: readonly Float64Array[],
  q: readonly Float64Array[],
  drafted: readonly number[],
  at: { readonly seed: bigint; readonly start: number; readonly round: number },
): { accepted: number; next: number } {
  for (let i = 0; ; i++) {
    const position = at.start + 1 + i;
    const row = p[i]!;
    const last = uniform(at.seed, position, STREAM.residualSample, at.round);
    if (i === drafted.length) return { accepted: i, next: inverseCdf(row, last) };
    const d = drafted[i]!;
    if (uniform(at.seed, position, STREAM.acceptCoin, at.round) * q[i]![d]! < row[d]!) continue;
    const residual = row.map((value, id) => Math.max(value - q[i]![id]!, 0));
    const mass = residual.reduce((sum, value) => sum + value, 0);
    return { accepted: i, next: inverseCdf(mass > 0 ? residual.map((value) => value / mass) : row, last) };
  }
}

/** Decodes one prompt. Without a draft every round commits one token. `target` must be fresh. */
export class OracleSession {
  private readonly target: OracleTarget;
  private readonly draft: OracleDraft | null;
  private readonly rule: Rule;
  private readonly decoding: OracleDecoding;
  private readonly maxContext: number;
  private readonly prompt: readonly number[];
  /** Prompt and everything committed. The last one is the anchor: in the text, not yet in the KV cache. */
  private readonly ids: number[];
  private round = 0;
  private finished = false;

  constructor(
    target: OracleTarget,
    draft: OracleDraft | null,
    rule: Rule,
    prompt: readonly number[],
    decoding: OracleDecoding,
  ) {
    this.target = target;
    this.draft = draft;
    this.rule = rule;
    this.decoding = decoding;
    this.prompt = prompt;
    this.ids = [...prompt];
    this.maxContext = target.weights.number('max_position_embeddings');
  }

  /** All rounds to the end. */
  run(): OracleRound[] {
    const rounds: OracleRound[] = [];
    while (!this.finished) rounds.push(this.step());
    return rounds;
  }

  step(): OracleRound {
    const result =
      this.round === 0 ? this.prefill() : this.draft === null ? this.plainStep() : this.speculate(this.draft);
    this.round += 1;
    return result;
  }

  private prefill(): OracleRound {
    const rows = this.target.forward(this.prompt);
    if (this.draft !== null) for (const row of rows) this.draft.append(row.taps);
    return this.commit([draw(rows.at(-1)!.logits, this.rule, this.decoding, this.prompt.length)], [], 0);
  }

  private plainStep(): OracleRound {
    const [row] = this.target.forward([this.ids.at(-1)!]);
    return this.commit([draw(row!.logits, this.rule, this.decoding, this.ids.length)], [], 0);
  }

  private speculate(draft: OracleDraft): OracleRound {
    const start = this.ids.length - 1; // position of the anchor
    // Every token of the block and the bonus behind it must lie below maxContext.
    const size = Math.max(1, Math.min(draft.blockSize, this.maxContext - 1 - start));
    const anchor = this.ids[start]!;
    const q =
      size > 1
        ? draft.propose(anchor, size).map((logits) => ({ logits, row: processedRow(logits, this.decoding) }))
        : [];
    const drafted = q.map(({ logits, row }, i) => this.draftPick(logits, row, start + 1 + i));

    const rows = this.target.forward([anchor, ...drafted]);
    const { accepted, next } = this.verify(
      rows.map((row) => row.logits),
      q.map(({ row }) => row),
      drafted,
      start,
    );
    this.target.crop(start + 1 + accepted);
    for (const row of rows.slice(0, accepted + 1)) draft.append(row.taps);
    return this.commit([...drafted.slice(0, accepted), next], drafted, accepted);
  }

  private draftPick(logits: Float64Array, q: Float64Array, position: number): number {
    if (this.decoding.temperature === 0 || this.rule === 'match') return argmax(logits);
    if (this.rule === 'coupled') return coupledPick(q, this.decoding.seed, position);
    return inverseCdf(q, uniform(this.decoding.seed, position, STREAM.draftSample, this.round));
  }

  private verify(
    logits: readonly Float64Array[],
    q: readonly Float64Array[],
    drafted: readonly number[],
    start: number,
  ): { accepted: number; next: number } {
    if (this.rule === 'reject' && this.decoding.temperature !== 0) {
      const p = logits.map((row) => processedRow(row, this.decoding));
      return verifyByRejection(p, q, drafted, { seed: this.decoding.seed, start, round: this.round });
    }
    for (let i = 0; ; i++) {
      const token = draw(logits[i]!, this.rule, this.decoding, start + 1 + i);
      if (i === drafted.length || token !== drafted[i]) return { accepted: i, next: token };
    }
  }

  /** Cuts at the first stop id, at maxTokens and at the context limit. */
  private commit(tokens: readonly number[], drafted: number[], accepted: number): OracleRound {
    const committed: number[] = [];
    let finish: OracleRound['finish'] = null;
    for (const token of tokens) {
      committed.push(token);
      this.ids.push(token);
      if (this.decoding.stopIds.includes(token)) finish = 'stop';
      else if (this.ids.length - this.prompt.length >= this.decoding.maxTokens || this.ids.length >= this.maxContext)
        finish = 'length';
      if (finish !== null) break;
    }
    this.finished = finish !== null;
    return { committed, drafted, accepted, finish };
  }
}
