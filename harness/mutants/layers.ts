/**
 * The layers a defect passes through, all of those that apply: edge vectors, the exact law on each fixture, seeded sessions where
 * there is no exact law, the C++ decode loop with the defect compiled in, trained weights, and the whole pull-request gate on every
 * engine that carries the defect and does not say so. Seeds and budgets are fixed: only the times differ between two runs.
 */
import type { Engine, VerificationRule } from '../engine.ts';
import { MARKOV_DEFECTS, MARKOV_SHARED, type MarkovDefect, markovSource } from '../engines/markov.ts';
import type { EngineSource } from '../engines/plugin.ts';
import type { Budget } from '../gate/budget.ts';
import { runGate } from '../gate/gate.ts';
import { Observer } from '../gate/observer.ts';
import type { Check, GateResult } from '../gate/result.ts';
import type { Defect } from '../oracle/defects.ts';
import { EDGE_VECTORS, WRONG_COMPARISONS, wrongEdges } from '../oracle/edges.ts';
import { enumerate, LAW_TOLERANCE } from '../oracle/enumerate.ts';
import type { Fixture } from '../oracle/fixture.ts';
import { type DefectRow, invisible, judgeDefect } from '../oracle/judge.ts';
import { hasPenalties } from '../oracle/rows.ts';
import { STRICT } from '../oracle/source.ts';
import { toyOf } from '../oracle/toy.ts';
import { type DefectBuild, type Stated, type TrainedModel, undeclared } from './build.ts';
import { METRICS, type Metric } from './doubles.ts';
import { judgeEdges, judgeLoop, type Sight } from './loop.ts';
import { oracleSource } from './oracle-engine.ts';
import { type CleanRow, isGate, type Layer, type Look } from './schema.ts';

/** What a layer says of a defect: not applicable (null), or what it saw. */
export type Found = Omit<Look, 'layer' | 'seconds'> | null;

export const RULES: readonly VerificationRule[] = ['match', 'reject', 'coupled'];
const GATE_SEED = '1';
const GATE_CONTEXT = 512;
const CHAIN = { weights: '5', vocabSize: 6, blockSize: 4 } as const;
/** Trained weights are dear: two of the three rules, with the tokens that `verify` gives each. */
const TRAINED: readonly (readonly [VerificationRule, Partial<Budget>])[] = [
  ['match', { wideLawTokens: 2_400 }],
  ['reject', { wideLawTokens: 8_000 }],
];
/** Fixture and rule pairs that a decode loop is judged on, at most. */
const MOST_PAIRS = 4;
const MOST_CLEAN_PAIRS = 12;
const METRIC_SESSIONS = 50;

/** Paths through rounds plus cells of the law: what enumeration costs, up to a factor. */
function cost({ vocab, order, block, tokens, decoding }: Fixture): number {
  const states = hasPenalties(decoding) ? vocab ** Math.max(tokens - 1, order) : vocab ** order;
  return states * vocab ** block + vocab ** tokens;
}

export function cheapestFirst(fixtures: readonly Fixture[]): Fixture[] {
  return [...fixtures].sort((a, b) => cost(a) - cost(b) || (a.name < b.name ? -1 : 1));
}

const found = (sight: Sight, where: string): NonNullable<Found> => {
  const { killed, measure, distance, n, of } = sight;
  return { outcome: killed ? 'killed' : 'not seen', where, measure, distance, n, of };
};

export function lookAtEdges({ id }: Defect): Found {
  const comparisons = WRONG_COMPARISONS[id];
  if (comparisons === undefined) return null;
  const wrong = wrongEdges(comparisons);
  return {
    outcome: wrong.length > 0 ? 'killed' : 'not seen',
    where: 'decisions at the edges of a uniform',
    measure: `${wrong.length} of ${EDGE_VECTORS.length} vectors wrong`,
    distance: null,
    n: EDGE_VECTORS.length,
    of: 'vectors',
  };
}

export function lookAtLaw(defect: Defect, fixtures: readonly Fixture[]): Found {
  return firstSeen(defect, fixtures, defect.exact);
}

