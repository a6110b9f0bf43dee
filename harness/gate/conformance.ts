/**
 * Does an engine keep the agreements of the seam: the card, the shape and the ends of sessions, refusals, the same seed
 * giving the same output, forks that do not touch each other, scores that are log-probabilities?
 */
import { EngineCardRow } from '../bundle/rows.ts';
import type { Decoding, Engine, Round } from '../engine.ts';
import type { GatePrompt, Observer } from './observer.ts';
import type { Check } from './result.ts';

/** Two ways of scoring the same tokens may differ by this much, natural log: FP32 sums. */
const SCORE_SLACK = 1e-4;
/** Longest context that is filled to its end to see what happens there. */
const FILLED_CONTEXT = 4096;

interface Finding {
  readonly id: string;
  readonly question: string;
  readonly would: string;
  readonly of: string;
}

export function concluded(finding: Finding, n: number, problems: readonly string[], fine: string): Check {
  const { id, question, would, of } = finding;
  const first = problems[0];
  return {
    id,
    question,
    outcome: first !== undefined ? 'refuted' : n === 0 ? 'not testable here' : 'consistent',
    evidence:
      first === undefined
        ? fine
        : `${problems.length} ${problems.length === 1 ? 'fault' : 'faults'}; the first: ${first}.`,
    wouldHaveCaught: first === undefined && n > 0 ? would : null,
    n,
    of,
    logE: null,
    decisive: false,
  };
}

export function checkCard(engine: Engine, asked: number | null): Check {
  const { card } = engine;
  const problems: string[] = [];
  const parsed = EngineCardRow.safeParse({
    ...card,
    defects: Array.isArray(card.defects) ? [...card.defects] : card.defects,
  });
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    problems.push(`card.${issue.path.join('.')}: ${issue.message}`);
  } else {
    if (card.blockSize < 1) problems.push(`a block of ${card.blockSize}`);
    if (asked !== null && card.blockSize !== asked) problems.push(`block ${asked} asked for, ${card.blockSize} given`);
    if (card.vocabSize < 2) problems.push(`a vocabulary of ${card.vocabSize}`);
    if (card.maxContext < 2) problems.push(`a context of ${card.maxContext}`);
  }
  return concluded(
    {
      id: 'card',
      question: 'Is the card of the engine complete and sane?',
      would: 'a missing field, a field of the wrong type, a block other than the one asked for',
      of: 'cards',
    },
    1,
    problems,
    parsed.success ? `${card.name}, block ${card.blockSize}, rule ${card.rule}, vocabulary ${card.vocabSize}.` : '',
  );
}

export function checkDeclarations(engine: Engine): Check {
  const { defects, syntheticAcceptance } = engine.card;
  const problems = defects.map((defect) => `the engine declares the defect ${defect}`);
  if (syntheticAcceptance !== null) problems.push(`the engine declares synthetic acceptance: ${syntheticAcceptance}`);
  return concluded(
    {
      id: 'declarations',
      question: 'Is the engine free of declared defects and of synthetic acceptance?',
      would: 'a defect or forced acceptance that the engine admits to',
      of: 'cards',
    },
    1,
    problems,
    'The card declares neither a defect nor synthetic acceptance.',
  );
}

export interface ConformanceInput {
  readonly engine: Engine;
  readonly prompts: readonly GatePrompt[];
  readonly observer: Observer;
  /** A decoding with a seed of its own; temperature 1 unless told. */
  readonly decoding: (over: Partial<Decoding>) => Decoding;
}

export async function checkInterface(input: ConformanceInput): Promise<Check[]> {
  const checks: Check[] = [];
  for (const part of [refusals, limits, determinism, forks, echo, scores]) {
    if (input.observer.broken) break;
    checks.push(await part(input));
  }
  return checks;
}

async function refusals({ engine, prompts, observer, decoding }: ConformanceInput): Promise<Check> {
  const problems: string[] = [];
  const ids = prompts[0]!.ids;
  const bad: readonly [string, readonly number[]][] = [
    ['an empty prompt', []],
    [`token ${engine.card.vocabSize} beyond the vocabulary`, [...ids, engine.card.vocabSize]],
    ['a negative token', [...ids, -1]],
  ];
  for (const [what, prompt] of bad) {
    // Engines may prefill at the first step, so a refusal may come there.
    const taken = await observer.ask(`refusal of ${what}`, 'open and step', async () => {
      try {
        const session = await engine.open(prompt, decoding({ maxTokens: 1 }));
        await session.step();
        await session.close();
        return true;
      } catch (error) {
        const { name, kind } = (error ?? {}) as { name?: string; kind?: string };
        if (name === 'EngineFault' && kind !== 'failed') throw error;
        return false;
      }
    });
    if (taken === true) problems.push(`${what} is decoded instead of refused`);
  }
  const after = await observer.ask('step after the end', 'step', async () => {
    const session = await engine.open(ids, decoding({ maxTokens: 1 }));
    await session.step();
    try {
      await session.step();
      return true;
    } catch (error) {
      const { name, kind } = (error ?? {}) as { name?: string; kind?: string };
      if (name === 'EngineFault' && kind !== 'failed') throw error;
      return false;
    } finally {
      await session.close().catch(() => {});
    }
  });
  if (after === true) problems.push('a session goes on after its end');
  return concluded(
    {
      id: 'refusals',
      question: 'Does the engine refuse what it cannot decode?',
      would: 'an empty prompt, a token outside the vocabulary or a step after the end that is accepted',
      of: 'bad calls',
    },
    4,
    problems,
    'An empty prompt, tokens outside the vocabulary and a step after the end are refused.',
  );
}

