/**
 * One gate run: open the engine and its plain mode, check the interface, check losslessness, conclude. Whatever the engine
 * does ends in a check with a name; only a fault of the machine or of the caller is an error.
 */
import { type Decoding, type Engine, type EngineCard, EnvironmentError } from '../engine.ts';
import type { EngineSource } from '../engines/plugin.ts';
import { type AcceptanceFloor, checkAcceptance, checkDrafts, type MeasuredAcceptance } from './acceptance.ts';
import { BUDGETS, type Budget, fittedTo, type GateName } from './budget.ts';
import { checkCard, checkDeclarations, checkInterface, concluded } from './conformance.ts';
import { buildKey, type Earlier, type Earnings, type EvidenceRecord } from './evidence.ts';
import { builtInPrompts, checkLosslessness, checkPrompts, type LosslessOutcome, sessionSeed } from './losslessness.ts';
import { type Fault, type GatePrompt, Observer, type Observers } from './observer.ts';
import { checkReference, type ReferenceScores } from './reference.ts';
import { type Check, GATE_SCHEMA_ID, type GateResult, isRefuting, verdictOf } from './result.ts';

export interface GateInput {
  readonly source: EngineSource;
  /** null: the source's own plain mode, block 1. */
  readonly baseline: EngineSource | null;
  readonly gate: GateName;
  /** This run's part of the gate's budget, where several runs share it. */
  readonly share?: Partial<Budget>;
  /** Overrides of the gate's budget, taken as they are: what a caller asked for, calibration, tests. */
  readonly budget?: Partial<Budget>;
  /** null: random token ids. */
  readonly prompts: readonly GatePrompt[] | null;
  readonly seed: string;
  readonly stepMs: number;
  readonly rowTolerance: number;
  readonly record: EvidenceRecord | null;
  /** Nats a token within which a baseline of other numerics must be equivalent; absent: differences are told, not judged. */
  readonly fidelityMargin?: number;
  /** What the acceptance must not fall below, by what its card says; absent or null: nobody states it. */
  readonly acceptance?: (card: EngineCard) => AcceptanceFloor | null;
  /** Scores stated beforehand for what the card names; absent or null: none are. */
  readonly reference?: (card: EngineCard) => ReferenceScores | null;
  readonly signal: AbortSignal;
  readonly progress: (line: string) => void;
  readonly now?: () => number;
}

const NOTHING_EARLIER: Earlier = { run: 0, seed: null, refutation: null, earnings: {} };

