/**
 * Does speculation change what is emitted? Equality where the rule promises it (greedy always, `match` and `coupled` at
 * any temperature), the law where it does not (`reject`). The law is tested against the rows of the rounds, against rows
 * put together from score(), or between two samples, whichever the engine allows; the check says which.
 */
import { digestOf } from '../bundle/digests.ts';
import { type Decoding, type Engine, InputError, type Round } from '../engine.ts';
import { percent } from '../percent.ts';
import { Random } from '../stats/philox.ts';
import { upperBoundWithoutEvent } from '../stats/proportion.ts';
import { comparability } from '../verify/comparability.ts';
import { firstDifference } from '../verify/equality.ts';
import { filterRow } from '../verify/filters.ts';
import { probabilities, RoundLaws, rowsOf } from '../verify/round-laws.ts';
import { TwoSampleProcess } from '../verify/two-sample-process.ts';
import { AcceptanceTally, type MeasuredAcceptance } from './acceptance.ts';
import { checkBoundaries } from './boundary.ts';
import type { Budget } from './budget.ts';
import { checkFidelity } from './fidelity.ts';
import { adjustedPs, FAMILY_SIZE, LAWS, lawChecks, power10, type Stream, seenByReplay } from './law-checks.ts';
import { type GatePrompt, lost, type Observed, type Observers } from './observer.ts';
import { ReplayJudge } from './replaying.ts';
import type { Check } from './result.ts';
import { runToys } from './toys.ts';

const CONFIDENCE = 0.999;
/** Vocabularies up to here can be scored entry by entry. */
const SCORED_VOCABULARY = 64;
/** Sessions in flight: an engine with threads of its own may use them. */
const LANES = 2;
/** Texts whose emitted tokens are scored again, one call each. */
const SCORED_TEXTS = 400;

