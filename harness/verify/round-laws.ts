/**
 * Judges rounds that carry their rows: is the emitted token distributed as p, the draft as q, and the acceptance as the
 * declared rule says? Three e-processes and the PIT diagnostic over the same stream. Bets on a token use only what was
 * known before it; a position counts only if the round reached it.
 */
import type { Decoding, Round, VerificationRule } from '../engine.ts';
import { EMISSION_FAMILIES, emissionLaw, type Situation } from './alternatives.ts';
import { CategoricalProcess } from './categorical.ts';
import { PitProcess } from './pit.ts';

/** Rows may miss a total of 1 by this much: float64 sums of up to a million terms. */
const SUM_SLACK = 1e-6;
/** Above every key of a context. */
const SALT = 2 ** 44;
/** p[d] >= q[d] demands acceptance; rows this close are left to the coin. */
const RATIO_SLACK = 1e-6;

/** The probabilities of a log-probability row, or in words what is wrong with it. */
export function lawOf(row: Float64Array, vocabSize: number): Float64Array | string {
  if (row.length !== vocabSize) return `${row.length} entries for a vocabulary of ${vocabSize}`;
  const out = new Float64Array(row.length);
  let sum = 0;
  for (let x = 0; x < row.length; x++) {
    const value = row[x]!;
    if (Number.isNaN(value)) return `entry ${x} is not a number`;
    if (value > SUM_SLACK) return `entry ${x} is ${value}, above log 1`;
    out[x] = Math.exp(value);
    sum += out[x]!;
  }
  if (Math.abs(sum - 1) > SUM_SLACK) return `the probabilities add up to ${sum}`;
  for (let x = 0; x < row.length; x++) out[x]! /= sum;
  return out;
}

export function probabilities(row: Float64Array): Float64Array {
  const out = new Float64Array(row.length);
  let sum = 0;
  for (let x = 0; x < row.length; x++) {
    out[x] = Math.exp(row[x]!);
    sum += out[x]!;
  }
  for (let x = 0; x < row.length; x++) out[x]! /= sum;
  return out;
}

function isNumbers(list: unknown): boolean {
  return Array.isArray(list) && list.every((use) => typeof use?.stream === 'string' && typeof use.u === 'number');
}

function isNoise(list: unknown): boolean {
  return Array.isArray(list) && list.every((use) => use?.u instanceof Float64Array);
}

/** The rows of one round, or in words what is wrong with them. Null: the round carries none. */
export function rowsOf(
  round: Round,
  vocabSize: number,
): { readonly p: Float64Array[]; readonly q: Float64Array[] } | string | null {
  if (round.replay === undefined || round.replay === null) return null;
  const { p, q, uniforms, noise } = round.replay;
  // An engine in this process is held to no type but by this.
  const rows = Array.isArray(p) && Array.isArray(q) && [...p, ...q].every((row) => row instanceof Float64Array);
  if (!rows) return 'target and draft rows are no lists of Float64Array';
  if (!isNumbers(uniforms) || (noise !== undefined && !isNoise(noise)))
    return 'uniforms or noise are no lists of numbers';
  if (p.length < round.committed.length) return `${p.length} target rows for ${round.committed.length} tokens`;
  if (q.length !== 0 && q.length !== round.drafted.length)
    return `${q.length} draft rows for ${round.drafted.length} drafts`;
  const laws: Record<'target' | 'draft', Float64Array[]> = { target: [], draft: [] };
  for (const [name, rows] of [
    ['target', p],
    ['draft', q],
  ] as const) {
    for (let i = 0; i < rows.length; i++) {
      const law = lawOf(rows[i]!, vocabSize);
      if (typeof law === 'string') return `${name} row ${i}: ${law}`;
      laws[name].push(law);
    }
  }
  return { p: laws.target, q: laws.draft };
}

const ACCEPTANCE_FAMILIES = [
  'M24 lenient by a tenth',
  'M24 lenient by a third',
  'strict by a tenth',
  'strict by a third',
  'M03 always accepted',
  'M23 never accepted',
  'M04 ratio q/p',
  'G03 accepted with probability p',
  'M26 accepted when it is the argmax',
] as const;

