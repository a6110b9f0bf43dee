/**
 * The layers a defect passes through, cheapest first: edge vectors, the exact law on each fixture, seeded sessions where
 * there is no exact law, and the gate on an engine that has the defect and does not say so. Seeds and budgets are fixed:
 * only the times differ between two runs.
 */
import type { VerificationRule } from '../engine.ts';
import { MARKOV_DEFECTS, MARKOV_SHARED, type MarkovDefect, markovSource } from '../engines/markov.ts';
import { runGate } from '../gate/gate.ts';
import type { Check, GateResult } from '../gate/result.ts';
import type { Defect } from '../oracle/defects.ts';
import { EDGE_VECTORS, WRONG_COMPARISONS, wrongEdges } from '../oracle/edges.ts';
import { enumerate, LAW_TOLERANCE } from '../oracle/enumerate.ts';
import type { Fixture } from '../oracle/fixture.ts';
import { type DefectRow, invisible, judgeDefect } from '../oracle/judge.ts';
import { hasPenalties } from '../oracle/rows.ts';
import { STRICT } from '../oracle/source.ts';
import type { CleanRow, Finding, Layer } from './schema.ts';

/** What a layer says of a defect: not applicable (null), or a finding, or that it looked and saw nothing. */
export type Look = Finding | 'nothing seen' | null;

export const RULES: readonly VerificationRule[] = ['match', 'reject', 'coupled'];
const GATE_SEED = '1';
const CHAIN = { weights: '5', vocabSize: 6, blockSize: 4 } as const;

/** Paths through rounds plus cells of the law: what enumeration costs, up to a factor. */
function cost({ vocab, order, block, tokens, decoding }: Fixture): number {
  const states = hasPenalties(decoding) ? vocab ** Math.max(tokens - 1, order) : vocab ** order;
  return states * vocab ** block + vocab ** tokens;
}

export function cheapestFirst(fixtures: readonly Fixture[]): Fixture[] {
  return [...fixtures].sort((a, b) => cost(a) - cost(b) || (a.name < b.name ? -1 : 1));
}

export function lookAtEdges({ id }: Defect): Look {
  const comparisons = WRONG_COMPARISONS[id];
  if (comparisons === undefined) return null;
  const wrong = wrongEdges(comparisons);
  if (wrong.length === 0) return 'nothing seen';
  return {
    layer: 'edge vectors',
    where: 'decisions at the edges of a uniform',
    measure: `${wrong.length} of ${EDGE_VECTORS.length} vectors wrong`,
    distance: null,
    n: EDGE_VECTORS.length,
    of: 'vectors',
  };
}

export function lookAtLaw(defect: Defect, fixtures: readonly Fixture[]): Look {
  return firstSeen(defect, fixtures, defect.exact);
}

export function lookAtSessions(defect: Defect, fixtures: readonly Fixture[]): Look {
  // A defect of the comparisons has measure zero: sessions could be drawn for years.
  if (WRONG_COMPARISONS[defect.id] !== undefined) return null;
  return firstSeen(
    defect,
    fixtures,
    defect.rules.filter((rule) => !defect.exact.includes(rule)),
  );
}

function firstSeen(defect: Defect, fixtures: readonly Fixture[], rules: readonly VerificationRule[]): Look {
  let looked = false;
  for (const fixture of fixtures) {
    for (const rule of rules) {
      if (invisible(defect, fixture, rule) !== null) continue;
      const row = judgeDefect(defect, fixture, rule);
      looked = true;
      const found = findingOf(row, `${fixture.name}, ${rule}`);
      if (found !== null) return found;
    }
  }
  return looked ? 'nothing seen' : null;
}

function findingOf(row: DefectRow, where: string): Finding | null {
  if (row.state === 'invisible' || row.state === 'edge' || !row.seen) return null;
  if (row.state === 'enumerated') {
    const { distance, offSupport } = row;
    const outside = offSupport > 0 ? `, ${offSupport.toExponential(2)} of it off support` : '';
    const measure = `distance ${distance.toExponential(2)}${outside}`;
    return { layer: 'exact enumeration', where, measure, distance, n: null, of: null };
  }
  const { distance, logE, sessions, disagreement } = row;
  const measure =
    disagreement === null
      ? `distance ${distance.toFixed(4)}, e-value 10^${(logE / Math.LN10).toFixed(1)}`
      : `other tokens in ${disagreement.toFixed(4)} of the sessions`;
  const law = disagreement === null ? distance : null;
  return { layer: 'seeded simulation', where, measure, distance: law, n: sessions, of: 'sessions' };
}

