/**
 * The e-process against a known categorical law: a stream of (row p, outcome x) where, under the null, x was drawn from p
 * given everything before it. Half of the weight bets on named alternatives, each at several shares (the alternative
 * applies to that share of the draws), half on learners that know no defect: Dirichlet posteriors per context and a
 * tilt per outcome.
 *
 * The same pass adds up what each bet would earn if its alternative were true, which gives the power in numbers.
 */
import { normalQuantile } from '../stats/chisquare.ts';
import { Mixture } from '../stats/eprocess.ts';

/** How much of the draws an alternative governs. Below 1 so that no bet can lose everything at once. */
export const SHARES: readonly number[] = [0.99, 0.5, 0.25, 0.1, 0.05, 0.02];
/** Pseudo-counts of the Dirichlet learners, which are centred at p. */
const CONCENTRATIONS: readonly number[] = [4, 64];
const TILT_COUNT = 8;
/** Alphabets up to here also get the Krichevsky-Trofimov learner, which is not centred at p. */
const KT_ALPHABET = 64;

/** A gain on an outcome of denormal probability would overflow; earning less than due is always allowed. */
const capped = (gain: number): number => Math.min(gain, 600);

/** Writes the alternative law of family `k` into `out`; false where it does not differ from p or does not apply. */
export type Fill = (k: number, out: Float64Array) => boolean;

export interface Detectable {
  readonly family: string;
  /** Smallest share of draws that the test catches with the asked power at this n; null: not even all of them. */
  readonly share: number | null;
  /** Total variation distance, mean over draws, at that share (at share 1 when null). */
  readonly distance: number;
}

export class CategoricalProcess {
  readonly mixture: Mixture;
  readonly #families: readonly string[];
  readonly #alphabet: number;
  readonly #slots: number;
  readonly #kt: boolean;
  readonly #powerEvery: number;
  readonly #law: Float64Array;
  readonly #learned: Map<number, { total: number; counts: Map<number, number> }>[];
  readonly #seen: Float64Array;
  readonly #expected: Float64Array;
  /** Per family and share: sum of mean and of variance of the log ratio if the alternative holds. */
  readonly #growth: Float64Array;
  readonly #spread: Float64Array;
  /** Per family and share: sum of the logarithm of the probability that nothing impossible is seen. */
  readonly #escape: Float64Array;
  readonly #distance: Float64Array;
  #sampled = 0;
  #n = 0;

  /** `slots`: how many context keys each observation brings. `powerEvery`: each so-manieth draw enters the power. */
  constructor(options: {
    readonly families: readonly string[];
    readonly alphabet: number;
    readonly slots: number;
    readonly powerEvery: number;
  }) {
    const { families, alphabet, slots } = options;
    this.#families = families;
    this.#alphabet = alphabet;
    this.#slots = slots;
    this.#kt = alphabet <= KT_ALPHABET;
    this.#powerEvery = options.powerEvery;
    this.#law = new Float64Array(alphabet);
    this.#learned = Array.from({ length: slots }, () => new Map());
    this.#seen = new Float64Array(alphabet);
    this.#expected = new Float64Array(alphabet);
    this.#growth = new Float64Array(families.length * SHARES.length);
    this.#spread = new Float64Array(families.length * SHARES.length);
    this.#escape = new Float64Array(families.length * SHARES.length);
    this.#distance = new Float64Array(families.length);

    const named = families.flatMap((family) => SHARES.map((share) => `${family} at ${share}`));
    const learners = Array.from({ length: slots }, (_, slot) => [
      ...CONCENTRATIONS.map((c) => `learner ${slot}, ${c}`),
      ...(this.#kt ? [`learner ${slot}, KT`] : []),
    ]).flat();
    learners.push('tilt');
    const half = named.length === 0 ? 1 : 0.5;
    this.mixture = new Mixture(
      [...named, ...learners],
      [...named.map(() => 0.5 / named.length), ...learners.map(() => half / learners.length)],
    );
  }

  get n(): number {
    return this.#n;
  }

  /** `p` sums to 1; `keys`: one context a slot, fixed before x was drawn. */
  observe(p: Float64Array, x: number, fill: Fill, keys: readonly number[], where: string): void {
    const px = p[x] ?? 0;
    const power = this.#n % this.#powerEvery === 0;
    this.#n += 1;
    if (power) this.#sampled += 1;
    if (!(px > 0)) {
      this.mixture.refute(`outcome ${x} has probability 0 ${where}`);
      return;
    }
    const law = this.#law;
    for (let k = 0; k < this.#families.length; k++) {
      if (!fill(k, law)) continue;
      const ratio = law[x]! / px - 1;
      for (let s = 0; s < SHARES.length; s++)
        this.mixture.bet(k * SHARES.length + s, capped(Math.log1p(SHARES[s]! * ratio)));
      if (power) this.#addPower(k, p);
    }
    this.#learn(p, x, px, keys);
    this.mixture.settle();
  }

  #addPower(k: number, p: Float64Array): void {
    const law = this.#law;
    let distance = 0;
    for (let x = 0; x < p.length; x++) distance += Math.abs(law[x]! - p[x]!);
    this.#distance[k]! += distance / 2;
    for (let s = 0; s < SHARES.length; s++) {
      const share = SHARES[s]!;
      let mean = 0;
      let square = 0;
      let impossible = 0;
      for (let x = 0; x < p.length; x++) {
        const px = p[x]!;
        if (px <= 0) {
          impossible += share * law[x]!;
          continue;
        }
        const truth = (1 - share) * px + share * law[x]!;
        if (truth <= 0) continue;
        const gain = Math.log(truth / px);
        mean += truth * gain;
        square += truth * gain * gain;
      }
      const at = k * SHARES.length + s;
      this.#growth[at]! += mean;
      this.#escape[at]! += Math.log1p(-Math.min(impossible, 1 - 1e-12));
      this.#spread[at]! += Math.max(0, square - mean * mean);
    }
  }

