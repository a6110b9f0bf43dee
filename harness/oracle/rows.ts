/**
 * A raw row of logits into the law a token is drawn from, in binary64. The order is fixed and is part of the definition:
 * logit bias, penalties, temperature, top-k, softmax, top-p, renormalisation.
 *
 * A row is indexed by token id (length V). Sources: softmax temperature and top-k as in Fan, Lewis, Dauphin,
 * "Hierarchical Neural Story Generation", 2018; top-p (nucleus) Holtzman et al., "The Curious Case of Neural Text
 * Degeneration", 2020; repetition penalty Keskar et al., "CTRL", 2019, section 4.1; presence and frequency penalties and
 * logit bias as the OpenAI API defines them.
 */

export type Row = readonly number[];

/** What happens to a row before a token is drawn. Penalties and bias belong to the target; drafts never see them. */
export interface RowDecoding {
  /** 0 is greedy. */
  readonly temperature: number;
  /** 0 keeps all. */
  readonly topK: number;
  /** In (0, 1]; 1 keeps all. */
  readonly topP: number;
  /** 1 changes nothing. */
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly logitBias: readonly { readonly token: number; readonly bias: number }[];
}

/** What the penalties know: which tokens stand in the prompt, and how often each was generated before this position. */
export interface PenaltyState {
  readonly inPrompt: readonly boolean[];
  readonly generated: readonly number[];
}

/** The lowest id of the largest value. */
export function argmax(row: Row): number {
  let best = 0;
  for (let id = 1; id < row.length; id++) if (row[id]! > row[best]!) best = id;
  return best;
}

export function oneHot(size: number, id: number): number[] {
  return Array.from({ length: size }, (_, at) => (at === id ? 1 : 0));
}

/** Weights (>= 0, positive sum) over their sum; without any mass, the fallback. */
export function normalised(weights: Row, fallback: Row): Row {
  const mass = weights.reduce((sum, weight) => sum + weight, 0);
  return mass > 0 ? weights.map((weight) => weight / mass) : fallback;
}

export function hasPenalties(decoding: RowDecoding): boolean {
  return decoding.repetitionPenalty !== 1 || decoding.presencePenalty !== 0 || decoding.frequencyPenalty !== 0;
}

/**
 * Adds the bias, then divides (positive) or multiplies (negative) the logit of every token already in prompt or output
 * by the repetition penalty, then subtracts presence + frequency * count for every token already in the output.
 */
export function penalised(logits: Row, decoding: RowDecoding, seen: PenaltyState): Row {
  const out = [...logits];
  for (const { token, bias } of decoding.logitBias) out[token]! += bias;
  return out.map((value, id) => {
    const count = seen.generated[id]!;
    let logit = value;
    if (count > 0 || seen.inPrompt[id]) {
      logit = logit > 0 ? logit / decoding.repetitionPenalty : logit * decoding.repetitionPenalty;
    }
    return count > 0 ? logit - decoding.presencePenalty - decoding.frequencyPenalty * count : logit;
  });
}

/** Ids by falling value, ties by rising id. */
function ranked(row: Row): number[] {
  return Array.from(row.keys()).sort((a, b) => (row[a] === row[b] ? a - b : row[b]! - row[a]!));
}

/** Softmax of logits / temperature over the kept ids; everything else is exactly 0. -Infinity is probability 0. */
function softmax(logits: Row, temperature: number, kept: ReadonlySet<number>): number[] {
  let top = Number.NEGATIVE_INFINITY;
  for (const id of kept) top = Math.max(top, logits[id]!);
  const weights = logits.map((logit, id) => (kept.has(id) ? Math.exp((logit - top) / temperature) : 0));
  const mass = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / mass);
}

/** The shortest prefix, by falling probability, whose mass reaches topP. */
function nucleus(row: Row, topP: number): Row {
  const kept = new Set<number>();
  let mass = 0;
  for (const id of ranked(row)) {
    if (mass >= topP) break;
    mass += row[id]!;
    kept.add(id);
  }
  return normalised(
    row.map((value, id) => (kept.has(id) ? value : 0)),
    row,
  );
}

/**
 * Temperature, top-k and top-p on logits that already carry bias and penalties. Throws on a NaN or a row without mass:
 * no law can be made of it, and picking a token nevertheless is a defect of its own (M39).
 */
export function filtered(logits: Row, decoding: RowDecoding): Row {
  if (logits.some((logit) => Number.isNaN(logit) || logit === Number.POSITIVE_INFINITY)) {
    throw new RangeError('a row of logits holds a value that is not a number');
  }
  if (logits.every((logit) => logit === Number.NEGATIVE_INFINITY)) throw new RangeError('a row has no mass');
  if (decoding.temperature === 0) return oneHot(logits.length, argmax(logits));
  const order = ranked(logits);
  const kept = new Set(decoding.topK > 0 ? order.slice(0, decoding.topK) : order);
  const row = softmax(logits, decoding.temperature, kept);
  return decoding.topP < 1 ? nucleus(row, decoding.topP) : row;
}