export interface LosslessInput extends Observers {
  readonly engine: Engine;
  /** The same weights without speculation, or the baseline the caller named. */
  readonly plain: Engine;
  readonly prompts: readonly GatePrompt[];
  readonly decoding: (over: Partial<Decoding>) => Decoding;
  readonly budget: Budget;
  readonly seed: string;
  /** Largest total variation distance between a row of a round and the plain engine's row that is no finding. */
  readonly rowTolerance: number;
  /** Nats a token within which engines of different numerics are said to be equivalent; null: nobody says so. */
  readonly fidelityMargin: number | null;
  readonly signal: AbortSignal;
  readonly now: () => number;
  /** Earnings of earlier runs of this build, by process and component. */
  readonly earlier: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

export interface LosslessOutcome {
  readonly checks: readonly Check[];
  readonly earnings: Readonly<Record<string, Readonly<Record<string, number>>>>;
  /** Of the engine's own sessions at temperature 1; absent: none drafted. */
  readonly acceptance?: MeasuredAcceptance | null;
}

export async function checkLosslessness(input: LosslessInput): Promise<LosslessOutcome> {
  const pair = comparability(
    input.engine.card as Parameters<typeof comparability>[0],
    input.plain.card as Parameters<typeof comparability>[0],
  );
  if (pair.kind === 'fidelity') {
    const evidence = `The two engines are a fidelity pair, not one of speculation on and off: ${pair.because.join('; ')}.`;
    const question = 'Does speculation change the output?';
    const fidelity = await checkFidelity(input, input.fidelityMargin);
    return { checks: [check({ id: 'losslessness', question, evidence, of: 'pairs' }), ...fidelity], earnings: {} };
  }
  const greedy = new AcceptanceTally();
  const checks: Check[] = [await equality(input, 0, 1, greedy)];
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
  const law = await checkLaw(input, greedy);
  return { ...law, checks: [...checks, ...law.checks] };
}

type Sketch = Pick<Check, 'id' | 'question' | 'evidence' | 'of'> & Partial<Check>;

function check(sketch: Sketch): Check {
  return { outcome: 'not testable here', wouldHaveCaught: null, n: 0, logE: null, decisive: true, ...sketch };
}

async function equality(
  input: LosslessInput,
  temperature: number,
  topP: number,
  tally?: AcceptanceTally,
): Promise<Check> {
  const { engine, plain, observer, yardstick, budget } = input;
  const name = temperature === 0 ? 'greedy' : `temperature ${temperature}${topP < 1 ? `, top-p ${topP}` : ''}`;
  const base = {
    id: temperature === 0 ? 'equality greedy' : `equality ${temperature} ${topP}`,
    question: `Does ${name} decoding emit the very tokens that plain decoding emits?`,
    of: 'prompts',
    restsOnPlain: true,
  } as const;
  const differences: string[] = [];
  let tokens = 0;
  let n = 0;
  const prompts = Array.from({ length: budget.equalityPrompts }, (_, i) => input.prompts[i % input.prompts.length]!);
  for (const prompt of temperature === 0 ? [...new Set(prompts)] : prompts) {
    if (lost(input) || input.signal.aborted) break;
    const decoding = input.decoding({ temperature, topP, maxTokens: budget.equalityTokens });
    let pair: [Observed, Observed];
    try {
      pair = [
        await yardstick.run(plain, prompt, decoding, 'plain'),
        await observer.run(engine, prompt, decoding, 'speculative'),
      ];
    } catch (error) {
      if ((error as Error).name !== 'InputError') throw error;
      return check({ ...base, evidence: `The engine refuses this decoding: ${(error as Error).message}.` });
    }
    const [a, b] = pair;
    if (b.fault === null) tally?.session(prompt.ids, b.rounds);
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
  /** Target rows of the tokens, and no others: those of a wide vocabulary are large. */
  readonly rows: readonly Float64Array[];
}

async function checkLaw(input: LosslessInput, greedy: AcceptanceTally): Promise<LosslessOutcome> {
  const { engine, observer, budget } = input;
  const started = input.now();
  const overdue = (): boolean => input.now() > started + budget.lawSeconds * 1000;
  const threshold = Math.log(FAMILY_SIZE / budget.alpha);
  const { seed, decoding, signal, earlier } = input;
  const toys = await runToys({ engine, observer, budget, decoding, seed, signal, overdue, earlier, threshold });
  const boundaries = observer.broken ? [] : await checkBoundaries({ engine, observer, decoding, seed, signal });
  const toyStream: Stream | null =
    toys === null
      ? null
      : { prefix: 'toy ', laws: toys.laws, from: 'the tables of its toys', replayed: toys.replay.holds };
  const own = observer.broken || input.signal.aborted ? null : await ownLaw(input, overdue, threshold);
  const streams = [own?.stream ?? null, toyStream].filter((stream) => stream !== null);
  const adjusted = adjustedPs(streams);
  const cap = `the time cap of ${budget.lawSeconds} s ended it before the planned number`;
  const finished = (stream: Stream, capped: boolean, doubts: readonly string[]): Check[] =>
    lawChecks(stream, adjusted, {
      rule: engine.card.rule,
      budget,
      aborted: signal.aborted,
      capped: capped ? cap : null,
      earlier: Object.keys(earlier),
      doubts,
      elsewhere: elsewhere(stream, streams, budget),
    });
  const would = (stream: Stream | null): string | null =>
    stream === null ? null : replayPower(seenByReplay({ ...stream, replayed: true }, budget.power), budget.power);
  const checks = [
    ...(own?.before ?? []),
    ...(own?.replay.checks('', budget.alpha / FAMILY_SIZE, would(own.stream)) ?? []),
    ...(own === null || own.stream === null ? [] : finished(own.stream, own.capped, own.doubts)),
    ...(own?.after ?? []),
    ...(toys === null || toyStream === null
      ? [noToys]
      : [
          ...toys.checks,
          ...toys.replay.checks('toy ', budget.alpha / FAMILY_SIZE, would(toyStream)),
          ...finished(toyStream, toys.capped, []),
        ]),
    ...boundaries,
  ];
  const earnings = streams.flatMap(({ prefix, laws }) =>
    LAWS.map((name) => [`${prefix}${name}`, laws[name].mixture.earnings()] as const),
  );
  const acceptance = own?.acceptance.measured(engine.card.rule, seed, greedy.cells()) ?? null;
  return { checks, earnings: { ...Object.fromEntries(earnings), ...own?.earnings }, acceptance };
}

const noToys: Check = check({
  id: 'toys',
  question: 'Does the decode loop keep laws that are known exactly?',
  evidence: 'The engine opens no toys (docs/engines.md): its own rows are all there is to test by.',
  of: 'toys',
  decisive: false,
});

/** Families that another stream's law, or decisions decided again, would have shown. */
function elsewhere(stream: Stream, streams: readonly Stream[], budget: Budget): Map<string, string> {
  const found = new Map<string, string>();
  for (const other of streams) {
    const name = other.prefix === '' ? '' : `${other.prefix.trim()} `;
    for (const [family, share] of seenByReplay(other, budget.power)) {
      const text = `the ${name}replay in ${percent(share === 0.99 ? 1 : share)} of positions`;
      if (!found.has(family)) found.set(family, text);
    }
    if (other === stream) continue;
    for (const law of LAWS) {
      for (const { family, share } of other.laws[law].detectable(budget.alpha / FAMILY_SIZE, budget.power)) {
        if (share === null || found.has(family)) continue;
        found.set(family, `law ${other.prefix}${law} in ${percent(share === 0.99 ? 1 : share)} of positions`);
      }
    }
  }
  return found;
}

function replayPower(seen: ReadonlyMap<string, number>, power: number): string | null {
  if (seen.size === 0) return 'any decision of these that does not follow from its row and number';
  const shares = [...new Set(seen.values())].sort((a, b) => b - a);
  const list = shares.map((share) => {
    const families = [...seen].filter(([, own]) => own === share).map(([family]) => family);
    return `in ${percent(share === 0.99 ? 1 : share)} of positions ${families.join(', ')}`;
  });
  return `any decision of these that does not follow from its row and number; with power ${power}, ${list.join('; ')}`;
}

interface OwnLaw {
  /** null: there are no rows, or they cannot be used. */
  readonly stream: Stream | null;
  readonly replay: ReplayJudge;
  readonly acceptance: AcceptanceTally;
  readonly before: readonly Check[];
  readonly after: readonly Check[];
  readonly capped: boolean;
  readonly doubts: readonly string[];
  readonly earnings: LosslessOutcome['earnings'];
}

/** The engine's own rows, or what stands in for them. null: it could not even be asked. */
async function ownLaw(input: LosslessInput, overdue: () => boolean, threshold: number): Promise<OwnLaw | null> {
  const { engine, observer, budget, signal } = input;
  const { rule, blockSize, vocabSize } = engine.card;
  const replay = new ReplayJudge({ rule, blockSize }, engine.generator, input.seed);
  const acceptance = new AcceptanceTally();
  const nothing = { stream: null, replay, acceptance, before: [], after: [], capped: false, doubts: [], earnings: {} };
  const probe = await observer.run(engine, input.prompts[0]!, input.decoding({ maxTokens: 4 }), 'probe');
  if (probe.fault !== null) return null;
  // Rows in some rounds are rows in all, or a finding.
  const source: RowSource = probe.rounds.some((round) => round.replay !== undefined)
    ? 'rounds'
    : (await scores(input, probe))
      ? 'score'
      : 'two samples';
  if (source === 'two samples') {
    const { checks, earnings } = await twoSample(input, overdue);
    return { ...nothing, after: checks, earnings };
  }

  const onScores = source === 'score' ? ({ restsOnPlain: true } as const) : {};
  const wide = vocabSize > SCORED_VOCABULARY ? budget.wideLawTokens : budget.lawTokens;
  const target = source === 'rounds' ? wide : budget.scoredTokens;
  const laws = new RoundLaws({
    vocabSize,
    rule,
    seed: input.seed,
    draftsKnown: source === 'rounds',
    powerEvery: Math.max(1, Math.floor(target / 200)),
  });
  for (const name of LAWS) laws[name].mixture.resume(input.earlier[name] ?? {});
  const kept: Sampled[] = [];
  const texts: ScoredText[] = [];
  let broken: string | null = null;
  let foreign = false;
  let capped = false;
  const refused = new Set<number>();

  for (let i = 0; laws.emission.n < target && !laws.reached(threshold) && broken === null; i += LANES) {
    if (signal.aborted || observer.broken || foreign) break;
    capped = overdue();
    if (capped) break;
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
        const rows = source === 'rounds' ? rowsOf(round, vocabSize) : await scoredRows(input, prompt, run, index);
        if (rows === null || typeof rows === 'string') {
          broken = `${run.session}, round ${index}: ${rows ?? 'the round carries no rows, earlier ones did'}`;
          break;
        }
        const outside = [...round.committed, ...round.drafted].some((id) => id >= vocabSize);
        if (outside) {
          foreign = true; // the books have it; more of the same proves nothing
          break;
        }
        rounds.push({ round, ...rows });
      }
      if (broken !== null) break;
      laws.session(prompt.name, prompt.ids, decoding, rounds);
      if (source === 'rounds') replay.session(run.session, prompt.ids.length, decoding, rounds);
      if (rounds.length === 0) continue;
      const tokens = rounds.flatMap(({ round }) => [...round.committed]);
      if (kept.length < budget.rowPositions) {
        kept.push({
          prompt,
          decoding,
          tokens,
          rows: rounds.flatMap(({ round, p }) => p.slice(0, round.committed.length)),
        });
      }
      const plainRow = decoding.temperature === 1 && decoding.topP === 1;
      if (plainRow) acceptance.session(prompt.ids, run.rounds);
      if (plainRow && texts.length < SCORED_TEXTS) texts.push(scoredText(run.session, prompt, rounds));
    }
  }
  if (broken !== null) {
    const question = 'Are the rows that the rounds carry probability rows?';
    const refutation = { id: 'rows', question, outcome: 'refuted', n: 1, of: 'rounds', ...onScores } as const;
    return { ...nothing, before: [check({ ...refutation, evidence: `${broken}.` })] };
  }
  const confirmed = source === 'rounds' ? await checkRows(input, kept, texts) : null;
  const from = source === 'rounds' ? 'the rows its rounds carry' : "rows put together from the plain engine's scores";
  return {
    ...nothing,
    stream: { prefix: '', laws, from, replayed: replay.holds && confirmed?.outcome === 'consistent', ...onScores },
    before: confirmed === null ? [] : [confirmed],
    capped,
    doubts: confirmed?.outcome === 'not testable here' ? ['nothing confirms the rows it was tested against'] : [],
  };
}