export function lookAtSessions(defect: Defect, fixtures: readonly Fixture[]): Found {
  // A defect of the comparisons has measure zero: sessions could be drawn for years.
  if (WRONG_COMPARISONS[defect.id] !== undefined) return null;
  const rules = defect.rules.filter((rule) => !defect.exact.includes(rule));
  return firstSeen(defect, fixtures, rules);
}

function firstSeen(defect: Defect, fixtures: readonly Fixture[], rules: readonly VerificationRule[]): Found {
  let looked = 0;
  for (const fixture of fixtures) {
    for (const rule of rules) {
      if (invisible(defect, fixture, rule) !== null) continue;
      const row = judgeDefect(defect, fixture, rule);
      looked += 1;
      const seen = findingOf(row, `${fixture.name}, ${rule}`);
      if (seen !== null) return seen;
    }
  }
  if (looked === 0) return null;
  const measure = 'the law is that of plain decoding';
  return { outcome: 'not seen', where: `${looked} fixtures and rules`, measure, distance: null, n: null, of: null };
}

function findingOf(row: DefectRow, where: string): Found {
  if (row.state === 'invisible' || row.state === 'edge' || !row.seen) return null;
  if (row.state === 'enumerated') {
    const { distance, offSupport } = row;
    const outside = offSupport > 0 ? `, ${offSupport.toExponential(2)} of it off support` : '';
    const measure = `distance ${distance.toExponential(2)}${outside}`;
    return { outcome: 'killed', where, measure, distance, n: null, of: null };
  }
  const { distance, logE, sessions, disagreement } = row;
  const measure =
    disagreement === null
      ? `distance ${distance.toFixed(4)}, e-value 10^${(logE / Math.LN10).toFixed(1)}`
      : `other tokens in ${disagreement.toFixed(4)} of the sessions`;
  const law = disagreement === null ? distance : null;
  return { outcome: 'killed', where, measure, distance: law, n: sessions, of: 'sessions' };
}

/**
 * A lossless but slow control: kept by the law on every fixture that can show it, and seen by the acceptance on at least
 * one. Where that does not hold, `fails` says why.
 */
export function lookAtControl(
  defect: Defect,
  fixtures: readonly Fixture[],
): { readonly look: NonNullable<Found>; readonly fails: string | null } {
  let largest = 0;
  let laws = 0;
  let seen: { readonly where: string; readonly raw: number; readonly correct: number } | null = null;
  const judged = (measure: string, where: string, fails: string | null) => ({
    look: {
      outcome: fails === null ? ('killed' as const) : ('not seen' as const),
      where,
      measure,
      distance: largest,
      n: null,
      of: null,
    },
    fails,
  });
  for (const fixture of fixtures) {
    for (const rule of defect.exact) {
      if (invisible(defect, fixture, rule) !== null) continue;
      const row = judgeDefect(defect, fixture, rule);
      if (row.state !== 'enumerated') continue;
      laws += 1;
      largest = Math.max(largest, row.distance);
      const where = `${fixture.name}, ${rule}`;
      if (row.distance > LAW_TOLERANCE) {
        const text = `killed by the law on ${where}: distance ${row.distance.toExponential(2)}`;
        return judged(text, where, text);
      }
      const correct = enumerate(fixture, rule).acceptance;
      if (seen === null && row.seen && row.acceptance !== null && correct !== null) {
        seen = { where, raw: row.acceptance.raw, correct: correct.raw };
      }
    }
  }
  if (seen === null) {
    const text = laws === 0 ? 'nothing here can show it' : `not seen by the acceptance in ${laws} exact laws`;
    return judged(text, `${laws} exact laws`, text);
  }
  const measure =
    `law kept in ${laws} of ${laws} (largest distance ${largest.toExponential(2)}), ` +
    `acceptance length ${seen.raw.toFixed(3)} instead of ${seen.correct.toFixed(3)}`;
  return judged(measure, seen.where, null);
}

/** Pairs on which the loop can show a defect, or a correct loop could be accused: sampled second-order rows first, which show most. */
function pairsOf(defect: Defect | null, fixtures: readonly Fixture[], most: number): [Fixture, VerificationRule][] {
  const weight = ({ order, decoding }: Fixture): number => (decoding.temperature > 0 ? 2 : 0) + (order >= 2 ? 1 : 0);
  const toys = fixtures.filter((fixture) => !hasPenalties(fixture.decoding)).sort((a, b) => weight(b) - weight(a));
  const pairs = toys.flatMap((fixture) =>
    (defect?.rules ?? RULES)
      .filter((rule) => defect === null || invisible(defect, fixture, rule) === null)
      .map((rule): [Fixture, VerificationRule] => [fixture, rule]),
  );
  return pairs.slice(0, most);
}

