/**
 * Do two samplers emit the same law? A two-sample G test on the first tokens of many seeds, conditional on the prefix
 * that was realised: tokens of different contexts never share a cell, so a defect that only moves mass between
 * contexts is not averaged away (shared marginals hide it).
 *
 * For every prompt and position, sessions are grouped by the tokens emitted so far; each group gives a 2 x m table
 * (arm by next token, rare tokens pooled until every expected count is at least 5) with m - 1 degrees of freedom. The
 * tables of a prompt add up, and so do the prompts; both levels are tested, Holm over all of them.
 *
 * Asymptotic tails are not trusted for the alarm: a rejection counts only if a permutation test of the same statistic,
 * which exchanges the arms of whole sessions within a prompt and is exact, rejects too.
 */
import { chiSquareSurvival, detectableNoncentrality } from '../stats/chisquare.ts';
import { holm } from '../stats/holm.ts';
import { Random } from '../stats/philox.ts';

const LEAST_EXPECTED = 5;

export interface LawSample {
  readonly prompt: string;
  /** First tokens of each session; shorter where it ended. */
  readonly plain: readonly (readonly number[])[];
  readonly speculative: readonly (readonly number[])[];
}

export interface LawOptions {
  /** Family-wise false-alarm rate. */
  readonly alpha: number;
  readonly power: number;
  readonly seed: string;
}

export interface LawTest {
  /** A prompt id, or `all prompts`. */
  readonly name: string;
  readonly statistic: number;
  readonly df: number;
  readonly p: number;
  readonly adjusted: number;
}

export interface LawResult {
  readonly tests: readonly LawTest[];
  readonly smallest: LawTest | null;
  /** Exact p-value of the smallest; null when the G test did not ask for it. */
  readonly permutationP: number | null;
  readonly rejected: boolean;
  readonly sessions: number;
  readonly tokens: number;
  /**
   * Total variation distance, root mean square over contexts, that `all prompts` catches with the stated power whatever
   * its direction; null without a degree of freedom.
   */
  readonly detectableDistance: number | null;
}

/** One prompt with its tokens replaced by dense cell numbers, so that permutations are cheap. */
interface Indexed {
  readonly name: string;
  /** Per session: the (group, cell) pairs of its positions. */
  readonly sessions: readonly (readonly { readonly group: number; readonly cell: number }[])[];
  /** Per group: how many cells. */
  readonly cells: readonly number[];
  /** true: speculative. */
  readonly arms: readonly boolean[];
}

interface Tabulated {
  readonly statistic: number;
  readonly df: number;
  /** Sum over usable tables of n1 n2 / (n1 + n2). */
  readonly weight: number;
}

export function testLaw(samples: readonly LawSample[], options: LawOptions): LawResult {
  const indexed = samples.map(index);
  const tables = indexed.map((prompt) => tabulate(prompt, prompt.arms));
  const pooled = sum(tables);
  const named = [...indexed.map((p, i) => ({ name: p.name, ...tables[i]! })), { name: 'all prompts', ...pooled }];
  const usable = named.filter((test) => test.df > 0);
  const ps = usable.map((test) => chiSquareSurvival(test.statistic, test.df));
  const adjusted = holm(ps);
  const tests: LawTest[] = usable.map(({ name, statistic, df }, i) => ({
    name,
    statistic,
    df,
    p: ps[i]!,
    adjusted: adjusted[i]!,
  }));
  const smallest = tests.reduce<LawTest | null>((best, test) => (best === null || test.p < best.p ? test : best), null);

  let permutationP: number | null = null;
  let rejected = false;
  if (smallest !== null && smallest.adjusted <= options.alpha) {
    const level = options.alpha / tests.length;
    const of = smallest.name === 'all prompts' ? indexed : indexed.filter((prompt) => prompt.name === smallest.name);
    permutationP = permutationTest(of, smallest.p, Math.ceil(2 / level), options.seed);
    rejected = permutationP <= level;
  }
  return {
    tests,
    smallest,
    permutationP,
    rejected,
    sessions: samples.reduce((n, s) => n + s.plain.length + s.speculative.length, 0),
    tokens: samples.reduce((n, s) => n + [...s.plain, ...s.speculative].reduce((m, t) => m + t.length, 0), 0),
    detectableDistance: pooled.df === 0 ? null : detectable(pooled, options.alpha / tests.length, options.power),
  };
}

/**
 * With n1 and n2 sessions in a table, a shift d of the speculative law has noncentrality n1 n2 / (n1 + n2) sum d^2 / p,
 * and among all shifts of total variation t that is smallest, 4 t^2, when half the mass moves up and half down.
 */