  #learn(p: Float64Array, x: number, px: number, keys: readonly number[]): void {
    let component = this.#families.length * SHARES.length;
    for (let slot = 0; slot < this.#slots; slot++) {
      const contexts = this.#learned[slot]!;
      const key = keys[slot]!;
      let entry = contexts.get(key);
      if (entry === undefined) {
        entry = { total: 0, counts: new Map() };
        contexts.set(key, entry);
      }
      const count = entry.counts.get(x) ?? 0;
      for (const c of CONCENTRATIONS) {
        this.mixture.bet(component++, capped(Math.log((count / px + c) / (entry.total + c))));
      }
      if (this.#kt) {
        const kt = (count + 0.5) / (entry.total + this.#alphabet / 2);
        this.mixture.bet(component++, capped(Math.log(0.99 * (kt / px) + 0.01)));
      }
      entry.counts.set(x, count + 1);
      entry.total += 1;
    }
    const seen = this.#seen;
    const expected = this.#expected;
    let norm = 0;
    for (let y = 0; y < p.length; y++) {
      norm += (p[y]! * (seen[y]! + TILT_COUNT)) / (expected[y]! + TILT_COUNT);
      // p of the newest draw joins the expectation only after its tilt was used.
    }
    this.mixture.bet(component, Math.log((seen[x]! + TILT_COUNT) / (expected[x]! + TILT_COUNT) / norm));
    for (let y = 0; y < p.length; y++) expected[y]! += p[y]!;
    seen[x]! += 1;
  }

  /** Mean total variation distance of each family to the rows met, as if it governed every draw. */
  distances(): { readonly family: string; readonly distance: number }[] {
    return this.#families.map((family, k) => ({
      family,
      distance: this.#sampled === 0 ? 0 : this.#distance[k]! / this.#sampled,
    }));
  }

  /** Smallest effects that n draws like these catch with `power` when the e-value must reach 1/level. */
  detectable(level: number, power: number): Detectable[] {
    const z = normalQuantile(power);
    const scale = this.#sampled === 0 ? 0 : this.#n / this.#sampled;
    return this.#families.map((family, k) => {
      const distance = this.#sampled === 0 ? 0 : this.#distance[k]! / this.#sampled;
      let share: number | null = null;
      for (let s = 0; s < SHARES.length; s++) {
        const at = k * SHARES.length + s;
        const needed = Math.log(1 / level) - this.mixture.logStart(at);
        const earned = scale * this.#growth[at]! - z * Math.sqrt(scale * this.#spread[at]!) >= needed;
        // Seeing the impossible once refutes, whatever was earned.
        if (!earned && scale * this.#escape[at]! > Math.log(1 - power)) break;
        share = SHARES[s]!;
      }
      return { family, share, distance: distance * (share ?? 1) };
    });
  }
}