/** Every judge of the loop, each to the first fixture and rule it sees the defect on. */
export async function lookAtLoop(
  build: DefectBuild,
  id: string | null,
  defect: Defect | null,
  fixtures: readonly Fixture[],
): Promise<[Layer, NonNullable<Found>][]> {
  const looks = new Map<Layer, NonNullable<Found>>();
  if (id === null || WRONG_COMPARISONS[id] !== undefined) {
    looks.set('loop: edge vectors', found(await judgeEdges(build, id), 'two tapes'));
  }
  const most = id === null ? MOST_CLEAN_PAIRS : MOST_PAIRS;
  for (const [fixture, rule] of pairsOf(defect, fixtures, most)) {
    for (const [layer, sight] of await judgeLoop(build, fixture, rule, id)) {
      if (looks.get(layer)?.outcome !== 'killed') looks.set(layer, found(sight, `toy ${fixture.name}, ${rule}`));
    }
  }
  return [...looks];
}

const ON_CHAIN: readonly string[] = [...MARKOV_DEFECTS, ...MARKOV_SHARED];

export const isOnChain = (id: string): id is MarkovDefect => ON_CHAIN.includes(id);

/** The whole pull-request gate, budget and all; only its clock is taken away, so that n does not depend on the machine. */
export function gateOn(
  source: EngineSource,
  budget: Partial<Budget> = {},
  stated: Partial<Stated> = {},
): Promise<GateResult> {
  return runGate({
    source,
    baseline: null,
    gate: 'pr',
    budget: { ...budget, lawSeconds: 3_600 },
    prompts: null,
    seed: GATE_SEED,
    stepMs: 60_000,
    rowTolerance: 1e-6,
    record: null,
    signal: new AbortController().signal,
    progress: () => {},
    ...stated,
  });
}

const refuting = (check: Check): boolean => check.outcome === 'refuted' || check.outcome === 'internally inconsistent';

function refutation({ checks }: GateResult, name: string): Found {
  const refuted = checks.filter(refuting);
  const [first] = refuted;
  if (first === undefined) return null;
  const measure = `refuted by ${refuted.map((check) => check.id).join(', ')}`;
  return { outcome: 'killed', where: `${name}, ${first.id}`, measure, distance: null, n: first.n, of: first.of };
}

export async function lookThroughGate(source: EngineSource, name: string): Promise<NonNullable<Found>> {
  const result = await gateOn(source);
  const measure = `${result.verdict} after ${result.tokens} tokens`;
  const passed = { outcome: 'not seen' as const, where: name, measure, distance: null, n: result.tokens, of: 'tokens' };
  return refutation(result, name) ?? passed;
}

export function chainSource(defect: MarkovDefect | null): EngineSource {
  return markovSource(defect === null ? CHAIN : { ...CHAIN, defect });
}

export const wrapped = (source: EngineSource, wrap: (engine: Engine) => Engine): EngineSource => ({
  name: source.name,
  open: async (options) => wrap(await source.open(options)),
  close: () => source.close(),
});

/** Rows of a fixture for the gate, with the penalties or the bias that a defect is about. */
export function gateFixture(fixture: Fixture, defect: Defect | null): Fixture {
  const needs = defect?.needs ?? [];
  return {
    ...fixture,
    decoding: {
      ...fixture.decoding,
      repetitionPenalty: needs.includes('penalties') ? 1.5 : 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      logitBias: needs.includes('a logit bias') ? [{ token: 0, bias: -1.5 }] : [],
    },
  };
}

export const gateRule = (defect: Defect | null): VerificationRule =>
  defect === null || defect.rules.includes('reject') ? 'reject' : defect.rules[0]!;

export function oracleThroughGate(fixture: Fixture, defect: Defect | null, rule = gateRule(defect)) {
  return lookThroughGate(oracleSource(gateFixture(fixture, defect), rule, defect), `oracle, ${rule}`);
}