async function limits({ engine, prompts, observer, decoding }: ConformanceInput): Promise<Check> {
  const problems: string[] = [];
  const block = engine.card.blockSize;
  let n = 0;
  for (const maxTokens of new Set([1, 2, 3, block, block + 1, 2 * block + 1])) {
    if (observer.broken) break;
    const run = await observer.run(engine, prompts[n % prompts.length]!, decoding({ maxTokens }), 'limit');
    n += 1;
    if (run.fault === null && run.tokens.length !== maxTokens) {
      problems.push(`${run.tokens.length} tokens at a limit of ${maxTokens} without a stop id`);
    }
  }
  for (const prompt of prompts.slice(0, 6)) {
    if (observer.broken) break;
    const same = decoding({ maxTokens: 48 });
    const free = await observer.run(engine, prompt, same, 'stop');
    if (free.fault !== null) continue;
    for (const at of stopPlaces(free.rounds)) {
      const stop = free.tokens[at]!;
      const run = await observer.run(engine, prompt, { ...same, stopIds: [stop] }, 'stop');
      n += 1;
      if (run.fault !== null) continue;
      const expected = free.tokens.slice(0, at + 1).join(' ');
      if (run.tokens.join(' ') !== expected || run.rounds.at(-1)?.finish !== 'stop') {
        problems.push(
          `prompt ${prompt.name}, seed ${same.seed}: with stop id ${stop} due at output ${at}, ${run.tokens.length} tokens come out and the session ends by ${run.rounds.at(-1)?.finish}`,
        );
      }
    }
  }
  const { maxContext } = engine.card;
  if (maxContext <= FILLED_CONTEXT && maxContext > 8 && !observer.broken) {
    const ids = Array.from({ length: maxContext - 5 }, (_, i) => prompts[0]!.ids[i % prompts[0]!.ids.length]!);
    const run = await observer.run(engine, { name: 'full context', ids }, decoding({ maxTokens: 64 }), 'context');
    n += 1;
    if (run.fault === null && run.tokens.length > 5)
      problems.push(`${run.tokens.length} tokens where 5 fit the context`);
  }
  return concluded(
    {
      id: 'limits',
      question: 'Do sessions end where the limits and stop ids say?',
      would: 'one token too many or too few at a token limit, a stop id or the end of the context',
      of: 'sessions',
    },
    n,
    problems,
    `${n} sessions ended where they should.`,
  );
}

/** Outputs whose token appears there first: one inside a round, with accepted tokens behind it, and one at the end of one. */
function stopPlaces(rounds: readonly Round[]): number[] {
  const seen = new Set<number>();
  let at = 0;
  let inside: number | null = null;
  let last: number | null = null;
  for (const { committed } of rounds) {
    committed.forEach((token, i) => {
      if (!seen.has(token) && at > 0) {
        if (i < committed.length - 1) inside = at;
        else last ??= at;
      }
      seen.add(token);
      at += 1;
    });
  }
  return [inside, last].filter((place) => place !== null);
}

function sameRounds(a: readonly Round[], b: readonly Round[]): number {
  const text = (round: Round | undefined): string =>
    round === undefined ? '' : JSON.stringify([[...round.committed], [...round.drafted], round.accepted, round.finish]);
  for (let i = 0; i < Math.max(a.length, b.length); i++) if (text(a[i]) !== text(b[i])) return i;
  return -1;
}

async function determinism({ engine, prompts, observer, decoding }: ConformanceInput): Promise<Check> {
  const problems: string[] = [];
  let n = 0;
  for (const temperature of [0, 1]) {
    for (const prompt of prompts.slice(0, 2)) {
      if (observer.broken) break;
      const same = decoding({ temperature, maxTokens: 24 });
      const [a, b] = [
        await observer.run(engine, prompt, same, 'again'),
        await observer.run(engine, prompt, same, 'again'),
      ];
      if (a.fault !== null || b.fault !== null) continue;
      n += 1;
      const at = sameRounds(a.rounds, b.rounds);
      if (at >= 0) problems.push(`${a.session} at temperature ${temperature}: round ${at} differs between two runs`);
    }
  }
  return concluded(
    {
      id: 'determinism',
      question: 'Does the same seed give the same rounds?',
      would: 'any difference in tokens, drafts, acceptance or end between two sessions with one seed',
      of: 'pairs of sessions',
    },
    n,
    problems,
    `${n} pairs of sessions are the same, round by round.`,
  );
}

