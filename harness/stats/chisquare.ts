/**
 * Central and noncentral chi-square laws through the regularised incomplete gamma function, and the standard normal
 * law through the same. simple-statistics has neither survival function nor quantile of them.
 * Source: NIST DLMF 8.7.1 (series), 8.9.2 (continued fraction); Johnson, Kotz, Balakrishnan, ch. 29 (Poisson mixture).
 */

const EPSILON = 2 ** -53;
const TINY = 1e-300;

/** Lanczos approximation (g = 7, nine coefficients), relative error below 1e-14 for x > 0. */
export function logGamma(x: number): number {
  if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - logGamma(1 - x);
  const c = [
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
  ];
  const z = x - 1;
  const t = z + 7.5;
  let sum = c[0]!;
  for (let i = 1; i < c.length; i++) sum += c[i]! / (z + i);
  return 0.5 * Math.log(2 * Math.PI) + (z + 0.5) * Math.log(t) - t + Math.log(sum);
}

/** P(a, x) by its power series; converges fast for x < a + 1. */
function lowerSeries(a: number, x: number): number {
  let term = 1 / a;
  let sum = term;
  for (let n = 1; n < 100_000; n++) {
    term *= x / (a + n);
    sum += term;
    if (term < sum * EPSILON) break;
  }
  return sum * Math.exp(-x + a * Math.log(x) - logGamma(a));
}

/** Q(a, x) by the modified Lentz continued fraction; for x >= a + 1. */
function upperFraction(a: number, x: number): number {
  let b = x + 1 - a;
  let c = 1 / TINY;
  let d = 1 / b;
  let h = d;
  for (let i = 1; i < 100_000; i++) {
    const an = -i * (i - a);
    b += 2;
    d = an * d + b;
    if (Math.abs(d) < TINY) d = TINY;
    c = b + an / c;
    if (Math.abs(c) < TINY) c = TINY;
    d = 1 / d;
    const delta = d * c;
    h *= delta;
    if (Math.abs(delta - 1) < EPSILON) break;
  }
  return Math.exp(-x + a * Math.log(x) - logGamma(a)) * h;
}

/** Upper regularised incomplete gamma Q(a, x), a > 0, x >= 0. */
export function gammaQ(a: number, x: number): number {
  if (x <= 0) return 1;
  return x < a + 1 ? 1 - lowerSeries(a, x) : upperFraction(a, x);
}

/** P(X > x) of a chi-square with df > 0 degrees of freedom. */
export function chiSquareSurvival(x: number, df: number): number {
  return gammaQ(df / 2, x / 2);
}

/** The x with P(X > x) = alpha, by bisection to the last bits. */
export function chiSquareCritical(alpha: number, df: number): number {
  let high = df + 10;
  while (chiSquareSurvival(high, df) > alpha) high *= 2;
  return bisect(0, high, (x) => chiSquareSurvival(x, df) - alpha);
}

/** P(X > x) of a noncentral chi-square: a Poisson(lambda / 2) mixture of central laws with df + 2j. */
export function noncentralChiSquareSurvival(x: number, df: number, lambda: number): number {
  if (lambda <= 0) return chiSquareSurvival(x, df);
  const half = lambda / 2;
  const centre = Math.floor(half);
  const weight = (j: number): number => Math.exp(-half + j * Math.log(half) - logGamma(j + 1));
  let sum = 0;
  for (let j = centre; j >= 0; j--) {
    const w = weight(j);
    sum += w * chiSquareSurvival(x, df + 2 * j);
    if (w < 1e-18) break;
  }
  for (let j = centre + 1; ; j++) {
    const w = weight(j);
    sum += w * chiSquareSurvival(x, df + 2 * j);
    if (w < 1e-18) break;
  }
  return Math.min(1, sum);
}

/** Smallest noncentrality a level-alpha test with df degrees of freedom catches with the given power. */
export function detectableNoncentrality(alpha: number, df: number, power: number): number {
  const critical = chiSquareCritical(alpha, df);
  let high = 10;
  while (noncentralChiSquareSurvival(critical, df, high) < power) high *= 2;
  return bisect(0, high, (lambda) => power - noncentralChiSquareSurvival(critical, df, lambda));
}

/** Standard normal distribution function. */
export function normalCdf(z: number): number {
  const tail = 0.5 * gammaQ(0.5, (z * z) / 2);
  return z < 0 ? tail : 1 - tail;
}

/** Standard normal quantile for p in (0, 1). */
export function normalQuantile(p: number): number {
  if (p > 0.5) return -normalQuantile(1 - p);
  let low = -1;
  while (normalCdf(low) > p) low *= 2;
  return bisect(low, 0, (z) => p - normalCdf(z));
}

/** Root of a function that is positive at `low` and decreases through zero before `high`. */
function bisect(low: number, high: number, f: (x: number) => number): number {
  let a = low;
  let b = high;
  for (let i = 0; i < 200; i++) {
    const middle = (a + b) / 2;
    if (middle === a || middle === b) break;
    if (f(middle) > 0) a = middle;
    else b = middle;
  }
  return (a + b) / 2;
}
