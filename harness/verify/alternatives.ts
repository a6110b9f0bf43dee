/**
 * What a drafted position would emit under each catalogued defect of the reject rule, computed from the rows p and q of
 * the round. Each family gives the law of the emitted token given the tokens before it, so the bet is placed before the
 * token is seen: only rows of this position and of earlier ones are used (the row after a draft reveals the draft).
 *
 * Sampler without defect, per draft x of q: accept if u < p[x]/q[x], else emit from norm((p - q)+); after the last
 * acceptance emit from p (Leviathan, Kalman, Matias 2023; Chen et al. 2023).
 */

/** Everything known before the token of one position is drawn. */
export interface Situation {
  /** Probabilities after the decoding filters, [vocab]. */
  readonly p: Float64Array;
  /** Draft row of this position, or null at the bonus position and where no draft row exists. */
  readonly q: Float64Array | null;
  /** Rows of the position before in this round. */
  readonly earlier: { readonly p: Float64Array; readonly q: Float64Array | null } | null;
  /** Draft row of the first position of this round. */
  readonly firstQ: Float64Array | null;
  /** Draft row of this position in the round before. */
  readonly staleQ: Float64Array | null;
  /** Position in the block, from 0. */
  readonly index: number;
  /** Drafts of this round; `index === drafts` is the bonus position. */
  readonly drafts: number;
  readonly temperature: number;
  /** The highest id of the vocabulary; rows may be padded with zeros behind it. */
  readonly lastId: number;
}

interface Family {
  readonly id: string;
  /** Fills `out` with the law, which sums to 1; false where the defect changes nothing here. */
  readonly law: (s: Situation, out: Float64Array) => boolean;
}

/** Accept x of q with probability accept(x); otherwise draw from `residual` (its scale does not matter). */
function verified(
  p: Float64Array,
  q: Float64Array,
  accept: (x: number) => number,
  residual: (x: number) => number,
  out: Float64Array,
): boolean {
  let left = 1;
  let mass = 0;
  for (let x = 0; x < p.length; x++) {
    const taken = q[x]! > 0 ? q[x]! * accept(x) : 0;
    out[x] = taken;
    left -= taken;
    mass += residual(x);
  }
  if (left <= 0) return true;
  for (let x = 0; x < p.length; x++) out[x]! += left * (mass > 0 ? residual(x) / mass : p[x]!);
  return true;
}

const least = (a: number, b: number): number => (a < b ? a : b);
const above = (a: number, b: number): number => (a > b ? a - b : 0);

function argmax(row: Float64Array): number {
  let best = 0;
  for (let x = 1; x < row.length; x++) if (row[x]! > row[best]!) best = x;
  return best;
}

function onlyToken(token: number, out: Float64Array): boolean {
  out.fill(0);
  out[token] = 1;
  return true;
}

function copied(row: Float64Array, out: Float64Array): boolean {
  out.set(row);
  return true;
}

function tempered(p: Float64Array, exponent: number, out: Float64Array): boolean {
  let sum = 0;
  for (let x = 0; x < p.length; x++) {
    out[x] = p[x]! > 0 ? p[x]! ** exponent : 0;
    sum += out[x]!;
  }
  for (let x = 0; x < p.length; x++) out[x]! /= sum;
  return true;
}

/** A family of the drafted positions only. */
function drafted(
  id: string,
  law: (p: Float64Array, q: Float64Array, out: Float64Array, s: Situation) => boolean,
): Family {
  return { id, law: (s, out) => s.q !== null && s.index < s.drafts && law(s.p, s.q, out, s) };
}

function bonus(id: string, law: (s: Situation, out: Float64Array) => boolean): Family {
  return { id, law: (s, out) => s.drafts > 0 && s.index === s.drafts && law(s, out) };
}

const rule =
  (p: Float64Array, q: Float64Array): ((x: number) => number) =>
  (x) =>
    least(1, p[x]! / q[x]!);