async function forks({ engine, prompts, observer, decoding }: ConformanceInput): Promise<Check> {
  const problems: string[] = [];
  let n = 0;
  for (const prompt of prompts.slice(0, 2)) {
    if (observer.broken) break;
    const same = decoding({ maxTokens: 24 });
    const alone = await observer.run(engine, prompt, same, 'unforked');
    const pair = await observer.ask('fork', 'fork', async () => {
      const session = await engine.open(prompt.ids, same);
      const before = [await session.step()];
      if (before[0]!.finish === null) before.push(await session.step());
      return before.at(-1)!.finish === null ? { session, before, copy: await session.fork() } : null;
    });
    if (pair === null || alone.fault !== null) continue;
    // The copy runs to its end first: whatever it shares with the original shows in the original.
    const copied = await observer.finish(engine, pair.copy, prompt, same, 'fork', pair.before);
    await observer.ask('fork', 'close', () => pair.copy.close());
    const original = await observer.finish(engine, pair.session, prompt, same, 'forked', pair.before);
    await observer.ask('fork', 'close', () => pair.session.close());
    n += 1;
    for (const [name, other] of [
      ['a fork', copied],
      ['the forked session', original],
    ] as const) {
      const at = sameRounds(alone.rounds, other.rounds);
      if (other.fault === null && at >= 0) problems.push(`${name} of prompt ${prompt.name} differs in round ${at}`);
    }
  }
  return concluded(
    {
      id: 'forks',
      question: 'Do a session and its fork go on alike and apart?',
      would: 'a fork that loses state, or shares it with the session it came from',
      of: 'forks',
    },
    n,
    problems,
    `${n} forks and the sessions they came from go on as one that was never forked.`,
  );
}

async function echo({ engine, prompts, observer, decoding }: ConformanceInput): Promise<Check> {
  const asked = decoding({ temperature: 0.7, maxTokens: 3, stopIds: [1] });
  const run = await observer.run(engine, prompts[0]!, asked, 'echo');
  const said = run.echo as Record<string, unknown> | undefined;
  const problems =
    said === undefined || said === null
      ? []
      : Object.entries(asked)
          .filter(([key, value]) => JSON.stringify(said[key]) !== JSON.stringify(value))
          .map(([key, value]) => `${key} is ${JSON.stringify(said[key])}, ${JSON.stringify(value)} was asked`);
  return concluded(
    {
      id: 'echo',
      question: 'Does the engine repeat the decoding parameters it was given?',
      would: 'a parameter that is changed or dropped on the way',
      of: 'sessions',
    },
    said === undefined || said === null ? 0 : 1,
    problems,
    said === undefined || said === null
      ? 'The sessions of this engine do not say how they decode.'
      : 'All parameters are repeated as given.',
  );
}

async function scores({ engine, prompts, observer, decoding }: ConformanceInput): Promise<Check> {
  const problems: string[] = [];
  let n = 0;
  const prompt = prompts[0]!;
  const run = await observer.run(engine, prompt, decoding({ maxTokens: 6 }), 'score');
  const next = run.tokens;
  const whole = await observer.mayRefuse('score', 'score', () => engine.score(prompt.ids, next));
  if (whole !== null && next.length > 0) {
    n += 1;
    const { logprobs = [] } = whole;
    if (logprobs.length !== next.length) problems.push(`${logprobs.length} scores for ${next.length} tokens`);
    const wrong = logprobs.findIndex((value) => Number.isNaN(value) || value > SCORE_SLACK);
    if (wrong >= 0) problems.push(`score ${wrong} is ${logprobs[wrong]}, not a log-probability`);
    const rest = await observer.mayRefuse('score', 'score', () =>
      engine.score([...prompt.ids, ...next.slice(0, 2)], next.slice(2)),
    );
    rest?.logprobs?.forEach?.((value, i) => {
      const other = logprobs[i + 2];
      if (other !== undefined && Math.abs(value - other) > SCORE_SLACK) {
        problems.push(`token ${i + 2} scores ${other} in one call and ${value} in another`);
      }
    });
  }
  return concluded(
    {
      id: 'score',
      question: 'Are the scores log-probabilities that do not depend on how the text is split?',
      would: 'a positive score, a missing one, or one that moves with the split of prefix and continuation',
      of: 'texts',
    },
    n,
    problems,
    n === 0 ? 'This engine gives no scores.' : 'Scores are log-probabilities and do not depend on the split.',
  );
}
