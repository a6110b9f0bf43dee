/**
 * The acceptance floor: a draft that is fed wrongly (a layer early, wrong positions, an empty mask row) keeps every law and is only
 * slower, so nothing but a number stated beforehand can show it. Acceptance length = drafts accepted + 1 a decode round, before
 * any cut, at temperature 1 without filters; interval by BCa bootstrap over prompts. Prompts differ far more than builds do, and so
 * do seeds; greedy decoding has none, and emits the same tokens as long as it is lossless. So where the statement holds the same
 * prompts, what is judged is the difference of their greedy sessions, prompt by prompt.
 */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { z } from 'zod';
import { tokensDigest } from '../bundle/digests.ts';
import { InputError, type Round, type VerificationRule } from '../engine.ts';
import { bcaInterval, type ClusterStatistic, ratioOfSums } from '../stats/bootstrap.ts';
import { clopperPearson } from '../stats/proportion.ts';
import type { Check } from './result.ts';

const LEVEL = 0.999;
const RESAMPLES = 10_000;
/** Fewer prompts give no interval worth a verdict. */
const LEAST_PROMPTS = 8;

export interface MeasuredAcceptance {
  readonly rule: VerificationRule;
  readonly mean: number;
  /** Ends of the interval, 99.9 %; null with too few prompts. */
  readonly low: number | null;
  readonly high: number | null;
  readonly rounds: number;
  readonly prompts: number;
  /** Greedy sessions of the equality test. */
  readonly greedy: readonly AcceptanceCell[];
}

/** Sums over the decode rounds of one prompt. */
export interface AcceptanceCell {
  /** Digest of the prompt's ids. */
  readonly prompt: string;
  /** Drafts accepted + 1, summed. */
  readonly tokens: number;
  readonly rounds: number;
  /** Drafts of the first round that drafted. */
  readonly drafts: readonly number[];
}

export interface AcceptanceFloor {
  /** An acceptance length below this is a finding. */
  readonly floor: number;
  /** Who states it, in words. */
  readonly source: string;
  readonly greedy: readonly AcceptanceCell[];
}

export class AcceptanceTally {
  readonly #prompts = new Map<string, { tokens: number; rounds: number; drafts: readonly number[] }>();

  session(ids: readonly number[], rounds: readonly Round[]): void {
    const prompt = tokensDigest(ids);
    const own = this.#prompts.get(prompt) ?? { tokens: 0, rounds: 0, drafts: [] };
    for (const { kind, drafted, accepted } of rounds) {
      if (kind !== 'decode' || drafted.length === 0) continue;
      if (own.rounds === 0) own.drafts = [...drafted];
      own.tokens += accepted + 1;
      own.rounds += 1;
    }
    this.#prompts.set(prompt, own);
  }

