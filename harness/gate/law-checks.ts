/**
 * E-processes of a gate in words: the checks of one stream (the engine's own rows, or toys), what each would have caught, and
 * what nothing in this run would have caught.
 */
import type { VerificationRule } from '../engine.ts';
import { percent } from '../percent.ts';
import { eBenjaminiHochberg } from '../stats/eprocess.ts';
import { holm } from '../stats/holm.ts';
import { type Detectable, SHARES } from '../verify/categorical.ts';
import type { RoundLaws } from '../verify/round-laws.ts';
import type { Budget } from './budget.ts';
import type { Check } from './result.ts';

/** Laws whose e-values make the family. */
export const LAWS = ['emission', 'acceptance', 'drafts'] as const;
export type LawName = (typeof LAWS)[number];
/**
 * Tests that share alpha, whether or not an engine lets all be made: the laws of its own rows and of its toys, and for each of the
 * two the law of the numbers it reads.
 */
export const FAMILY_SIZE = 2 * (LAWS.length + 1);
/** False discovery rate of the list of prompts; the list explains, it does not decide. */
const CELL_RATE = 1e-3;

export interface Stream {
  /** '' or `toy `. */
  readonly prefix: string;
  readonly laws: RoundLaws;
  /** Where the rows come from, in words. */
  readonly from: string;
  /** Whether replay decided all of it again and found nothing: then differing decisions would have been seen. */
  readonly replayed: boolean;
  /** The rows were put together from scores of the plain engine. */
  readonly restsOnPlain?: true;
}

/** Largest logarithm of each law's e-value, in the order of `streams` and LAWS. */
export function adjustedPs(streams: readonly Stream[]): Map<string, number> {
  const names = streams.flatMap(({ prefix }) => LAWS.map((law) => `${prefix}${law}`));
  const ps = streams.flatMap(({ laws }) => LAWS.map((law) => Math.min(1, Math.exp(-laws[law].mixture.logSup))));
  const adjusted = adjustedInFamily(ps);
  return new Map(names.map((name, i) => [name, adjusted[i]!]));
}

/** Holm over the family; tests that could not be made count as ones that found nothing. */
export function adjustedInFamily(ps: readonly number[]): number[] {
  const padded = [...ps, ...new Array<number>(Math.max(0, FAMILY_SIZE - ps.length)).fill(1)];
  return holm(padded).slice(0, ps.length);
}

/**
 * Families that decisions decided again would have shown: under the uniforms it states, an engine whose law is off by a distance d
 * decides otherwise than the rule with probability d at least, so n positions stay silent with probability exp(-n d) at most.
 */
export function seenByReplay({ laws, replayed }: Stream, power: number): Map<string, number> {
  const found = new Map<string, number>();
  if (!replayed) return found;
  for (const law of ['emission', 'acceptance', 'drafts'] as const) {
    for (const { family, distance } of laws[law].distances()) {
      const needed = -Math.log(1 - power) / (laws[law].n * distance);
      const share = SHARES.findLast((one) => (one === 0.99 ? 1 : one) >= needed);
      if (share === undefined) continue;
      found.set(family, Math.min(found.get(family) ?? 1, share));
    }
  }
  return found;
}

export interface LawSetting {
  readonly rule: VerificationRule;
  readonly budget: Budget;
  readonly aborted: boolean;
  /** Why this stream ended before its plan, or null. */
  readonly capped: string | null;
  /** Laws with evidence of earlier runs. */
  readonly earlier: readonly string[];
  /** Reasons besides that leave the verdict open. */
  readonly doubts: readonly string[];
  /** Families that another part of this gate would have seen, with who. */
  readonly elsewhere: ReadonlyMap<string, string>;
}

