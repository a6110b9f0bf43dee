/**
 * Does speculation change what is emitted? Equality where the rule promises it (greedy always, `match` and `coupled` at
 * any temperature), the law where it does not (`reject`). The law is tested against the rows of the rounds, against rows
 * put together from score(), or between two samples, whichever the engine allows; the check says which.
 */
import { digestOf } from '../bundle/digests.ts';
import { type Decoding, type Engine, InputError, type Round } from '../engine.ts';
import { eBenjaminiHochberg } from '../stats/eprocess.ts';
import { holm } from '../stats/holm.ts';
import { Random } from '../stats/philox.ts';
import { upperBoundWithoutEvent } from '../stats/proportion.ts';
import type { Detectable } from '../verify/categorical.ts';
import { comparability } from '../verify/comparability.ts';
import { firstDifference } from '../verify/equality.ts';
import { filterRow } from '../verify/filters.ts';
import { probabilities, RoundLaws, rowsOf } from '../verify/round-laws.ts';
import { TwoSampleProcess } from '../verify/two-sample-process.ts';
import type { Budget } from './budget.ts';
import type { GatePrompt, Observed, Observer } from './observer.ts';
import type { Check } from './result.ts';

const CONFIDENCE = 0.999;
/** Vocabularies up to here can be scored entry by entry. */
const SCORED_VOCABULARY = 64;
/** Sessions in flight: an engine with threads of its own may use them. */
const LANES = 2;
/** False discovery rate of the list of prompts; the list explains, it does not decide. */
const CELL_RATE = 1e-3;
/** Laws whose e-values make the family, and the name of each in the evidence record. */
const FAMILY = ['emission', 'acceptance', 'drafts'] as const;