/**
 * A lossless but slow control: kept by the law on every fixture that can show it, and seen by the acceptance on at least
 * one. Without a finding the control fails, for the reason given.
 */
export function lookAtControl(
  defect: Defect,
  fixtures: readonly Fixture[],
): { readonly found: Finding; readonly reason: null } | { readonly found: null; readonly reason: string } {
  const fails = (reason: string) => ({ found: null, reason }) as const;
  let largest = 0;
  let laws = 0;
  let seen: { readonly where: string; readonly raw: number; readonly correct: number } | null = null;
  for (const fixture of fixtures) {
    for (const rule of defect.exact) {
      if (invisible(defect, fixture, rule) !== null) continue;
      const row = judgeDefect(defect, fixture, rule);
      if (row.state !== 'enumerated') continue;
      laws += 1;
      if (row.distance > LAW_TOLERANCE) {
        return fails(`killed by the law on ${fixture.name}, ${rule}: distance ${row.distance.toExponential(2)}`);
      }
      largest = Math.max(largest, row.distance);
      const correct = enumerate(fixture, rule).acceptance;
      if (seen === null && row.seen && row.acceptance !== null && correct !== null) {
        seen = { where: `${fixture.name}, ${rule}`, raw: row.acceptance.raw, correct: correct.raw };
      }
    }
  }
  if (laws === 0) return fails('nothing here can show it');
  if (seen === null) return fails(`not seen by the acceptance in ${laws} exact laws`);
  const measure =
    `law kept in ${laws} of ${laws} (largest distance ${largest.toExponential(2)}), ` +
    `acceptance length ${seen.raw.toFixed(3)} instead of ${seen.correct.toFixed(3)}`;
  const { where } = seen;
  const found: Finding = { layer: 'exact enumeration', where, measure, distance: largest, n: null, of: null };
  return { found, reason: null };
}

const ON_CHAIN: readonly string[] = [...MARKOV_DEFECTS, ...MARKOV_SHARED];

export const isOnChain = (id: string): id is MarkovDefect => ON_CHAIN.includes(id);

/** The whole pull-request gate, budget and all; only its clock is taken away, so that n does not depend on the machine. */
function gateOn(defect: MarkovDefect | null): Promise<GateResult> {
  return runGate({
    source: markovSource(defect === null ? CHAIN : { ...CHAIN, defect }),
    baseline: null,
    gate: 'pr',
    budget: { lawSeconds: 3_600 },
    prompts: null,
    seed: GATE_SEED,
    stepMs: 60_000,
    rowTolerance: 1e-6,
    record: null,
    signal: new AbortController().signal,
    progress: () => {},
  });
}

const refuting = (check: Check): boolean => check.outcome === 'refuted' || check.outcome === 'internally inconsistent';

export async function lookAtGate(id: string): Promise<Look> {
  if (!isOnChain(id)) return null;
  const refuted = (await gateOn(id)).checks.filter(refuting);
  const [first] = refuted;
  if (first === undefined) return 'nothing seen';
  const measure = `refuted by ${refuted.map((check) => check.id).join(', ')}`;
  return { layer: 'pr gate', where: `Markov engine, ${first.id}`, measure, distance: null, n: first.n, of: first.of };
}

/** The sampler without a defect, through the layers: what makes a kill mean something. */
export async function lookAtClean(fixtures: readonly Fixture[], layers: readonly Layer[]): Promise<CleanRow[]> {
  const rows: CleanRow[] = [];
  for (const layer of layers) {
    const started = performance.now();
    const { holds, measure } = await cleanOf(layer, fixtures);
    rows.push({ layer, holds, measure, seconds: secondsSince(started) });
  }
  return rows;
}

async function cleanOf(layer: Layer, fixtures: readonly Fixture[]): Promise<Pick<CleanRow, 'holds' | 'measure'>> {
  if (layer === 'edge vectors') {
    const wrong = wrongEdges(STRICT).length;
    return { holds: wrong === 0, measure: `${wrong} of ${EDGE_VECTORS.length} vectors wrong` };
  }
  if (layer === 'pr gate') {
    const { verdict, tokens } = await gateOn(null);
    return { holds: verdict === 'passed', measure: `${verdict} after ${tokens} tokens` };
  }
  const distances = fixtures.flatMap((fixture) => RULES.map((rule) => enumerate(fixture, rule).distance));
  const largest = Math.max(0, ...distances);
  return {
    holds: largest <= LAW_TOLERANCE,
    measure: `largest distance ${largest.toExponential(2)} of ${distances.length} laws`,
  };
}

export const secondsSince = (started: number): number => Math.round(performance.now() - started) / 1000;