export function loopThroughGate(build: DefectBuild, fixture: Fixture, id: string | null, rule: VerificationRule) {
  const { toy } = toyOf(gateFixture(fixture, null));
  const source: EngineSource = {
    name: build.name,
    open: async ({ blockSize }) =>
      undeclared(
        await build.openToy(
          { ...toy, maxContext: GATE_CONTEXT },
          { rule, defect: id, ...(blockSize === undefined ? {} : { blockSize }) },
        ),
      ),
    close: async () => {},
  };
  return lookThroughGate(source, `${build.name}, ${rule}`);
}

/** The gate on trained weights, with what was stated of them beforehand, rule by rule to the first that refutes. */
export async function trainedThroughGate(
  model: TrainedModel,
  network: string | null,
  loop: string | null,
): Promise<NonNullable<Found>> {
  let tokens = 0;
  const verdicts: string[] = [];
  for (const [rule, budget] of TRAINED) {
    const source = wrapped(await model.open(rule, network, loop), undeclared);
    try {
      const result = await gateOn(source, budget, model.stated);
      tokens += result.tokens;
      verdicts.push(`${rule} ${result.verdict}`);
      const look = refutation(result, `${model.name}, ${rule}`);
      if (look !== null) return look;
    } finally {
      await source.close();
    }
  }
  const passed = verdicts.every((text) => text.endsWith(' passed'));
  const measure = `${passed ? 'passed' : 'inconclusive'}: ${verdicts.join(', ')}`;
  return { outcome: 'not seen', where: model.name, measure, distance: null, n: tokens, of: 'tokens' };
}

/** A figure as the defect computes it beside a recount, session by session, to the first that differs. */
export async function lookAtMetric(fixture: Fixture, metric: Metric): Promise<NonNullable<Found>> {
  const source = oracleSource(gateFixture(fixture, null), 'reject', null);
  const engine = await source.open({});
  const where = `sessions of the oracle on ${fixture.name}, a stop id`;
  for (let i = 0; i < METRIC_SESSIONS; i++) {
    const decoding = { seed: String(i + 1), temperature: 1, topP: 1, topK: 0, maxTokens: 32, stopIds: [0] };
    const { rounds } = await new Observer(60_000).run(
      engine,
      { name: `${i}`, ids: fixture.prompt },
      decoding,
      'metric',
    );
    const [claimed, recounted] = [metric.claimed(rounds), metric.recounted(rounds)];
    // Sessions that end in their prefill have no verify step.
    if (Number.isNaN(claimed) || Number.isNaN(recounted) || Math.abs(claimed - recounted) < 1e-9) continue;
    const measure = `${metric.name}: ${Number(claimed.toFixed(4))} claimed, ${Number(recounted.toFixed(4))} in the trace`;
    return { outcome: 'killed', where, measure, distance: null, n: i + 1, of: 'sessions' };
  }
  const measure = `${metric.name}: as recounted`;
  return { outcome: 'not seen', where, measure, distance: null, n: METRIC_SESSIONS, of: 'sessions' };
}

export const metricOf = (id: string): Metric | undefined => METRICS[id];

/** What has no defect, through a layer of the oracle: what makes a kill mean something. */
export function cleanOracle(layer: Layer, fixtures: readonly Fixture[]): Pick<CleanRow, 'holds' | 'measure'> {
  if (layer === 'edge vectors') {
    const wrong = wrongEdges(STRICT).length;
    return { holds: wrong === 0, measure: `${wrong} of ${EDGE_VECTORS.length} vectors wrong` };
  }
  const distances = fixtures.flatMap((fixture) => RULES.map((rule) => enumerate(fixture, rule).distance));
  const largest = Math.max(0, ...distances);
  return {
    holds: largest <= LAW_TOLERANCE,
    measure: `largest distance ${largest.toExponential(2)} of ${distances.length} laws`,
  };
}

export const cleanOf = (layer: Layer, look: NonNullable<Found>): Pick<CleanRow, 'holds' | 'measure'> => ({
  // A gate that is inconclusive passes nothing.
  holds: look.outcome === 'not seen' && (!isGate(layer) || look.measure.startsWith('passed')),
  measure: `${look.measure} (${look.where})`,
});

export const secondsSince = (started: number): number => Math.round(performance.now() - started) / 1000;