  cells(): AcceptanceCell[] {
    return [...this.#prompts].map(([prompt, sums]) => ({ prompt, ...sums })).filter((cell) => cell.rounds > 0);
  }

  measured(rule: VerificationRule, seed: string, greedy: readonly AcceptanceCell[]): MeasuredAcceptance | null {
    const cells = this.cells();
    const rounds = total(cells, 'rounds');
    if (rounds === 0) return null;
    const ratio = ratioOfSums(
      cells.map((cell) => cell.tokens),
      cells.map((cell) => cell.rounds),
    );
    const interval = intervalOf(cells.length, ratio, seed);
    const mean = total(cells, 'tokens') / rounds;
    return {
      rule,
      mean,
      low: interval?.low ?? null,
      high: interval?.high ?? null,
      rounds,
      prompts: cells.length,
      greedy,
    };
  }
}

function total(cells: readonly AcceptanceCell[], of: 'tokens' | 'rounds'): number {
  return cells.reduce((sum, cell) => sum + cell[of], 0);
}

function intervalOf(clusters: number, statistic: ClusterStatistic, seed: string): { low: number; high: number } | null {
  return clusters < LEAST_PROMPTS
    ? null
    : bcaInterval(clusters, statistic, { resamples: RESAMPLES, level: LEVEL, seed });
}

/** Now less before, over the prompts that both hold; null with too few of them. */
function differenceOf(
  now: readonly AcceptanceCell[],
  before: readonly AcceptanceCell[],
  seed: string,
): { readonly mean: number; readonly low: number; readonly high: number; readonly prompts: number } | null {
  const earlier = new Map(before.map((cell) => [cell.prompt, cell]));
  const both = now.flatMap((cell) => {
    const other = earlier.get(cell.prompt);
    return other === undefined || other.rounds === 0 ? [] : [{ now: cell, before: other }];
  });
  const ratio = (side: 'now' | 'before') =>
    ratioOfSums(
      both.map((pair) => pair[side].tokens),
      both.map((pair) => pair[side].rounds),
    );
  const [a, b] = [ratio('now'), ratio('before')];
  const difference: ClusterStatistic = (indices) => a(indices) - b(indices);
  const interval = intervalOf(both.length, difference, seed);
  return interval === null ? null : { ...interval, mean: difference(both.map((_, i) => i)), prompts: both.length };
}

export function checkAcceptance(
  measured: MeasuredAcceptance | null,
  stated: AcceptanceFloor | null,
  seed: string,
): Check {
  const base = {
    id: 'acceptance floor',
    question: 'Is as much of the drafts accepted as was stated beforehand?',
    n: measured?.rounds ?? 0,
    of: 'rounds',
    logE: null,
    decisive: false,
    wouldHaveCaught: null,
  };
  if (measured === null) return { ...base, outcome: 'not testable here', evidence: 'No round drafted anything.' };
  const { mean, low, high, prompts } = measured;
  const number = (x: number): string => x.toFixed(3);
  if (low === null || high === null) {
    const evidence = `Acceptance length ${number(mean)}; ${prompts} prompts are too few for an interval.`;
    return { ...base, outcome: stated === null ? 'not testable here' : 'inconclusive', evidence };
  }
  const said = `acceptance length ${number(mean)}, 99.9 % interval ${number(low)} to ${number(high)} over ${prompts} prompts`;
  if (stated === null) {
    const evidence = `${said[0]!.toUpperCase()}${said.slice(1)}; nobody stated what it should be, so a draft fed wrongly could not be told.`;
    return { ...base, outcome: 'not testable here', evidence };
  }
  const paired = differenceOf(measured.greedy, stated.greedy, seed);
  if (paired !== null) {
    const evidence = `${said}; ${number(paired.mean)} more than stated in greedy sessions of the same ${paired.prompts} prompts, interval ${number(paired.low)} to ${number(paired.high)} (${stated.source})`;
    if (paired.high < 0) return { ...base, outcome: 'refuted', evidence: `${evidence}: it has fallen.` };
    const slack = paired.high - paired.mean;
    return {
      ...base,
      outcome: 'consistent',
      evidence: `${evidence}.`,
      wouldHaveCaught:
        slack > 0
          ? `a fall by ${number(2 * slack)} on these prompts with power about 0.999 (twice the half of the interval)`
          : 'any fall on these prompts',
    };
  }
  const evidence = `${said}; floor ${number(stated.floor)} (${stated.source})`;
  if (high < stated.floor) return { ...base, outcome: 'refuted', evidence: `${evidence}: it has fallen below.` };
  return {
    ...base,
    outcome: 'consistent',
    evidence: `${evidence}.`,
    wouldHaveCaught: `an acceptance length below ${number(stated.floor - 2 * (high - mean))} on prompts like these, with power about 0.999`,
  };
}

/** Drafts that may be others than stated: two tokens of the draft that are nearly alike, rounded otherwise. */
const AGREEMENT = 0.95;

/** Are the first greedy drafts behind each prompt those that were stated? Sees a draft that is wrong and hardly slower. */
export function checkDrafts(measured: MeasuredAcceptance | null, stated: AcceptanceFloor | null): Check {
  const base = {
    id: 'reference drafts',
    question: 'Does the draft propose what was stated beforehand?',
    of: 'drafts',
    logE: null,
    decisive: false,
    wouldHaveCaught: null,
  };
  const earlier = new Map((stated?.greedy ?? []).map((cell) => [cell.prompt, cell.drafts]));
  let n = 0;
  let same = 0;
  for (const { prompt, drafts } of measured?.greedy ?? []) {
    const due = earlier.get(prompt) ?? [];
    for (let i = 0; i < Math.min(drafts.length, due.length); i++) {
      n += 1;
      if (drafts[i] === due[i]) same += 1;
    }
  }
  if (n === 0) {
    return { ...base, n, outcome: 'not testable here', evidence: 'Nobody stated drafts for any of these prompts.' };
  }
  const { high } = clopperPearson(same, n, LEVEL);
  const evidence = `${same} of ${n} first greedy drafts are those stated (99.9 % upper bound of the share ${high.toFixed(3)}, ${AGREEMENT} is due; ${stated!.source})`;
  if (high < AGREEMENT) return { ...base, n, outcome: 'refuted', evidence: `${evidence}.` };
  return {
    ...base,
    n,
    outcome: 'consistent',
    evidence: `${evidence}.`,
    wouldHaveCaught: `a draft that proposes another token in well over ${(1 - AGREEMENT).toFixed(2)} of these places, however little slower it is`,
  };
}

/** A gate's own `--json`, one result or the list of three, or a list of statements about engines. */
const Stated = z.looseObject({
  acceptance: z
    .looseObject({
      rule: z.enum(['match', 'reject', 'coupled']),
      mean: z.number(),
      low: z.number().nullable(),
      greedy: z
        .array(
          z.object({
            prompt: z.string(),
            tokens: z.number(),
            rounds: z.number(),
            drafts: z.array(z.number()).default([]),
          }),
        )
        .default([]),
    })
    .nullable(),
  card: z
    .looseObject({ weightsDigest: z.string(), draftDigest: z.string(), numerics: z.looseObject({ id: z.string() }) })
    .nullable(),
});

export interface Identity {
  readonly weightsDigest: string;
  readonly draftDigest: string;
  readonly numerics: { readonly id: string };
}

/**
 * The floor that a file states for a rule: the lower end of the interval measured then.
 * `identity`: only of these weights, draft and numerics; null: whoever it was.
 * @throws InputError for a file that states nothing of the kind
 */
export function readFloor(path: string, rule: VerificationRule, identity: Identity | null): AcceptanceFloor | null {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new InputError(`cannot read an acceptance from ${path}: ${(error as Error).message}`);
  }
  const parsed = z.array(Stated).safeParse(Array.isArray(value) ? value : [value]);
  if (!parsed.success) throw new InputError(`${path}: no result of kilotoken verify --json that holds an acceptance`);
  const found = parsed.data.find(({ acceptance, card }) => {
    if (acceptance?.rule !== rule || acceptance.low === null) return false;
    if (identity === null) return true;
    const same = card?.weightsDigest === identity.weightsDigest && card.draftDigest === identity.draftDigest;
    return same && card.numerics.id === identity.numerics.id;
  });
  if (found === undefined) return null;
  const { low, greedy, mean } = found.acceptance!;
  const source = `lower end of the interval in ${basename(path)}, mean ${mean.toFixed(3)}`;
  return { floor: low!, greedy, source };
}