export function lawChecks(stream: Stream, adjusted: ReadonlyMap<string, number>, setting: LawSetting): Check[] {
  const { laws, prefix, from } = stream;
  const { budget, rule } = setting;
  const questions: Record<LawName, string> = {
    emission: `Are the emitted tokens distributed as the target says (${from})?`,
    acceptance: `Are drafts accepted as rule ${rule} says?`,
    drafts: 'Are the drafts distributed as the draft rows say?',
  };
  return LAWS.map((name) => {
    const process = laws[name];
    const sup = process.mixture.logSup;
    const p = adjusted.get(`${prefix}${name}`)!;
    const of = name === 'emission' ? 'tokens' : name === 'acceptance' ? 'decisions' : 'drafts';
    const logE = Math.min(sup, 1e308);
    const base = {
      id: `law ${prefix}${name}`,
      question: questions[name],
      n: process.n,
      of,
      logE,
      decisive: name === 'emission',
      wouldHaveCaught: null,
      ...(stream.restsOnPlain ? { restsOnPlain: true as const } : {}),
    };
    if (process.n === 0 && !setting.earlier.includes(`${prefix}${name}`)) {
      const evidence = `This engine shows nothing to test it by under rule ${rule}.`;
      return { ...base, outcome: 'not testable here', logE: null, decisive: false, evidence };
    }
    const wealth = `e-value ${power10(sup)} after ${process.n} ${of} (refuted from ${power10(Math.log(1 / budget.alpha))}; ${p.toPrecision(2)} after Holm over ${FAMILY_SIZE})`;
    const counts =
      name === 'acceptance'
        ? `; ${laws.observedAccepted} of ${laws.decisions} decisions accepted, ${laws.expectedAccepted.toFixed(1)} expected`
        : '';
    if (p <= budget.alpha) {
      const why = process.mixture.impossible ?? `largest gain by the bet on "${process.mixture.leader()}"`;
      const evidence = `${wealth}${counts}; ${why}${cellsText(laws, name)}.`;
      return { ...base, outcome: 'refuted', evidence };
    }
    const effects = process
      .detectable(budget.alpha / FAMILY_SIZE, budget.power)
      .filter((effect) => effect.distance > 0);
    const seen = effects.filter((effect) => effect.share !== null);
    const missed = effects.filter((effect) => effect.share === null);
    const unseen = missed.filter(({ family }) => !setting.elsewhere.has(family));
    const blind = unseen.filter((effect) => effect.distance > budget.largestBlindDistance);
    const would = wouldHaveCaught(seen, missed, unseen, setting);
    const diagnostic =
      name === 'emission' ? `; transform test over the vocabulary, its own budget: ${power10(laws.pit.logSup)}` : '';
    const reasons = [
      ...(setting.aborted ? ['the run was interrupted'] : []),
      ...(setting.capped === null ? [] : [setting.capped]),
      ...(blind.length > 0 ? [`it would have missed: ${blind.map((effect) => effect.family).join(', ')}`] : []),
      ...(would === null ? ['nothing would have been caught with the asked power'] : []),
      ...setting.doubts,
    ];
    const evidence = [`${wealth}${counts}${diagnostic}`, ...reasons].join('; ');
    const outcome = reasons.length > 0 ? 'inconclusive' : 'consistent';
    return { ...base, outcome, evidence: `${evidence}.`, wouldHaveCaught: would };
  });
}

/** The smallest effect of each family, smallest distance first; then what is seen elsewhere, and what nowhere. */
function wouldHaveCaught(
  seen: readonly Detectable[],
  missed: readonly Detectable[],
  unseen: readonly Detectable[],
  { budget, elsewhere }: LawSetting,
): string | null {
  const others = missed.filter(({ family }) => elsewhere.has(family));
  if (seen.length === 0 && others.length === 0) return null;
  const parts = [...seen]
    .sort((a, b) => a.distance - b.distance)
    .map(
      (e) =>
        `${e.family} in ${percent(e.share === 0.99 ? 1 : e.share!)} of positions (distance ${e.distance.toPrecision(2)})`,
    );
  const rest = others.map(({ family }) => `${family} not here, but by ${elsewhere.get(family)}`);
  const lost =
    unseen.length === 0
      ? '; no family of the catalogue is missed'
      : `; missed even in every position: ${unseen.map((e) => `${e.family} (distance ${e.distance.toPrecision(2)})`).join('; ')}`;
  return `${[...parts, ...rest].join('; ')}; with power ${budget.power}${lost}`;
}

/** Prompts whose own transform test stands out, false discovery rate CELL_RATE. */
function cellsText(laws: RoundLaws, name: LawName): string {
  if (name !== 'emission') return '';
  const cells = [...laws.cells];
  const found = eBenjaminiHochberg(
    cells.map(([, cell]) => cell.logValue()),
    CELL_RATE,
  );
  return found.length === 0 ? '' : `; prompts that stand out: ${found.map((i) => cells[i]![0]).join(', ')}`;
}

export function power10(log: number): string {
  if (log === Number.POSITIVE_INFINITY) return 'infinite';
  const exponent = log / Math.LN10;
  return Math.abs(exponent) < 3 ? Number(Math.exp(log).toPrecision(3)).toString() : `10^${exponent.toFixed(1)}`;
}