/** What is left of a session's rows for scoring: the emitted tokens with their probabilities. */
interface ScoredText {
  readonly session: string;
  readonly prompt: GatePrompt;
  readonly tokens: readonly number[];
  readonly probabilities: readonly number[];
}

function scoredText(session: string, prompt: GatePrompt, rounds: readonly WithRows[]): ScoredText {
  const tokens = rounds.flatMap(({ round }) => [...round.committed]);
  const probabilities = rounds.flatMap(({ round, p }) => round.committed.map((token, i) => p[i]![token]!));
  return { session, prompt, tokens, probabilities };
}

/** Whether full rows can be had from the plain engine's score(). */
async function scores(input: LosslessInput, probe: Observed): Promise<boolean> {
  if (input.engine.card.vocabSize > SCORED_VOCABULARY) return false;
  if (lost(input)) return false;
  const scored = await input.yardstick.mayRefuse('score', 'score', () =>
    input.plain.score(input.prompts[0]!.ids, probe.tokens.slice(0, 1)),
  );
  return scored?.logprobs?.length === 1 && Number.isFinite(scored.logprobs[0]);
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
      const scored = await input.yardstick.ask(run.session, 'score', () => input.plain.score(prefix, [token]));
      if (scored === null) return 'score() failed';
      row[token] = scored.logprobs?.[0] ?? Number.NaN;
    }
    const sum = row.reduce((total, value) => total + Math.exp(value), 0);
    if (!(Math.abs(sum - 1) < 1e-3)) return `score() adds up to ${sum} over the vocabulary`;
    p.push(probabilities(row));
  }
  return { p, q: [] };
}

