/**
 * Two engines of different weights or numerics are not one sampler with speculation on and off: what can be asked is how far apart they
 * are. Both are forced along texts of the baseline; the mean difference of their negative log-likelihoods has an interval by BCa
 * bootstrap over prompts, and TOST where a margin was stated. Greedy outputs are compared with near ties accounted for.
 */
import type { Decoding, Engine } from '../engine.ts';
import { mean } from '../stats/averages.ts';
import { bcaInterval, meanOf } from '../stats/bootstrap.ts';
import { TOST_LEVEL, tost } from '../stats/tost.ts';
import { firstDifference } from '../verify/equality.ts';
import { nearTies, type Parting } from '../verify/near-tie.ts';
import { rowsOf } from '../verify/round-laws.ts';
import type { Budget } from './budget.ts';
import { type GatePrompt, lost, type Observer, type Observers } from './observer.ts';
import type { Check } from './result.ts';

const RESAMPLES = 10_000;

export interface FidelityInput extends Observers {
  readonly engine: Engine;
  /** The baseline. */
  readonly plain: Engine;
  readonly prompts: readonly GatePrompt[];
  readonly decoding: (over: Partial<Decoding>) => Decoding;
  readonly budget: Budget;
  readonly seed: string;
  readonly signal: AbortSignal;
}

/** One prompt with a text of the baseline behind it, scored by both. */
interface Forced {
  readonly engine: readonly number[];
  readonly baseline: readonly number[];
  /** Of the baseline's rows, where it gives them: gap of the two likeliest tokens at each position. */
  readonly gaps: readonly number[] | null;
}

export async function checkFidelity(input: FidelityInput, margin: number | null): Promise<Check[]> {
  const { prompts, budget, signal } = input;
  const forced: Forced[] = [];
  const list = [...new Set(prompts)].slice(0, budget.equalityPrompts);
  for (const prompt of list) {
    if (lost(input) || signal.aborted) break;
    const one = await forcedText(input, prompt);
    if (one === null) break;
    forced.push(one);
  }
  return [likelihood(forced, margin, input.seed), await greedy(input, list, forced, margin)];
}

async function forcedText(input: FidelityInput, prompt: GatePrompt): Promise<Forced | null> {
  const { engine, plain, observer, yardstick, budget } = input;
  const asked = input.decoding({ maxTokens: budget.equalityTokens });
  const run = await yardstick.run(plain, prompt, asked, 'fidelity');
  if (run.fault !== null) return null;
  const [own, base] = [
    await scored(observer, engine, prompt.ids, run.tokens),
    await scored(yardstick, plain, prompt.ids, run.tokens),
  ];
  if (own === null || base === null) return null;
  const rows = run.rounds.map((round) => rowsOf(round, plain.card.vocabSize));
  const told = rows.every((row) => row !== null && typeof row !== 'string');
  const gaps = told
    ? run.rounds.flatMap((round, i) =>
        round.committed.map((_, at) => gapOf((rows[i] as { readonly p: readonly Float64Array[] }).p[at]!)),
      )
    : null;
  return { engine: own, baseline: base, gaps };
}

async function scored(
  observer: Observer,
  engine: Engine,
  prefix: readonly number[],
  next: readonly number[],
): Promise<readonly number[] | null> {
  const score = await observer.mayRefuse('fidelity', 'score', () => engine.score(prefix, next));
  const logprobs = score?.logprobs;
  return logprobs?.length === next.length && logprobs.every(Number.isFinite) ? logprobs : null;
}

/** log of the ratio of the two largest probabilities. */
function gapOf(row: Float64Array): number {
  let [first, second] = [0, 0];
  for (const p of row) {
    if (p > first) [first, second] = [p, first];
    else if (p > second) second = p;
  }
  return second > 0 ? Math.log(first / second) : Number.POSITIVE_INFINITY;
}

function likelihood(forced: readonly Forced[], margin: number | null, seed: string): Check {
  const base = {
    id: 'fidelity likelihood',
    question: 'Is the text of the baseline as likely under the engine?',
    n: forced.length,
    of: 'prompts',
    logE: null,
    decisive: false,
    wouldHaveCaught: null,
    restsOnPlain: true,
  } as const;
  const means = forced.map(({ engine, baseline }) => mean(baseline.map((value, i) => value - engine[i]!)));
  const interval = bcaInterval(means.length, meanOf(means), { resamples: RESAMPLES, level: TOST_LEVEL, seed });
  if (interval === null) {
    return { ...base, outcome: 'not testable here', evidence: 'Too few texts were scored by both engines.' };
  }
  const { low, high } = interval;
  const said = `negative log-likelihood ${signed(mean(means))} nats a token, 90 % interval ${signed(low)} to ${signed(high)} over ${means.length} prompts (BCa)`;
  if (margin === null) {
    return { ...base, outcome: 'not testable here', evidence: `${said}; nobody stated a margin of equivalence.` };
  }
  const verdict = tost(interval, margin);
  const outcome = { equivalent: 'consistent', different: 'refuted', inconclusive: 'inconclusive' } as const;
  const would = `a difference of ${margin} nats a token or more, at level 0.05 (TOST)`;
  return {
    ...base,
    outcome: outcome[verdict],
    evidence: `${said}: ${verdict} within ${margin}.`,
    wouldHaveCaught: verdict === 'equivalent' ? would : null,
  };
}