export async function runGate(input: GateInput): Promise<GateResult> {
  const now = input.now ?? performance.now.bind(performance);
  const started = now();
  let budget: Budget = { ...BUDGETS[input.gate], ...input.share, ...input.budget };
  const observer = new Observer(input.stepMs);
  const yardstick = input.baseline === null ? observer : new Observer(input.stepMs, 'baseline');
  const checks: Check[] = [];
  let earlier = NOTHING_EARLIER;
  let earnings: Earnings = {};
  let build: string | null = null;
  let acceptance: MeasuredAcceptance | null = null;

  const engine = await observer.ask('engine', 'opening the engine', () => input.source.open({}));
  const plainSource = input.baseline ?? input.source;
  const plain =
    engine === null
      ? null
      : await yardstick.ask('plain', 'opening plain decoding', () => plainSource.open({ blockSize: 1 }));
  try {
    // A fault of the yardstick is none of the engine's.
    if (engine !== null && plain === null && input.baseline !== null)
      throw new EnvironmentError(
        `the baseline ${input.baseline.name} did not open: ${yardstick.faults.at(-1)!.message}`,
      );
    if (engine !== null && plain !== null) {
      const card = checkCard(engine, null);
      const plainCard: Check = {
        ...checkCard(plain, input.baseline === null ? 1 : null),
        id: 'plain card',
        restsOnPlain: true,
      };
      checks.push(card, plainCard);
      if (card.outcome === 'consistent' && plainCard.outcome === 'consistent') {
        budget = { ...fittedTo(budget, engine.card.vocabSize), ...input.budget };
        build = buildKey(engine.card, plain.card, input.gate);
        earlier = input.record?.earlier(build) ?? NOTHING_EARLIER;
        input.record?.started({ build, run: earlier.run, seed: earlier.seed ?? input.seed, engine: input.source.name });
        checks.push(checkDeclarations(engine));
        const outcome = await judge(input, { engine, plain, budget, observer, yardstick, checks, earlier, now });
        earnings = outcome.earnings;
        acceptance = outcome.acceptance ?? null;
      }
    }
  } finally {
    await Promise.allSettled([
      observer.mayRefuse('close', 'close', async () => engine?.close()),
      yardstick.mayRefuse('close', 'close', async () => plain?.close()),
    ]);
  }
  const failure = yardstick === observer ? undefined : yardstick.faults[0];
  const observers = failure === undefined ? [...new Set([observer, yardstick])] : [observer];
  checks.unshift(sessionsCheck(observers));
  checks.push(booksCheck(observers));
  if (earlier.refutation !== null) checks.push(refutedEarlier(earlier.refutation));
  const told = failure === undefined ? checks : withoutBaseline(checks, input.baseline!.name, failure);
  const verdict = verdictOf(told, input.signal.aborted);
  // As above: nothing but what rests on the baseline is left to say.
  if (failure !== undefined && verdict !== 'refuted')
    throw new EnvironmentError(`the baseline ${input.baseline!.name} failed: ${faultText(failure)}`);
  const result: GateResult = {
    schema: GATE_SCHEMA_ID,
    gate: input.gate,
    subject: input.source.name,
    card: engine?.card ?? null,
    baseline: input.baseline?.name ?? 'its own plain mode',
    seed: earlier.seed ?? input.seed,
    run: earlier.run,
    budget,
    verdict,
    checks: told,
    acceptance,
    tokens: observers.reduce((sum, { tokens }) => sum + tokens, 0),
    seconds: Math.round(now() - started) / 1000,
  };
  if (build !== null && input.record !== null) {
    const first = told.find(isRefuting);
    input.record.ended(result, build, first?.evidence ?? '', without(earnings, earlier.earnings));
  }
  return result;
}

interface Judging extends Observers {
  readonly engine: Engine;
  readonly plain: Engine;
  readonly budget: Budget;
  readonly checks: Check[];
  readonly earlier: Earlier;
  readonly now: () => number;
}

type Judged = Pick<LosslessOutcome, 'earnings' | 'acceptance'>;

async function judge(
  input: GateInput,
  { engine, plain, budget, observer, yardstick, checks, earlier, now }: Judging,
): Promise<Judged> {
  const { vocabSize, maxContext } = engine.card;
  const seed = earlier.seed ?? input.seed;
  const prompts = input.prompts ?? builtInPrompts(seed, vocabSize, maxContext, budget.prompts);
  const longest = Math.max(budget.equalityTokens, budget.lawSessionTokens);
  const room = Math.max(1, maxContext - Math.max(...prompts.map((prompt) => prompt.ids.length)));
  if (input.prompts !== null) checkPrompts(prompts, engine, 1);
  const fitted: Budget = {
    ...budget,
    equalityTokens: Math.min(budget.equalityTokens, room),
    lawSessionTokens: Math.min(budget.lawSessionTokens, room),
  };
  if (room < longest) input.progress(`Sessions are cut to ${room} tokens, which is what the context holds.`);
  let sessions = 0;
  const decoding = (over: Partial<Decoding>): Decoding => ({
    seed: sessionSeed(seed, earlier.run, sessions++),
    temperature: 1,
    topP: 1,
    topK: 0,
    maxTokens: 16,
    stopIds: [],
    ...over,
  });
  input.progress(`${engine.card.name}: interface and bookkeeping`);
  checks.push(...(await checkInterface({ engine, prompts, observer, decoding })));
  if (observer.broken || input.signal.aborted) return { earnings: {} };
  checks.push(await checkReference(engine, input.reference?.(engine.card) ?? null, observer));
  input.progress(`${engine.card.name}: speculation on against off, rule ${engine.card.rule}`);
  const outcome = await checkLosslessness({
    engine,
    plain,
    prompts,
    observer,
    yardstick,
    decoding,
    budget: fitted,
    seed,
    rowTolerance: input.rowTolerance,
    fidelityMargin: input.fidelityMargin ?? null,
    signal: input.signal,
    now,
    earlier: earlier.earnings,
  });
  checks.push(...outcome.checks);
  if (engine.card.blockSize > 1) {
    const [measured, stated] = [outcome.acceptance ?? null, input.acceptance?.(engine.card) ?? null];
    checks.push(checkAcceptance(measured, stated, seed), checkDrafts(measured, stated));
  }
  return outcome;
}