/** The rows of the rounds against rows of the plain engine after the same text: bets on wrong rows prove nothing. */
async function checkRows(input: LosslessInput, kept: readonly Sampled[], texts: readonly ScoredText[]): Promise<Check> {
  const { plain, yardstick, budget, rowTolerance } = input;
  const random = new Random(input.seed, 43);
  const base = {
    id: 'rows',
    question: 'Are the target rows of the rounds those of the plain engine after the same tokens?',
    of: 'positions',
    restsOnPlain: true,
  } as const;
  let n = 0;
  let largest = 0;
  let worst = '';
  const note = (distance: number, where: string): void => {
    n += 1;
    // A distance that is no number is the worst, and stays it.
    if (distance >= largest || Number.isNaN(distance)) [largest, worst] = [distance, where];
  };
  let rowsFromPlain = 0;
  let filteredRows = 0;
  for (let i = 0; i < Math.min(budget.rowPositions, 64 * kept.length) && !lost(input); i++) {
    if (input.signal.aborted) break;
    const { prompt, decoding, tokens, rows } = kept[i % kept.length]!;
    const at = random.below(rows.length);
    const text = { name: `${prompt.name}+${at}`, ids: [...prompt.ids, ...tokens.slice(0, at)] };
    const again = await yardstick.run(plain, text, { ...decoding, maxTokens: 1 }, 'row');
    const first = again.rounds[0] === undefined ? null : rowsOf(again.rounds[0], plain.card.vocabSize);
    if (first === null || typeof first === 'string') break;
    rowsFromPlain += 1;
    const { temperature, topP, topK } = decoding;
    if (temperature !== 1 || topP !== 1 || topK !== 0) {
      // Both modes may mistake the filters in the same way; the row without them cannot.
      const bare = await yardstick.run(
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
  for (const { session, prompt, tokens, probabilities } of texts) {
    if (lost(input) || input.signal.aborted) break;
    const score = await yardstick.mayRefuse('score', 'score', () => plain.score(prompt.ids, tokens));
    if (score?.logprobs?.length !== tokens.length) break;
    for (const [i, logprob] of score.logprobs.entries()) {
      scored += 1;
      note(Math.abs(probabilities[i]! - Math.exp(logprob)), `score, ${session}, output ${i}`);
    }
  }
  if (n === 0) {
    return check({ ...base, evidence: 'The plain engine gives neither rows nor scores to compare with.' });
  }
  const said = `${rowsFromPlain} whole rows, ${filteredRows} rows filtered here and ${scored} scored tokens compared; largest distance ${largest.toExponential(1)} (${worst}), tolerance ${rowTolerance}`;
  if (!(largest <= rowTolerance)) {
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

async function twoSample(input: LosslessInput, overdue: () => boolean): Promise<LosslessOutcome> {
  const { engine, plain, observer, yardstick, budget, signal } = input;
  const process = new TwoSampleProcess(engine.card.vocabSize);
  process.mixture.resume(input.earlier['two samples'] ?? {});
  const threshold = Math.log(1 / budget.alpha);
  const batch = 32;
  let sessions = 0;
  let capped = false;
  for (let i = 0; sessions < budget.twoSampleSessions; i++) {
    if (signal.aborted || lost(input) || process.mixture.logSup >= threshold) break;
    capped = overdue();
    if (capped) break;
    // Few prompts: the deeper a context, the more often it must be met.
    const prompt = input.prompts[i % Math.min(2, input.prompts.length)]!;
    const outputs: [number[][], number[][]] = [[], []];
    for (let repeat = 0; repeat < batch && !lost(input); repeat++) {
      for (const [arm, [side, watch]] of (
        [
          [plain, yardstick],
          [engine, observer],
        ] as const
      ).entries()) {
        const run = await watch.run(side, prompt, input.decoding({ maxTokens: budget.twoSampleTokens }), 'law');
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
    restsOnPlain: true,
  } as const;
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
  const outcome = blind || capped || signal.aborted ? 'inconclusive' : 'consistent';
  const cap = capped ? `; the time cap of ${budget.lawSeconds} s ended it before the planned number` : '';
  const reason = `${cap}${blind ? '; too few pairs for the asked power' : ''}`;
  return {
    checks: [check({ ...base, outcome, evidence: `${wealth}${reason}.`, wouldHaveCaught: would })],
    earnings,
  };
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
