/**
 * Without rows there is nothing to test against but the plain engine's own output. Two samples of sessions, one a mode;
 * tokens are compared only where both modes had realised the same prefix. A pair (x of plain, y of speculative) in one
 * context earns a(x) b(y) / (m(x) m(y)) with m = (a + b)/2 and a, b learned from earlier pairs. Its mean under equal laws
 * is at most 1 by the inequality of the two means (Turner, Ly, Gruenwald, "Generic e-variables for exact sequential
 * k-sample tests", 2024), so the product is a test supermartingale over batches.
 */
import { normalQuantile } from '../stats/chisquare.ts';
import { Mixture } from '../stats/eprocess.ts';
import { Random } from '../stats/philox.ts';

/** Pseudo-counts with which a learner trusts the pooled law before its own arm. */
const CONCENTRATIONS: readonly number[] = [2, 8, 32];
/** Shifts between the two laws, total variation, that the power is computed for; and simulations of each. */
const SHIFTS: readonly number[] = [0.8, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05];
const SIMULATIONS = 24;

interface Context {
  readonly counts: readonly [Map<number, number>, Map<number, number>];
  readonly totals: [number, number];
  pairs: number;
}

export class TwoSampleProcess {
  readonly mixture = new Mixture(
    CONCENTRATIONS.map((c) => `learner ${c}`),
    CONCENTRATIONS.map(() => 1 / CONCENTRATIONS.length),
  );
  readonly #contexts = new Map<string, Context>();
  readonly #alphabet: number;
  pairs = 0;

  constructor(alphabet: number) {
    this.#alphabet = alphabet;
  }

  get contexts(): number {
    return [...this.#contexts.values()].filter((context) => context.pairs > 0).length;
  }

  /** One batch: outputs of both modes after the same prompt, with seeds of their own. Unpaired tokens only teach. */
  batch(prompt: string, plain: readonly (readonly number[])[], speculative: readonly (readonly number[])[]): void {
    const open = new Map<string, [number[], number[]]>();
    [plain, speculative].forEach((outputs, arm) => {
      for (const output of outputs) {
        output.forEach((token, position) => {
          const key = `${prompt}:${output.slice(0, position).join(' ')}`;
          let waiting = open.get(key);
          if (waiting === undefined) {
            waiting = [[], []];
            open.set(key, waiting);
          }
          waiting[arm]!.push(token);
        });
      }
    });
    for (const [key, [xs, ys]] of open) {
      const context = this.#context(key);
      const both = Math.min(xs.length, ys.length);
      for (let i = 0; i < both; i++) {
        this.#pair(context, xs[i]!, ys[i]!);
        learn(context, 0, xs[i]!);
        learn(context, 1, ys[i]!);
      }
      context.pairs += both;
      for (const x of xs.slice(both)) learn(context, 0, x);
      for (const y of ys.slice(both)) learn(context, 1, y);
    }
    this.mixture.settle();
  }

  /**
   * Smallest total variation distance in every context that this many pairs catch with `power` when the e-value must
   * reach 1/level, or null. Simulated on the pooled laws met, half of the tokens of each raised and half lowered; the
   * logarithm of the e-value is taken as normal.
   */
  detectable(level: number, power: number, seed: string): number | null {
    const random = new Random(seed, 42);
    let found: number | null = null;
    for (const shift of SHIFTS) {
      const logs = Array.from({ length: SIMULATIONS }, () => this.#simulate(shift, random));
      const mean = logs.reduce((sum, value) => sum + value, 0) / SIMULATIONS;
      const variance = logs.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (SIMULATIONS - 1);
      if (mean - normalQuantile(power) * Math.sqrt(variance) < Math.log(1 / level)) break;
      found = shift;
    }
    return found;
  }

  #simulate(shift: number, random: Random): number {
    const twin = new TwoSampleProcess(this.#alphabet);
    for (const context of this.#contexts.values()) {
      if (context.pairs === 0) continue;
      const tokens = [...new Set([...context.counts[0].keys(), ...context.counts[1].keys()])];
      const mass = (token: number): number => (context.counts[0].get(token) ?? 0) + (context.counts[1].get(token) ?? 0);
      const total = context.totals[0] + context.totals[1];
      // A random half of the mass goes up in one mode by shift / 2, the rest down; the other mode the other way.
      const shuffled = tokens.map((token) => ({ token, key: random.uniform() })).sort((x, y) => x.key - y.key);
      const up = new Set<number>();
      let raised = 0;
      for (const { token } of shuffled) {
        if (raised + mass(token) / total > 0.5 && up.size > 0) continue;
        if (up.size + 1 === tokens.length) break;
        up.add(token);
        raised += mass(token) / total;
      }
      const possible = up.size === 0 ? 0 : Math.min(shift / 2, raised, 1 - raised);
      const draw = (direction: number): number => {
        let u = random.uniform();
        for (const token of tokens) {
          const share = mass(token) / total;
          const moved = up.has(token) ? possible / raised : -possible / (1 - raised);
          u -= possible === 0 ? share : share * (1 + direction * moved);
          if (u < 0) return token;
        }
        return tokens[0]!;
      };
      const fresh: Context = { counts: [new Map(), new Map()], totals: [0, 0], pairs: 0 };
      for (let i = 0; i < context.pairs; i++) {
        const x = draw(1);
        const y = draw(-1);
        twin.#pair(fresh, x, y);
        learn(fresh, 0, x);
        learn(fresh, 1, y);
      }
    }
    return twin.mixture.logValue();
  }

  #context(key: string): Context {
    let context = this.#contexts.get(key);
    if (context === undefined) {
      context = { counts: [new Map(), new Map()], totals: [0, 0], pairs: 0 };
      this.#contexts.set(key, context);
    }
    return context;
  }

  #pair(context: Context, x: number, y: number): void {
    this.pairs += 1;
    CONCENTRATIONS.forEach((c, k) => {
      const law = (arm: 0 | 1, token: number): number => {
        const seen = (context.counts[0].get(token) ?? 0) + (context.counts[1].get(token) ?? 0);
        const pooled = (seen + 0.5) / (context.totals[0] + context.totals[1] + this.#alphabet / 2);
        return ((context.counts[arm].get(token) ?? 0) + c * pooled) / (context.totals[arm] + c);
      };
      const ax = law(0, x);
      const ay = law(0, y);
      const bx = law(1, x);
      const by = law(1, y);
      this.mixture.bet(k, Math.log((4 * ax * by) / ((ax + bx) * (ay + by))));
    });
  }
}

function learn(context: Context, arm: 0 | 1, token: number): void {
  context.counts[arm].set(token, (context.counts[arm].get(token) ?? 0) + 1);
  context.totals[arm] += 1;
}
