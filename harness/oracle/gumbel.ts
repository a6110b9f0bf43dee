/**
 * Two argmaxes under one vector of Gumbel noise: the exact joint law, which is what the `coupled` rule accepts by.
 *
 * With g_j iid standard Gumbel, E_j = exp(-g_j) are iid exponential and argmax(log q_j + g_j) = argmin(E_j / q_j). Let
 * a be that for the row q and b the same for the row p. For a = b every other E_j must exceed
 * E_a max(q_j / q_a, p_j / p_a), hence (max-stability)
 *
 *     P(a, a) = 1 / sum_j max(q_j / q_a, p_j / p_a).
 *
 * For a != b put r = E_b / E_a. a wins under q iff r >= q_b / q_a, b wins under p iff r <= p_b / p_a, and the rest must
 * exceed E_a max(q_j / q_a, r p_j / p_b). Integrating E_a out leaves one integral over r,
 *
 *     P(a, b) = int from q_b/q_a to p_b/p_a of dr / D(r)^2,   D(r) = sum_j max(q_j / q_a, r p_j / p_b),
 *
 * and D is piecewise linear with breaks at r_j = (q_j / q_a) / (p_j / p_b). On a piece without a break
 * int dr / D^2 = (r2 - r1) / (D(r1) D(r2)), so the law is a finite sum without quadrature.
 *
 * The Gumbel-max trick: Gumbel 1954; Maddison, Tarlow, Minka, "A* Sampling", 2014. The coupling as a verification rule:
 * Daliri et al., "Coupling without communication and drafter-invariant speculative decoding", 2024.
 */
import type { Row } from './rows.ts';

/** P(argmax under q is a and argmax under p is b), for rows of probabilities of one length. 0 where q[a] or p[b] is 0. */
export function sharedGumbelJoint(q: Row, p: Row, a: number, b: number): number {
  const qa = q[a]!;
  const pb = p[b]!;
  if (qa <= 0 || pb <= 0) return 0;
  const denominator = (r: number): number => {
    let sum = 0;
    for (let j = 0; j < q.length; j++) sum += Math.max(q[j]! / qa, (r * p[j]!) / pb);
    return sum;
  };
  if (a === b) return 1 / denominator(1);
  const from = q[b]! / qa;
  const to = p[a]! > 0 ? pb / p[a]! : Number.POSITIVE_INFINITY;
  if (from >= to) return 0;
  const breaks = Array.from(q.keys(), (j) => q[j]! / qa / (p[j]! / pb)).filter((r) => r > from && r < to);
  const points = [from, ...breaks.sort((x, y) => x - y), to];
  let mass = 0;
  for (let i = 0; i + 1 < points.length; i++) {
    const left = points[i]!;
    const right = points[i + 1]!;
    if (right === Number.POSITIVE_INFINITY) {
      // Beyond the last break only tokens with p > 0 grow: D(r) / r tends to sum_j p_j / p_b.
      const slope = p.reduce((sum, value) => sum + value / pb, 0);
      mass += 1 / denominator(left) / slope;
    } else {
      mass += (right - left) / denominator(left) / denominator(right);
    }
  }
  return mass;
}

/** The law of the argmax under p, given that the argmax under q is a: a row of length V. */
export function sharedGumbelGiven(q: Row, p: Row, a: number): number[] {
  return Array.from(p.keys(), (b) => sharedGumbelJoint(q, p, a, b) / q[a]!);
}