const FAMILIES: readonly Family[] = [
  drafted('M01 residual from p', (p, q, out) => verified(p, q, rule(p, q), (x) => p[x]!, out)),
  drafted('M02 residual from |p - q|', (p, q, out) => verified(p, q, rule(p, q), (x) => Math.abs(p[x]! - q[x]!), out)),
  drafted('M03 every draft accepted', (_, q, out) => copied(q, out)),
  drafted('M04 ratio q/p', (p, q, out) =>
    verified(
      p,
      q,
      (x) => (p[x]! > 0 ? least(1, q[x]! / p[x]!) : 1),
      (x) => above(p[x]!, q[x]!),
      out,
    ),
  ),
  drafted('M05 residual from p without the draft', (p, q, out) => {
    let sum = 0;
    for (let x = 0; x < p.length; x++) if (q[x]! > p[x]! && p[x]! < 1) sum += (q[x]! - p[x]!) / (1 - p[x]!);
    let total = 0;
    for (let x = 0; x < p.length; x++) {
      const own = q[x]! > p[x]! && p[x]! < 1 ? (q[x]! - p[x]!) / (1 - p[x]!) : 0;
      out[x] = least(p[x]!, q[x]!) + p[x]! * (sum - own);
      total += out[x]!;
    }
    for (let x = 0; x < p.length; x++) out[x]! /= total;
    return true;
  }),
  drafted('M06 accepted with probability p', (p, q, out) =>
    verified(
      p,
      q,
      (x) => p[x]!,
      (x) => above(p[x]!, q[x]!),
      out,
    ),
  ),
  bonus('M07 bonus from the row before', (s, out) => s.earlier !== null && copied(s.earlier.p, out)),
  bonus('M08 bonus from q', (s, out) => {
    const q = s.q ?? s.earlier?.q;
    return q != null && copied(q, out);
  }),
  bonus('M09 bonus is the argmax', (s, out) => onlyToken(argmax(s.p), out)),
  drafted('M10 residual from the row before', (p, q, out, { earlier }) => {
    if (earlier === null || earlier.q === null) return false;
    const { p: p0, q: q0 } = earlier;
    return verified(p, q, rule(p, q), (x) => above(p0[x]!, q0[x]!), out);
  }),
  drafted('M11 first draft not verified', (_, q, out, s) => s.index === 0 && copied(q, out)),
  drafted('M12 last draft not verified', (_, q, out, s) => s.index === s.drafts - 1 && copied(q, out)),
  {
    id: 'M13 temperature not applied',
    law: (s, out) => s.temperature > 0 && s.temperature !== 1 && tempered(s.p, s.temperature, out),
  },
  { id: 'M13 sharper by a quarter', law: (s, out) => tempered(s.p, 1.25, out) },
  { id: 'M13 flatter by a quarter', law: (s, out) => tempered(s.p, 0.8, out) },
  drafted('M16 draft is the argmax of q', (p, q, out) => {
    const d = argmax(q);
    const take = least(1, p[d]! / q[d]!);
    let mass = 0;
    for (let x = 0; x < p.length; x++) mass += above(p[x]!, q[x]!);
    for (let x = 0; x < p.length; x++) out[x] = (1 - take) * (mass > 0 ? above(p[x]!, q[x]!) / mass : p[x]!);
    out[d]! += take;
    return true;
  }),
  drafted('M18 draft row of the position before', (p, q, out, { earlier }) => {
    const other = earlier?.q;
    if (other == null) return false;
    return verified(
      p,
      q,
      (x) => (other[x]! > 0 ? least(1, p[x]! / other[x]!) : 1),
      (x) => above(p[x]!, other[x]!),
      out,
    );
  }),
  drafted('M19 draft row of the round before', (p, q, out, { staleQ }) => {
    if (staleQ === null) return false;
    return verified(
      p,
      q,
      (x) => (staleQ[x]! > 0 ? least(1, p[x]! / staleQ[x]!) : 1),
      (x) => above(p[x]!, staleQ[x]!),
      out,
    );
  }),
  drafted('M23 p of the draft zeroed first', (p, q, out) => {
    let mass = 0;
    for (let x = 0; x < p.length; x++) mass += above(p[x]!, q[x]!);
    let sum = 0;
    const rest = (x: number): number => mass - above(p[x]!, q[x]!);
    for (let x = 0; x < p.length; x++) if (q[x]! > 0 && rest(x) > 1e-12) sum += q[x]! / rest(x);
    let total = 0;
    for (let x = 0; x < p.length; x++) {
      const own = q[x]! > 0 && rest(x) > 1e-12 ? q[x]! / rest(x) : 0;
      out[x] = above(p[x]!, q[x]!) * (sum - own);
      total += out[x]!;
    }
    if (!(total > 0)) return false;
    for (let x = 0; x < p.length; x++) out[x]! /= total;
    return true;
  }),
  drafted('M24 lenient by a tenth', (p, q, out) =>
    verified(
      p,
      q,
      (x) => least(1, p[x]! / (0.9 * q[x]!)),
      (x) => above(p[x]!, q[x]!),
      out,
    ),
  ),
  drafted('M24 strict by a tenth', (p, q, out) =>
    verified(
      p,
      q,
      (x) => least(1, (0.9 * p[x]!) / q[x]!),
      (x) => above(p[x]!, q[x]!),
      out,
    ),
  ),
  { id: 'M26 argmax instead of a sample', law: (s, out) => onlyToken(argmax(s.p), out) },
  drafted('M27 residual leaks to token 0', (p, q, out) => verified(p, q, rule(p, q), (x) => (x === 0 ? 1 : 0), out)),
  {
    id: 'M35 falls through to the last token',
    law: (s, out) => onlyToken(s.lastId, out),
  },
  drafted('M29 residual with the first draft row', (p, q, out, { firstQ, index }) => {
    if (firstQ === null || index === 0) return false;
    return verified(p, q, rule(p, q), (x) => above(p[x]!, firstQ[x]!), out);
  }),
];

export const EMISSION_FAMILIES: readonly string[] = FAMILIES.map((family) => family.id);

export function emissionLaw(k: number, situation: Situation, out: Float64Array): boolean {
  return FAMILIES[k]!.law(situation, out);
}