/** P(accept) under each acceptance family; `a` = min(1, p/q) of the draft. */
function acceptanceUnder(k: number, a: number, p: number, q: number, isArgmax: boolean): number {
  const all = [Math.min(1, a / 0.9), Math.min(1, a / 0.67), 0.9 * a, 0.67 * a, 1, 0, p > 0 ? Math.min(1, q / p) : 1, p];
  return all[k] ?? (isArgmax ? 1 : 0);
}

/** P(argmax of log p + g is d | argmax of log q + g is d) = 1 / sum over j of max(q_j, p_j q_d / p_d), by max-stability. */
export function coupledAcceptance(p: Float64Array, q: Float64Array, d: number): number {
  if (p[d] === 0) return 0;
  const scale = q[d]! / p[d]!;
  let sum = 0;
  for (let j = 0; j < p.length; j++) sum += Math.max(q[j]!, p[j]! > 0 ? p[j]! * scale : 0);
  return 1 / sum;
}

const DRAFT_FAMILIES = [
  'M16 argmax of q',
  'drawn from p',
  'sharper by a half',
  'flatter by a half',
  'M18 row of the position before',
] as const;

export interface RoundLawOptions {
  readonly vocabSize: number;
  readonly rule: VerificationRule;
  readonly seed: string;
  /** Whether the rounds say how their drafts were drawn; without that only the emission can be judged. */
  readonly draftsKnown: boolean;
  /** Each so-manieth observation enters the power computation. */
  readonly powerEvery: number;
}

export class RoundLaws {
  readonly emission: CategoricalProcess;
  readonly acceptance: CategoricalProcess;
  readonly drafts: CategoricalProcess;
  readonly pit: PitProcess;
  /** PIT e-processes per prompt, for the list of cells. */
  readonly cells = new Map<string, PitProcess>();
  /** Sums over the draft decisions reached: expected under the rule, and observed. */
  expectedAccepted = 0;
  observedAccepted = 0;
  decisions = 0;
  readonly #options: RoundLawOptions;
  #salt = 0;

  constructor(options: RoundLawOptions) {
    this.#options = options;
    const { vocabSize, powerEvery } = options;
    this.emission = new CategoricalProcess({ families: EMISSION_FAMILIES, alphabet: vocabSize, slots: 3, powerEvery });
    this.acceptance = new CategoricalProcess({ families: ACCEPTANCE_FAMILIES, alphabet: 2, slots: 2, powerEvery });
    this.drafts = new CategoricalProcess({ families: DRAFT_FAMILIES, alphabet: vocabSize, slots: 1, powerEvery });
    this.pit = new PitProcess(options.seed);
  }

  /** Whether any of the three has reached `logThreshold`. */
  reached(logThreshold: number): boolean {
    return [this.emission, this.acceptance, this.drafts].some((process) => process.mixture.logSup >= logThreshold);
  }