function detectable(pooled: Tabulated, alpha: number, power: number): number {
  return Math.sqrt(detectableNoncentrality(alpha, pooled.df, power) / (4 * pooled.weight));
}

function index(sample: LawSample): Indexed {
  const groups = new Map<string, { id: number; cells: Map<number, number> }>();
  const place = (tokens: readonly number[]): { group: number; cell: number }[] =>
    tokens.map((token, position) => {
      const key = tokens.slice(0, position).join(' ');
      let group = groups.get(key);
      if (group === undefined) {
        group = { id: groups.size, cells: new Map() };
        groups.set(key, group);
      }
      let cell = group.cells.get(token);
      if (cell === undefined) {
        cell = group.cells.size;
        group.cells.set(token, cell);
      }
      return { group: group.id, cell };
    });
  const sessions = [...sample.plain, ...sample.speculative].map(place);
  const arms = sessions.map((_, i) => i >= sample.plain.length);
  return { name: sample.prompt, sessions, cells: [...groups.values()].map((group) => group.cells.size), arms };
}

function tabulate(prompt: Indexed, arms: readonly boolean[]): Tabulated {
  const counts = prompt.cells.map((cells) => new Uint32Array(2 * cells));
  prompt.sessions.forEach((places, session) => {
    const arm = arms[session] ? 1 : 0;
    for (const { group, cell } of places) counts[group]![2 * cell + arm]! += 1;
  });
  return sum(counts.map(gTest));
}

/** `counts`: pairs (plain, speculative), one a token. */
function gTest(counts: Uint32Array): Tabulated {
  let n1 = 0;
  let n2 = 0;
  for (let i = 0; i < counts.length; i += 2) {
    n1 += counts[i]!;
    n2 += counts[i + 1]!;
  }
  const none = { statistic: 0, df: 0, weight: 0 };
  if (n1 === 0 || n2 === 0) return none;
  // A cell stands alone if the rarer arm expects at least 5 in it. The rest is one cell; if that is too small, it joins
  // the smallest that stood alone. Only margins decide, so the pooling says nothing about the difference.
  const needed = (LEAST_EXPECTED * (n1 + n2)) / Math.min(n1, n2);
  const alone: [number, number][] = [];
  const rest: [number, number] = [0, 0];
  for (let i = 0; i < counts.length; i += 2) {
    const a = counts[i]!;
    const b = counts[i + 1]!;
    if (a + b >= needed) alone.push([a, b]);
    else {
      rest[0] += a;
      rest[1] += b;
    }
  }
  if (rest[0] + rest[1] >= needed) alone.push(rest);
  else if (rest[0] + rest[1] > 0 && alone.length > 0) {
    const smallest = alone.reduce((best, cell) => (cell[0] + cell[1] < best[0] + best[1] ? cell : best));
    smallest[0] += rest[0];
    smallest[1] += rest[1];
  }
  if (alone.length < 2) return none;
  let statistic = 0;
  for (const [a, b] of alone) {
    const total = a + b;
    if (a > 0) statistic += 2 * a * Math.log((a * (n1 + n2)) / (total * n1));
    if (b > 0) statistic += 2 * b * Math.log((b * (n1 + n2)) / (total * n2));
  }
  return { statistic, df: alone.length - 1, weight: (n1 * n2) / (n1 + n2) };
}

function sum(tables: readonly Tabulated[]): Tabulated {
  let statistic = 0;
  let df = 0;
  let weight = 0;
  for (const table of tables) {
    statistic += table.statistic;
    df += table.df;
    weight += table.weight;
  }
  return { statistic, df, weight };
}

function permutationTest(prompts: readonly Indexed[], observed: number, permutations: number, seed: string): number {
  const random = new Random(seed, 0x9e57);
  const arms = prompts.map((prompt) => [...prompt.arms]);
  let asExtreme = 0;
  for (let b = 0; b < permutations; b++) {
    const table = sum(
      prompts.map((prompt, i) => {
        shuffle(arms[i]!, random);
        return tabulate(prompt, arms[i]!);
      }),
    );
    if (table.df > 0 && chiSquareSurvival(table.statistic, table.df) <= observed) asExtreme += 1;
  }
  return (1 + asExtreme) / (1 + permutations);
}

function shuffle(values: boolean[], random: Random): void {
  for (let i = values.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    const held = values[i]!;
    values[i] = values[j]!;
    values[j] = held;
  }
}