async function greedy(
  input: FidelityInput,
  prompts: readonly GatePrompt[],
  forced: readonly Forced[],
  margin: number | null,
): Promise<Check> {
  const { engine, plain, observer, yardstick, budget, signal } = input;
  const base = {
    id: 'fidelity greedy',
    question: 'Do greedy outputs part only where two tokens are nearly alike?',
    of: 'prompts',
    logE: null,
    decisive: false,
    wouldHaveCaught: null,
    restsOnPlain: true,
  } as const;
  // Gaps are learned on the even prompts and judged on the odd ones.
  const moves = forced.flatMap((one, i) => (i % 2 === 0 ? movesOf(one) : []));
  const partings: Parting[] = [];
  let n = 0;
  let tokens = 0;
  for (const prompt of prompts.filter((_, i) => i % 2 === 1)) {
    if (lost(input) || signal.aborted || moves.length === 0) break;
    const asked = input.decoding({ temperature: 0, maxTokens: budget.equalityTokens });
    const [a, b] = [
      await yardstick.run(plain, prompt, asked, 'fidelity greedy'),
      await observer.run(engine, prompt, asked, 'fidelity greedy'),
    ];
    if (a.fault !== null || b.fault !== null) continue;
    n += 1;
    const at = firstDifference(a.tokens, b.tokens);
    tokens += at ?? a.tokens.length;
    const [own, other] = at === null ? [] : [a.tokens[at], b.tokens[at]];
    if (at === null || own === undefined || other === undefined) continue;
    const prefix = [...prompt.ids, ...a.tokens.slice(0, at)];
    const [x, y] = [await scored(yardstick, plain, prefix, [own]), await scored(yardstick, plain, prefix, [other])];
    // What comes after the first difference follows from it and is not compared.
    if (x !== null && y !== null) partings.push({ where: `prompt ${prompt.name}, output ${at}`, gap: x[0]! - y[0]! });
  }
  if (n === 0)
    return { ...base, n, outcome: 'not testable here', evidence: 'No pair of greedy outputs could be compared.' };
  const gaps = forced.every((one) => one.gaps !== null) ? forced.flatMap((one) => one.gaps!) : null;
  const spread = gaps === null || gaps.length === 0 ? null : stretched(gaps, tokens);
  const ties = nearTies(partings, moves, spread);
  const count = Number.isNaN(ties.expected)
    ? ''
    : `, ${ties.expected.toPrecision(2)} expected of rounding (chance of as many ${ties.chance.toPrecision(2)})`;
  const said = `${partings.length} of ${n} outputs part in ${tokens} tokens${count}; ${ties.beyond.length} at a gap beyond ${ties.bound.toPrecision(2)} nats`;
  const bad = ties.beyond.length > 0 || ties.tooMany;
  const first = ties.beyond[0];
  const where = first === undefined ? '' : `; first: ${first.where}, gap ${first.gap.toPrecision(3)}`;
  if (margin === null) {
    return {
      ...base,
      n,
      outcome: 'not testable here',
      evidence: `${said}${where}; nobody stated that the two are equivalent.`,
    };
  }
  return {
    ...base,
    n,
    outcome: bad ? 'refuted' : 'consistent',
    evidence: `${said}${where}.`,
    wouldHaveCaught: bad ? null : `a greedy output that parts at a gap above ${ties.bound.toPrecision(2)} nats`,
  };
}

/** How far the difference of two neighbouring scores is moved by the other engine: what happens to a gap. */
function movesOf({ engine, baseline }: Forced): number[] {
  const shifts = engine.map((value, i) => value - baseline[i]!);
  return shifts.slice(1).map((shift, i) => shift - shifts[i]!);
}

/** The gaps met, as many as there are greedy tokens: each n/m times, in weights that add up. */
function stretched(gaps: readonly number[], tokens: number): number[] {
  return Array.from({ length: tokens }, (_, i) => gaps[i % gaps.length]!);
}

function signed(value: number): string {
  return `${value < 0 ? '-' : '+'}${Math.abs(value).toPrecision(3)}`;
}