function sessionsCheck(observers: readonly Observer[]): Check {
  const sessions = observers.reduce((sum, observer) => sum + observer.sessions, 0);
  return concluded(
    {
      id: 'sessions',
      question: 'Did every session run to its end?',
      would: 'any session that throws, hangs, dies, overruns its limit or returns a malformed round',
      of: 'sessions',
    },
    sessions,
    observers.flatMap(({ faults }) => faults).map(faultText),
    `${sessions} sessions ended by a stop id or at their limit.`,
  );
}

function faultText({ session, kind, message }: Fault): string {
  return `${session}: ${kind}: ${message}`;
}

/** What is left where the baseline failed: a fault of the yardstick is none of the engine's, whenever it comes. */
function withoutBaseline(checks: readonly Check[], baseline: string, failure: Fault): Check[] {
  const left = checks.map((check): Check => {
    if (check.restsOnPlain !== true || !isRefuting(check)) return check;
    return { ...check, outcome: 'inconclusive', evidence: `It rests on the baseline, which failed. ${check.evidence}` };
  });
  return [
    ...left,
    {
      id: 'baseline',
      question: 'Did the baseline run to its end?',
      outcome: 'inconclusive',
      evidence: `${baseline} failed: ${faultText(failure)}. Nothing that was held against it counts.`,
      wouldHaveCaught: null,
      n: 1,
      of: 'baselines',
      logE: null,
      decisive: false,
    },
  ];
}

function booksCheck(observers: readonly Observer[]): Check {
  const rounds = observers.reduce((sum, observer) => sum + observer.rounds, 0);
  const violations = observers.flatMap((observer) => observer.violations);
  const found = concluded(
    {
      id: 'books',
      question: 'Do the counts, tokens, ends and clocks of every round add up?',
      would:
        'any token after a stop or over the limit, any accepted draft that was not emitted, any block larger than declared, any round said to take longer than the harness waited',
      of: 'rounds',
    },
    rounds,
    violations.map(({ session, round, text }) => `${session}, round ${round ?? 'none'}: ${text}`),
    `${rounds} rounds checked.`,
  );
  return found.outcome === 'refuted' ? { ...found, outcome: 'internally inconsistent' } : found;
}

function refutedEarlier(text: string): Check {
  return {
    id: 'earlier runs',
    question: 'Was this build refuted before?',
    outcome: 'refuted',
    evidence: `It was, and evidence is not discarded: ${text}`,
    wouldHaveCaught: null,
    n: 1,
    of: 'runs',
    logE: null,
    decisive: false,
  };
}

function without(all: Earnings, before: Earnings): Earnings {
  return Object.fromEntries(
    Object.entries(all).map(([process, components]) => [
      process,
      Object.fromEntries(
        Object.entries(components).map(([name, value]) => [name, value - (before[process]?.[name] ?? 0)]),
      ),
    ]),
  );
}