  /**
   * `rounds` of one session with their rows; `prompt` names it, `tokens` are its ids. Temperature above 0. `of.salt` keeps apart
   * what learners must not mix (another model); its vocabulary may be smaller than the rows are long.
   */
  session(
    prompt: string,
    tokens: readonly number[],
    decoding: Decoding,
    rounds: readonly {
      readonly round: Round;
      readonly p: readonly Float64Array[];
      readonly q: readonly Float64Array[];
    }[],
    of: { readonly salt: number; readonly vocab: number } = { salt: 0, vocab: this.#options.vocabSize },
  ): void {
    this.#salt = of.salt;
    const text = [...tokens];
    let cell = this.cells.get(prompt);
    if (cell === undefined) {
      cell = new PitProcess(this.#options.seed);
      this.cells.set(prompt, cell);
    }
    let stale: readonly Float64Array[] = [];
    for (const { round, p, q } of rounds) {
      const drafts = round.drafted.length;
      for (let i = 0; i < round.committed.length; i++) {
        const situation: Situation = {
          p: p[i]!,
          q: q[i] ?? null,
          earlier: i === 0 ? null : { p: p[i - 1]!, q: q[i - 1] ?? null },
          firstQ: q[0] ?? null,
          staleQ: stale[i] ?? null,
          index: i,
          drafts,
          temperature: decoding.temperature,
          lastId: of.vocab - 1,
        };
        const where = `after prompt ${prompt}, generated token ${text.length - tokens.length}, seed ${decoding.seed}`;
        this.#token(situation, round.committed[i]!, text, cell, where);
        if (i < drafts && this.#options.draftsKnown) this.#decision(round, i, p, q, where);
        text.push(round.committed[i]!);
      }
      this.#drafted(round, q, text.length, `of prompt ${prompt}, seed ${decoding.seed}`);
      stale = q;
    }
  }

  #token(s: Situation, x: number, text: readonly number[], cell: PitProcess, where: string): void {
    const last = (text.at(-1) ?? 0) + 1;
    const keys = [last * 1_048_576 + (text.at(-2) ?? 0), last, 64 * Math.min(s.index, 31) + Math.min(s.drafts, 31)];
    const salted = keys.map((key) => key + this.#salt * SALT);
    this.emission.observe(s.p, x, (k, out) => emissionLaw(k, s, out), salted, where);
    if (!(s.p[x]! > 0)) return;
    this.pit.observe(s.p, s.q, x);
    cell.observe(s.p, s.q, x);
  }

  /**
   * P(accept | draft, past): min(1, p/q) under `reject`, p of a deterministic draft under `match`, and under `coupled` the chance
   * that both rows have their largest noisy value at the draft. There the noise of a position is fresh when its draft is
   * first reached, because drafts that were not reached decided nothing; nothing of them enters a bet.
   */
  #decision(round: Round, i: number, p: readonly Float64Array[], q: readonly Float64Array[], where: string): void {
    if (i > round.accepted) return;
    const { rule } = this.#options;
    const d = round.drafted[i]!;
    const pd = p[i]![d]!;
    if (rule === 'coupled' && q[i] === undefined) return;
    const qd = rule === 'match' || q[i] === undefined ? 1 : q[i]![d]!;
    const accepted = i < round.accepted;
    if (qd <= 0) return; // the draft law refutes it
    const ratio = rule === 'coupled' ? coupledAcceptance(p[i]!, q[i]!, d) : pd / qd;
    const a = ratio > 1 - RATIO_SLACK ? 1 : ratio;
    this.decisions += 1;
    this.expectedAccepted += a;
    this.observedAccepted += accepted ? 1 : 0;
    const isArgmax = p[i]!.every((value) => value <= pd);
    const law = Float64Array.of(1 - a, a);
    const fill = (k: number, out: Float64Array): boolean => {
      const b = acceptanceUnder(k, a, pd, qd, isArgmax);
      out[0] = 1 - b;
      out[1] = b;
      return b !== a;
    };
    this.acceptance.observe(
      law,
      accepted ? 1 : 0,
      fill,
      [Math.floor(a * 10), i],
      `(${accepted ? 'accepted' : 'rejected'} draft ${i} with p ${pd}, q ${qd}) ${where}`,
    );
  }

  #drafted(round: Round, q: readonly Float64Array[], position: number, where: string): void {
    if (this.#options.rule !== 'reject' || q.length === 0) return;
    round.drafted.forEach((d, i) => {
      const row = q[i]!;
      const fill = (k: number, out: Float64Array): boolean => {
        if (k === 0 || k === 2 || k === 3) {
          const exponent = k === 2 ? 1.5 : 1 / 1.5;
          const top = k === 0 ? Math.max(...row) : 0;
          let sum = 0;
          for (let x = 0; x < row.length; x++) {
            out[x] = k === 0 ? (row[x] === top ? 1 : 0) : row[x]! > 0 ? row[x]! ** exponent : 0;
            sum += out[x]!;
          }
          for (let x = 0; x < row.length; x++) out[x]! /= sum;
          return true;
        }
        const other =
          k === 1 && i === 0 && round.replay !== undefined ? round.replay.p[0]! : k === 4 ? q[i - 1] : undefined;
        if (other === undefined) return false;
        for (let x = 0; x < row.length; x++) out[x] = k === 1 ? Math.exp(other[x]!) : other[x]!;
        return true;
      };
      this.drafts.observe(row, d, fill, [i], `draft ${i} before position ${position} ${where}`);
    });
  }
}