export interface LosslessInput {
  readonly engine: Engine;
  /** The same weights without speculation, or the baseline the caller named. */
  readonly plain: Engine;
  readonly prompts: readonly GatePrompt[];
  readonly observer: Observer;
  readonly decoding: (over: Partial<Decoding>) => Decoding;
  readonly budget: Budget;
  readonly seed: string;
  /** Largest total variation distance between a row of a round and the plain engine's row that is no finding. */
  readonly rowTolerance: number;
  readonly signal: AbortSignal;
  readonly now: () => number;
  /** Earnings of earlier runs of this build, by process and component. */
  readonly earlier: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

export interface LosslessOutcome {
  readonly checks: readonly Check[];
  readonly earnings: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

export async function checkLosslessness(input: LosslessInput): Promise<LosslessOutcome> {
  const pair = comparability(
    input.engine.card as Parameters<typeof comparability>[0],
    input.plain.card as Parameters<typeof comparability>[0],
  );
  if (pair.kind === 'fidelity') {
    const evidence = `The two engines are a fidelity pair, not one of speculation on and off: ${pair.because.join('; ')}.`;
    return {
      checks: [check({ id: 'losslessness', question: 'Does speculation change the output?', evidence, of: 'pairs' })],
      earnings: {},
    };
  }
  const checks: Check[] = [await equality(input, 0, 1)];
  const exact = input.engine.card.rule !== 'reject' || input.engine.card.blockSize === 1;
  for (const [temperature, topP] of exact
    ? ([
        [1, 1],
        [0.7, 0.9],
      ] as const)
    : []) {
    if (!input.observer.broken) checks.push(await equality(input, temperature, topP));
  }
  if (input.observer.broken) return { checks, earnings: {} };
  const law = await checkLaw(input);
  return { checks: [...checks, ...law.checks], earnings: law.earnings };
}

type Sketch = Pick<Check, 'id' | 'question' | 'evidence' | 'of'> & Partial<Check>;

function check(sketch: Sketch): Check {
  return { outcome: 'not testable here', wouldHaveCaught: null, n: 0, logE: null, decisive: true, ...sketch };
}

async function equality(input: LosslessInput, temperature: number, topP: number): Promise<Check> {
  const { engine, plain, observer, budget } = input;
  const name = temperature === 0 ? 'greedy' : `temperature ${temperature}${topP < 1 ? `, top-p ${topP}` : ''}`;
  const base = {
    id: temperature === 0 ? 'equality greedy' : `equality ${temperature} ${topP}`,
    question: `Does ${name} decoding emit the very tokens that plain decoding emits?`,
    of: 'prompts',
  };
  const differences: string[] = [];
  let tokens = 0;
  let n = 0;
  const prompts = Array.from({ length: budget.equalityPrompts }, (_, i) => input.prompts[i % input.prompts.length]!);
  for (const prompt of temperature === 0 ? [...new Set(prompts)] : prompts) {
    if (observer.broken || input.signal.aborted) break;
    const decoding = input.decoding({ temperature, topP, maxTokens: budget.equalityTokens });
    let pair: [Observed, Observed];
    try {
      pair = [
        await observer.run(plain, prompt, decoding, 'plain'),
        await observer.run(engine, prompt, decoding, 'speculative'),
      ];
    } catch (error) {
      if ((error as Error).name !== 'InputError') throw error;
      return check({ ...base, evidence: `The engine refuses this decoding: ${(error as Error).message}.` });
    }
    const [a, b] = pair;
    const comparable = a.fault === null && b.fault === null ? undefined : Math.min(a.tokens.length, b.tokens.length);
    const at = firstDifference(a.tokens.slice(0, comparable), b.tokens.slice(0, comparable));
    if (at !== null) {
      differences.push(
        `prompt ${prompt.name}, seed ${decoding.seed}, output ${at}: plain gives ${a.tokens[at] ?? 'the end'}, speculation ${b.tokens[at] ?? 'the end'}`,
      );
    } else if (comparable === undefined) {
      n += 1;
      tokens += a.tokens.length;
    }
  }
  if (differences.length > 0) {
    return check({
      ...base,
      n,
      outcome: 'refuted',
      evidence: `${differences.length} differ; first: ${differences[0]}.`,
    });
  }
  if (n === 0) return check({ ...base, outcome: 'inconclusive', evidence: 'No pair of sessions could be compared.' });
  return check({
    ...base,
    n,
    outcome: 'consistent',
    evidence: `${tokens} tokens of ${n} sessions each way, no difference.`,
    wouldHaveCaught: `a fault that changes the output of at least ${percent(upperBoundWithoutEvent(n, CONFIDENCE))} of sessions like these, with ${percent(CONFIDENCE)} confidence`,
  });
}

type RowSource = 'rounds' | 'score' | 'two samples';

interface WithRows {
  readonly round: Round;
  readonly p: readonly Float64Array[];
  readonly q: readonly Float64Array[];
}

interface Sampled {
  readonly prompt: GatePrompt;
  readonly decoding: Decoding;
  readonly tokens: readonly number[];
  readonly rounds: readonly WithRows[];
}

async function checkLaw(input: LosslessInput): Promise<LosslessOutcome> {
  const { engine, observer, budget, signal } = input;
  const deadline = input.now() + budget.lawSeconds * 1000;
  const probe = await observer.run(engine, input.prompts[0]!, input.decoding({ maxTokens: 4 }), 'probe');
  if (probe.fault !== null) return { checks: [], earnings: {} };
  const source: RowSource = probe.rounds.every((round) => round.replay !== undefined)
    ? 'rounds'
    : (await scores(input, probe))
      ? 'score'
      : 'two samples';
  if (source === 'two samples') return twoSample(input, deadline);

  const target = source === 'rounds' ? budget.lawTokens : budget.scoredTokens;
  const laws = new RoundLaws({
    vocabSize: engine.card.vocabSize,
    rule: engine.card.rule,
    seed: input.seed,
    draftsKnown: source === 'rounds',
    powerEvery: Math.max(1, Math.floor(target / 200)),
  });
  for (const name of FAMILY) laws[name].mixture.resume(input.earlier[name] ?? {});
  const threshold = Math.log(FAMILY.length / budget.alpha);
  const kept: Sampled[] = [];
  let broken: string | null = null;
  let foreign = false;
  const refused = new Set<number>();

  for (let i = 0; laws.emission.n < target && !laws.reached(threshold) && broken === null; i += LANES) {
    if (signal.aborted || observer.broken || foreign || input.now() > deadline) break;
    const lanes = Array.from({ length: LANES }, (_, lane) => {
      const prompt = input.prompts[(i + lane) % input.prompts.length]!;
      // Every third session has filters: what they cut must never be emitted.
      const filtered = source === 'rounds' && (i + lane) % 3 === 2 && refused.size === 0;
      const over = filtered ? { temperature: 0.7, topP: 0.9 } : {};
      return { prompt, decoding: input.decoding({ maxTokens: budget.lawSessionTokens, ...over }) };
    });
    const runs = await Promise.all(
      lanes.map(async ({ prompt, decoding }, lane) => {
        try {
          return await observer.run(engine, prompt, decoding, 'law');
        } catch (error) {
          if ((error as Error).name !== 'InputError' || decoding.topP === 1) throw error;
          refused.add(i + lane);
          return null;
        }
      }),
    );
    for (const [lane, run] of runs.entries()) {
      if (run === null || broken !== null) continue;
      const { prompt, decoding } = lanes[lane]!;
      const rounds: WithRows[] = [];
      for (const [index, round] of run.rounds.entries()) {
        const rows =
          source === 'rounds' ? rowsOf(round, engine.card.vocabSize) : await scoredRows(input, prompt, run, index);
        if (rows === null || typeof rows === 'string') {
          broken = `${run.session}, round ${index}: ${rows ?? 'the round carries no rows, earlier ones did'}`;
          break;
        }
        const outside = [...round.committed, ...round.drafted].some((id) => id >= engine.card.vocabSize);
        if (outside) {
          foreign = true; // the books have it; more of the same proves nothing
          break;
        }
        rounds.push({ round, ...rows });
      }
      if (broken !== null) break;
      laws.session(prompt.name, prompt.ids, decoding, rounds);
      if (rounds.length > 0 && kept.length < budget.rowPositions)
        kept.push({ prompt, decoding, tokens: rounds.flatMap(({ round }) => [...round.committed]), rounds });
    }
  }
  if (broken !== null) {
    const question = 'Are the rows that the rounds carry probability rows?';
    const evidence = `${broken}.`;
    return {
      checks: [check({ id: 'rows', question, outcome: 'refuted', evidence, n: 1, of: 'rounds' })],
      earnings: {},
    };
  }
  const confirmed = source === 'rounds' ? await checkRows(input, kept) : null;
  const checks = lawChecks(input, laws, source, confirmed);
  return {
    checks: confirmed === null ? checks : [confirmed, ...checks],
    earnings: Object.fromEntries(FAMILY.map((name) => [name, laws[name].mixture.earnings()])),
  };
}

/** Whether full rows can be had from the plain engine's score(). */
async function scores(input: LosslessInput, probe: Observed): Promise<boolean> {
  if (input.engine.card.vocabSize > SCORED_VOCABULARY) return false;
  const scored = await input.observer.mayRefuse('score', 'score', () =>
    input.plain.score(input.prompts[0]!.ids, probe.tokens.slice(0, 1)),
  );
  return scored !== null && scored.logprobs.length === 1 && Number.isFinite(scored.logprobs[0]);
}

async function scoredRows(
  input: LosslessInput,
  prompt: GatePrompt,
  run: Observed,
  index: number,
): Promise<{ readonly p: Float64Array[]; readonly q: Float64Array[] } | string> {
  const before = run.rounds.slice(0, index).flatMap((round) => [...round.committed]);
  const p: Float64Array[] = [];
  for (let i = 0; i < run.rounds[index]!.committed.length; i++) {
    const prefix = [...prompt.ids, ...before, ...run.rounds[index]!.committed.slice(0, i)];
    const row = new Float64Array(input.plain.card.vocabSize);
    for (let token = 0; token < row.length; token++) {
      const scored = await input.observer.ask(run.session, 'score', () => input.plain.score(prefix, [token]));
      if (scored === null) return 'score() failed';
      row[token] = scored.logprobs[0] ?? Number.NaN;
    }
    const sum = row.reduce((total, value) => total + Math.exp(value), 0);
    if (!(Math.abs(sum - 1) < 1e-3)) return `score() adds up to ${sum} over the vocabulary`;
    p.push(probabilities(row));
  }
  return { p, q: [] };
}

/** The rows of the rounds against rows of the plain engine after the same text: bets on wrong rows prove nothing. */
async function checkRows(input: LosslessInput, kept: readonly Sampled[]): Promise<Check> {
  const { plain, observer, budget, rowTolerance } = input;
  const random = new Random(input.seed, 43);
  const base = {
    id: 'rows',
    question: 'Are the target rows of the rounds those of the plain engine after the same tokens?',
    of: 'positions',
  };
  let n = 0;
  let largest = 0;
  let worst = '';
  const note = (distance: number, where: string): void => {
    n += 1;
    if (distance >= largest) [largest, worst] = [distance, where];
  };
  let rowsFromPlain = 0;
  let filteredRows = 0;
  for (let i = 0; i < Math.min(budget.rowPositions, 64 * kept.length) && !observer.broken; i++) {
    if (input.signal.aborted) break;
    const { prompt, decoding, tokens, rounds } = kept[i % kept.length]!;
    const rows = rounds.flatMap(({ round, p }) => round.committed.map((_, at) => p[at]!));
    const at = random.below(rows.length);
    const text = { name: `${prompt.name}+${at}`, ids: [...prompt.ids, ...tokens.slice(0, at)] };
    const again = await observer.run(plain, text, { ...decoding, maxTokens: 1 }, 'row');
    const first = again.rounds[0] === undefined ? null : rowsOf(again.rounds[0], plain.card.vocabSize);
    if (first === null || typeof first === 'string') break;
    rowsFromPlain += 1;
    const { temperature, topP, topK } = decoding;
    if (temperature !== 1 || topP !== 1 || topK !== 0) {
      // Both modes may mistake the filters in the same way; the row without them cannot.
      const bare = await observer.run(
        plain,
        text,
        { ...decoding, temperature: 1, topP: 1, topK: 0, maxTokens: 1 },
        'row',
      );
      const source = bare.rounds[0] === undefined ? null : rowsOf(bare.rounds[0], plain.card.vocabSize);
      if (source !== null && typeof source !== 'string') {
        const expected = filterRow(source.p[0]!, temperature, topK, topP);
        if (!expected.onEdge) {
          filteredRows += 1;
          note(
            distance(rows[at]!, expected.row),
            `filters at temperature ${temperature}, top-p ${topP}, prompt ${prompt.name}, output ${at}, seed ${decoding.seed}`,
          );
        }
      }
    }
    note(distance(rows[at]!, first.p[0]!), `prompt ${prompt.name}, output ${at}, seed ${decoding.seed}`);
  }
  let scored = 0;
  for (const { prompt, decoding, tokens, rounds } of kept.slice(0, 16)) {
    if (decoding.temperature !== 1 || decoding.topP !== 1 || observer.broken || input.signal.aborted) continue;
    const score = await observer.mayRefuse('score', 'score', () => plain.score(prompt.ids, tokens));
    if (score === null || score.logprobs.length !== tokens.length) break;
    const rows = rounds.flatMap(({ round, p }) => round.committed.map((_, i) => p[i]!));
    tokens.forEach((token, i) => {
      scored += 1;
      const apart = Math.abs(rows[i]![token]! - Math.exp(score.logprobs[i]!));
      note(apart, `prompt ${prompt.name}, output ${i}, seed ${decoding.seed}`);
    });
  }
  if (n === 0) {
    return check({ ...base, evidence: 'The plain engine gives neither rows nor scores to compare with.' });
  }
  const said = `${rowsFromPlain} whole rows, ${filteredRows} rows filtered here and ${scored} scored tokens compared; largest distance ${largest.toExponential(1)} (${worst}), tolerance ${rowTolerance}`;
  if (largest > rowTolerance) {
    return check({
      ...base,
      n,
      outcome: 'refuted',
      evidence: `${said}: the verify step does not compute the plain rows.`,
    });
  }
  return check({
    ...base,
    n,
    outcome: 'consistent',
    evidence: `${said}.`,
    wouldHaveCaught: `rows that are wrong by more than ${rowTolerance} at ${percent(upperBoundWithoutEvent(n, CONFIDENCE))} of positions, with ${percent(CONFIDENCE)} confidence`,
    decisive: false,
  });
}

function distance(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let x = 0; x < a.length; x++) sum += Math.abs(a[x]! - b[x]!);
  return sum / 2;
}

function lawChecks(input: LosslessInput, laws: RoundLaws, source: RowSource, confirmed: Check | null): Check[] {
  const { budget } = input;
  const from = source === 'rounds' ? 'the rows its rounds carry' : "rows put together from the plain engine's scores";
  const questions: Record<(typeof FAMILY)[number], string> = {
    emission: `Are the emitted tokens distributed as the target says (${from})?`,
    acceptance: `Are drafts accepted as rule ${input.engine.card.rule} says?`,
    drafts: 'Are the drafts distributed as the draft rows say?',
  };
  const sups = FAMILY.map((name) => laws[name].mixture.logSup);
  const adjusted = holm(sups.map((sup) => Math.min(1, Math.exp(-sup))));
  const level = budget.alpha / FAMILY.length;
  return FAMILY.map((name, i) => {
    const process = laws[name];
    const of = name === 'emission' ? 'tokens' : name === 'acceptance' ? 'decisions' : 'drafts';
    const base = { id: `law ${name}`, question: questions[name], n: process.n, of, decisive: name === 'emission' };
    const logE = Math.min(sups[i]!, 1e308);
    if (process.n === 0 && input.earlier[name] === undefined) {
      return check({
        ...base,
        decisive: false,
        evidence: `This engine shows nothing to test it by under rule ${input.engine.card.rule}.`,
      });
    }
    const wealth = `e-value ${power10(sups[i]!)} after ${process.n} ${of} (refuted from ${power10(Math.log(1 / budget.alpha))}; ${adjusted[i]!.toPrecision(2)} after Holm over ${FAMILY.length})`;
    const counts =
      name === 'acceptance'
        ? `; ${laws.observedAccepted} of ${laws.decisions} decisions accepted, ${laws.expectedAccepted.toFixed(1)} expected`
        : '';
    if (adjusted[i]! <= budget.alpha) {
      const why = process.mixture.impossible ?? `largest gain by the bet on "${process.mixture.leader()}"`;
      return check({
        ...base,
        outcome: 'refuted',
        logE,
        evidence: `${wealth}${counts}; ${why}${cellsText(laws, name)}.`,
      });
    }
    const effects = process.detectable(level, budget.power).filter((effect) => effect.distance > 0);
    const seen = effects.filter((effect) => effect.share !== null);
    const blind = effects.filter((effect) => effect.share === null && effect.distance > budget.largestBlindDistance);
    const missed = effects.filter((effect) => effect.share === null);
    const survivors =
      missed.length === 0
        ? ''
        : `; missed even in every position: ${missed.map((e) => `${e.family} (distance ${e.distance.toPrecision(2)})`).join('; ')}`;
    const would = seen.length === 0 ? null : `${effectsText(seen)}; with power ${budget.power}${survivors}`;
    const diagnostic =
      name === 'emission' ? `; transform test over the vocabulary, its own budget: ${power10(laws.pit.logSup)}` : '';
    const evidence = `${wealth}${counts}${diagnostic}`;
    const reasons = [
      ...(input.signal.aborted ? ['the run was interrupted'] : []),
      ...(blind.length > 0 ? [`it would have missed: ${blind.map((effect) => effect.family).join(', ')}`] : []),
      ...(would === null ? ['nothing would have been caught with the asked power'] : []),
      ...(confirmed?.outcome === 'not testable here' ? ['nothing confirms the rows it was tested against'] : []),
    ];
    if (reasons.length > 0) {
      return check({
        ...base,
        outcome: 'inconclusive',
        logE,
        evidence: `${evidence}; ${reasons.join('; ')}.`,
        wouldHaveCaught: would,
      });
    }
    return check({ ...base, outcome: 'consistent', logE, evidence: `${evidence}.`, wouldHaveCaught: would });
  });
}

/** The smallest effect of each family, largest distance last; the families missed are in the evidence. */
function effectsText(effects: readonly Detectable[]): string {
  return [...effects]
    .sort((a, b) => a.distance - b.distance)
    .map(
      (e) =>
        `${e.family} in ${percent(e.share === 0.99 ? 1 : e.share!)} of positions (distance ${e.distance.toPrecision(2)})`,
    )
    .join('; ');
}

/** Prompts whose own transform test stands out, false discovery rate CELL_RATE. */
function cellsText(laws: RoundLaws, name: string): string {
  if (name !== 'emission') return '';
  const cells = [...laws.cells];
  const found = eBenjaminiHochberg(
    cells.map(([, cell]) => cell.logValue()),
    CELL_RATE,
  );
  return found.length === 0 ? '' : `; prompts that stand out: ${found.map((i) => cells[i]![0]).join(', ')}`;
}

async function twoSample(input: LosslessInput, deadline: number): Promise<LosslessOutcome> {
  const { engine, plain, observer, budget, signal } = input;
  const process = new TwoSampleProcess(engine.card.vocabSize);
  process.mixture.resume(input.earlier['two samples'] ?? {});
  const threshold = Math.log(1 / budget.alpha);
  const batch = 32;
  let sessions = 0;
  for (let i = 0; sessions < budget.twoSampleSessions; i++) {
    if (signal.aborted || observer.broken || input.now() > deadline || process.mixture.logSup >= threshold) break;
    // Few prompts: the deeper a context, the more often it must be met.
    const prompt = input.prompts[i % Math.min(2, input.prompts.length)]!;
    const outputs: [number[][], number[][]] = [[], []];
    for (let repeat = 0; repeat < batch && !observer.broken; repeat++) {
      for (const [arm, side] of [plain, engine].entries()) {
        const run = await observer.run(side, prompt, input.decoding({ maxTokens: budget.twoSampleTokens }), 'law');
        if (run.fault === null) outputs[arm]!.push([...run.tokens]);
      }
    }
    sessions += batch;
    process.batch(prompt.name, outputs[0], outputs[1]);
  }
  const { logSup } = process.mixture;
  const base = {
    id: 'law two samples',
    question: 'Are the first tokens distributed as in plain decoding (two samples; the engine gives no rows)?',
    n: process.pairs,
    of: 'pairs of tokens',
    logE: logSup,
  };
  const wealth = `e-value ${power10(logSup)} after ${process.pairs} pairs in ${process.contexts} contexts of ${sessions} sessions a mode (refuted from ${power10(threshold)})`;
  const earnings = { 'two samples': process.mixture.earnings() };
  if (logSup >= threshold)
    return { checks: [check({ ...base, outcome: 'refuted', evidence: `${wealth}.` })], earnings };
  const shift = process.pairs === 0 ? null : process.detectable(budget.alpha, budget.power, input.seed);
  const would =
    shift === null
      ? null
      : `a shift of the law by a total variation distance of ${shift} in every context met, with power ${budget.power} (simulated)`;
  const blind = shift === null || shift > Math.max(0.25, budget.largestBlindDistance);
  const outcome = blind || signal.aborted ? 'inconclusive' : 'consistent';
  const reason = outcome === 'consistent' ? '' : '; too few pairs for the asked power';
  return {
    checks: [check({ ...base, outcome, evidence: `${wealth}${reason}.`, wouldHaveCaught: would })],
    earnings,
  };
}

function power10(log: number): string {
  if (log === Number.POSITIVE_INFINITY) return 'infinite';
  const exponent = log / Math.LN10;
  return Math.abs(exponent) < 3 ? Number(Math.exp(log).toPrecision(3)).toString() : `10^${exponent.toFixed(1)}`;
}

function percent(share: number): string {
  return `${Number((100 * share).toPrecision(3))} %`;
}

/** A seed for session `index` of run `run`: independent of every other, and of the order of sessions. */
export function sessionSeed(seed: string, run: number, index: number): string {
  return BigInt(`0x${digestOf(['gate', seed, run, index]).slice('sha256:'.length, 'sha256:'.length + 16)}`).toString();
}

export function builtInPrompts(seed: string, vocabSize: number, maxContext: number, count: number): GatePrompt[] {
  const random = new Random(seed, 44);
  const room = Math.max(1, Math.min(24, Math.floor(maxContext / 4)));
  return Array.from({ length: count }, (_, i) => ({
    name: `built-in ${i}`,
    ids: Array.from({ length: 1 + random.below(room) }, () => random.below(vocabSize)),
  }));
}

/** @throws InputError naming the prompt that the engine cannot hold */
export function checkPrompts(prompts: readonly GatePrompt[], engine: Engine, most: number): void {
  if (prompts.length === 0) throw new InputError('there are no prompts');
  for (const { name, ids } of prompts) {
    if (ids.length === 0) throw new InputError(`prompt ${name} is empty`);
    const foreign = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= engine.card.vocabSize);
    if (foreign !== undefined) throw new InputError(`prompt ${name} has token ${foreign}, outside the vocabulary`);
    if (ids.length + most > engine.card.maxContext) {
      throw new InputError(`prompt ${name} and ${most} tokens exceed the context of ${engine.card.maxContext}`);
    }
  }
}
