/**
 * Toys: the engine's own decode loop over tables of this gate's making. Target and draft differ much, rows differ by context and
 * by slot, and every row is known here without asking the engine, so leniencies of a percent and rows of the wrong place show
 * in a second of decoding. Tables are drawn from the seed: nothing can be prepared for them.
 *
 * Logits are rounded to binary32, the least any engine holds them in, so both sides compute from the same numbers.
 */
import type { Decoding, Engine, Round, Toy, VerificationRule } from '../engine.ts';
import { argmax, filtered, type RowDecoding } from '../oracle/rows.ts';
import { Random } from '../stats/philox.ts';
import { firstDifference } from '../verify/equality.ts';
import { RoundLaws, rowsOf } from '../verify/round-laws.ts';
import type { Budget } from './budget.ts';
import { concluded } from './conformance.ts';
import type { GatePrompt, Observed, Observer } from './observer.ts';
import { ReplayJudge, type RowsOfRound } from './replaying.ts';
import type { Check } from './result.ts';

/** Sessions in flight, as in the law test of the engine's own rows. */
const LANES = 2;
/** Rows of tables are computed here and there in binary64 from the same binary32 logits. */
const ROW_TOLERANCE = 1e-6;
const SESSION_TOKENS = 48;

export interface GateToy {
  readonly name: string;
  readonly toy: Toy;
  /** Sessions take them in turn. */
  readonly settings: readonly Partial<Decoding>[];
  /** Share of the toys' tokens. */
  readonly share: number;
}

type Kind = 'smooth' | 'edges';

/** Vocabularies are padded to this for the laws, which are over all toys. */
const TOY_VOCABULARY = 6;

export function makeToys(seed: string): GateToy[] {
  const random = new Random(seed, 46);
  const made = (kind: Kind, vocab: number, order: number, block: number) => toyOf(random, kind, vocab, order, block);
  return [
    { name: 'second order', toy: made('smooth', 4, 2, 4), settings: [{}], share: 0.45 },
    {
      name: 'filters',
      toy: made('smooth', 6, 1, 4),
      settings: [
        { temperature: 0.6, topP: 0.9 },
        { topK: 3 },
        { temperature: 1.4 },
        { temperature: 0.7, topK: 4, topP: 0.8 },
      ],
      share: 0.25,
    },
    { name: 'long block', toy: made('smooth', 3, 3, 8), settings: [{}], share: 0.2 },
    { name: 'edges', toy: made('edges', 5, 1, 5), settings: [{}, { topP: 0.5 }], share: 0.1 },
  ];
}

function toyOf(random: Random, kind: Kind, vocab: number, order: number, block: number): Toy {
  const ids = Array.from({ length: vocab }, (_, x) => x);
  const smooth = (): number[] => ids.map(() => Math.fround(3 * random.uniform()));
  // Zeros in front, behind and between, ties, one token alone.
  const edgy = (): number[] => {
    const [shape, one] = [random.below(4), random.below(vocab)];
    if (shape === 0) return ids.map((x) => (x === one ? 0.25 : Number.NEGATIVE_INFINITY));
    if (shape === 1) return ids.map(() => 0);
    return smooth().map((value, x) => (x !== one && random.below(2) === 0 ? Number.NEGATIVE_INFINITY : value));
  };
  const row = kind === 'smooth' ? smooth : edgy;
  const target = Array.from({ length: vocab ** order }, row);
  const draft = target.map((here) =>
    Array.from({ length: block - 1 }, () => {
      const own = row();
      const like = random.below(4);
      // Mostly near the target, so that blocks are long enough to reach their ends; sometimes the same, or of its own.
      if (like === 0) return own;
      if (kind === 'edges') return like === 1 ? here : own;
      return here.map((value, x) => Math.fround(0.65 * value + 0.35 * own[x]!));
    }),
  );
  return { vocab, order, block, maxContext: 96, target, draft };
}

const NEUTRAL = { repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: [] } as const;

/** The rows of a toy under a decoding, [TOY_VOCABULARY] or [vocab]; computed once each. */
export class ToyRows {
  readonly #toy: Toy;
  readonly #width: number;
  readonly #kept = new Map<string, Float64Array>();

  constructor(toy: Toy, width = toy.vocab) {
    this.#toy = toy;
    this.#width = width;
  }

  context(text: readonly number[]): number {
    const { order, vocab } = this.#toy;
    return text.slice(-order).reduce((context, id) => context * vocab + id, 0);
  }

  target(text: readonly number[], decoding: Decoding): Float64Array {
    const context = this.context(text);
    return this.#row(`t${context}`, this.#toy.target[context]!, decoding);
  }

  draft(text: readonly number[], slot: number, decoding: Decoding): Float64Array {
    const context = this.context(text);
    return this.#row(`d${context},${slot}`, this.#toy.draft[context]![slot]!, decoding);
  }

  #row(place: string, logits: readonly number[], { temperature, topK, topP }: Decoding): Float64Array {
    const key = `${place} ${temperature} ${topK} ${topP}`;
    let row = this.#kept.get(key);
    if (row === undefined) {
      const decoding: RowDecoding = { ...NEUTRAL, temperature, topK, topP };
      row = new Float64Array(this.#width);
      row.set(filtered(logits, decoding));
      this.#kept.set(key, row);
    }
    return row;
  }
}

export interface ToysInput {
  readonly engine: Engine;
  readonly observer: Observer;
  readonly budget: Budget;
  readonly decoding: (over: Partial<Decoding>) => Decoding;
  readonly seed: string;
  readonly signal: AbortSignal;
  readonly overdue: () => boolean;
  readonly earlier: Readonly<Record<string, Readonly<Record<string, number>>>>;
  /** Logarithm of the e-value that ends the sampling. */
  readonly threshold: number;
}

export interface ToysOutcome {
  readonly laws: RoundLaws;
  readonly replay: ReplayJudge;
  readonly checks: readonly Check[];
  readonly capped: boolean;
}

class Stopped extends Error {}

/** null: the engine has no toys. */
export async function runToys(input: ToysInput): Promise<ToysOutcome | null> {
  const { engine, observer, budget, seed } = input;
  if (engine.openToy === undefined) return null;
  const { rule } = engine.card;
  const laws = new RoundLaws({
    vocabSize: TOY_VOCABULARY,
    rule,
    seed,
    draftsKnown: true,
    powerEvery: Math.max(1, Math.floor(budget.toyTokens / 2_000)),
  });
  for (const name of ['emission', 'acceptance', 'drafts'] as const) {
    laws[name].mixture.resume(input.earlier[`toy ${name}`] ?? {});
  }
  const replay = new ReplayJudge({ rule, blockSize: 2 }, engine.generator, seed);
  const findings = { cards: [] as string[], rows: [] as string[], equality: [] as string[] };
  const counts = { cards: 0, rows: 0, withRows: 0, equal: 0, tokens: 0 };
  let capped = false;
  for (const [salt, { name, toy, settings, share }] of makeToys(seed).entries()) {
    if (observer.broken || input.signal.aborted) break;
    const pair = await observer.ask(`toy ${name}`, 'opening a toy', async () => ({
      speculative: await engine.openToy!(toy, {}),
      plain: await engine.openToy!(toy, { blockSize: 1 }),
    }));
    if (pair === null) break;
    try {
      counts.cards += 2;
      findings.cards.push(...cardProblems(name, pair.speculative, pair.plain, engine, toy));
      if (findings.cards.length > 0) break;
      await equalities(input, name, toy, pair, findings.equality, counts);
      const rows = new ToyRows(toy, TOY_VOCABULARY);
      const due = laws.emission.n + share * budget.toyTokens;
      for (let i = 0; laws.emission.n < due && !laws.reached(input.threshold); i += LANES) {
        if (observer.broken || input.signal.aborted) break;
        capped ||= input.overdue();
        if (capped || findings.rows.length > 0) break;
        const lanes = Array.from({ length: LANES }, (_, lane) => ({
          prompt: promptOf(input.seed, name, i + lane, toy),
          decoding: input.decoding({ maxTokens: SESSION_TOKENS, ...settings[(i + lane) % settings.length] }),
        }));
        const runs = await Promise.all(
          lanes.map(({ prompt, decoding }) => observer.run(pair.speculative, prompt, decoding, `toy ${name}`)),
        );
        runs.forEach((run, lane) => {
          const { prompt, decoding } = lanes[lane]!;
          const judged = exactRounds(rule, rows, toy, prompt.ids, decoding, run, findings.rows, counts);
          laws.session(`${name}, ${prompt.ids.length} ids`, prompt.ids, decoding, judged.exact, {
            salt: salt + 1,
            vocab: toy.vocab,
          });
          replay.session(run.session, prompt.ids.length, decoding, judged.told);
        });
      }
    } finally {
      await Promise.allSettled([pair.speculative.close(), pair.plain.close()]);
    }
  }
  const checks = [
    toyCheck(
      'toy rows',
      'Are the rows of toys the table rows of the tokens before them?',
      findings.cards.concat(findings.rows),
      {
        n: counts.rows,
        of: 'rows',
        fine:
          counts.withRows > 0
            ? `${counts.rows} rows of rounds are those of the tables, tolerance ${ROW_TOLERANCE}.`
            : 'The rounds of toys carry no rows; the laws are tested against the tables.',
        would: `a row of target or draft that is off by more than ${ROW_TOLERANCE}, at any of these positions`,
      },
    ),
    toyCheck(
      'toy equality',
      'Do toys emit the tokens that plain decoding emits, where the rule promises it?',
      findings.equality,
      {
        n: counts.equal,
        of: 'pairs of sessions',
        fine: `${counts.tokens} tokens of ${counts.equal} sessions each way, no difference.`,
        would: 'any difference of greedy decoding, and of sampling under the rules match and coupled',
      },
    ),
  ];
  return { laws, replay, checks, capped };
}

function toyCheck(
  id: string,
  question: string,
  problems: readonly string[],
  { n, of, fine, would }: { readonly n: number; readonly of: string; readonly fine: string; readonly would: string },
): Check {
  return concluded({ id, question, would, of }, n, problems, fine);
}

function cardProblems(name: string, speculative: Engine, plain: Engine, engine: Engine, toy: Toy): string[] {
  const due = { rule: engine.card.rule, vocabSize: toy.vocab };
  return [speculative, plain].flatMap(({ card }, i) => {
    const expected = { ...due, blockSize: i === 0 ? toy.block : 1 };
    return Object.entries(expected)
      .filter(([key, value]) => card?.[key as keyof typeof expected] !== value)
      .map(
        ([key, value]) => `toy ${name}: the card says ${key} ${card?.[key as keyof typeof expected]}, ${value} is due`,
      );
  });
}

function promptOf(seed: string, name: string, i: number, { vocab }: Toy): GatePrompt {
  const random = new Random(seed, 48);
  for (let skip = 0; skip < (i % 8) * 8; skip++) random.uniform();
  const ids = Array.from({ length: 1 + (i % 7) }, () => random.below(vocab));
  return { name: `${name} ${i % 8}`, ids };
}

/** Sessions of both modes with one seed: greedy always, sampling where the rule promises the same tokens. */
async function equalities(
  { engine, observer, budget, decoding, seed, signal }: ToysInput,
  name: string,
  toy: Toy,
  pair: { readonly speculative: Engine; readonly plain: Engine },
  problems: string[],
  counts: { equal: number; tokens: number },
): Promise<void> {
  const temperatures = engine.card.rule === 'reject' ? [0] : [0, 1, 0.7];
  for (let i = 0; i < budget.toyEqualitySessions; i++) {
    if (observer.broken || signal.aborted) return;
    const temperature = temperatures[i % temperatures.length]!;
    const prompt = promptOf(seed, name, i, toy);
    const same = decoding({ temperature, maxTokens: SESSION_TOKENS, ...(i % 2 === 1 ? { topP: 0.9 } : {}) });
    const [a, b] = await Promise.all([
      observer.run(pair.plain, prompt, same, 'toy plain'),
      observer.run(pair.speculative, prompt, same, 'toy'),
    ]);
    if (a.fault !== null || b.fault !== null) continue;
    counts.equal += 1;
    counts.tokens += a.tokens.length;
    const at = firstDifference(a.tokens, b.tokens);
    if (at === null) continue;
    problems.push(
      `toy ${name}, prompt ${prompt.ids.join(' ')}, temperature ${temperature}, seed ${same.seed}, output ${at}: plain gives ${a.tokens[at] ?? 'the end'}, speculation ${b.tokens[at] ?? 'the end'}`,
    );
  }
}

/** Rounds with the rows of the tables, and with the rows that they carry themselves. Stops at what cannot be judged. */
function exactRounds(
  rule: VerificationRule,
  rows: ToyRows,
  toy: Toy,
  prompt: readonly number[],
  decoding: Decoding,
  run: Observed,
  problems: string[],
  counts: { rows: number; withRows: number },
): { readonly exact: RowsOfRound[]; readonly told: RowsOfRound[] } {
  const exact: RowsOfRound[] = [];
  const told: RowsOfRound[] = [];
  const text = [...prompt];
  try {
    for (const [index, round] of run.rounds.entries()) {
      const where = `${run.session}, round ${index}`;
      const foreign = [...round.committed, ...round.drafted].some((id) => id >= toy.vocab);
      if (foreign || round.drafted.length >= toy.block) throw new Stopped(); // the books have it
      const p = Array.from({ length: round.drafted.length + 1 }, (_, i) =>
        rows.target([...text, ...round.drafted.slice(0, i)], decoding),
      );
      const q = round.drafted.map((_, i) => rows.draft(text, i, decoding));
      exact.push({ round, p, q });
      const own = rowsOf(round, toy.vocab);
      if (typeof own === 'string') {
        problems.push(`${where}: ${own}`);
        throw new Stopped();
      }
      if (own !== null) {
        counts.withRows += 1;
        told.push({ round, ...own });
        for (const [kind, given, due] of [
          ['target', own.p, p],
          ['draft', own.q, q],
        ] as const) {
          given.forEach((row, i) => {
            if (due[i] === undefined) return;
            counts.rows += 1;
            const apart = distance(row, due[i]!);
            if (apart > ROW_TOLERANCE) problems.push(`${where}: ${kind} row ${i} is off by ${apart.toPrecision(3)}`);
          });
        }
      }
      if (rule === 'match') problems.push(...greedyDrafts(toy, rows, text, round, where));
      text.push(...round.committed);
    }
  } catch (error) {
    if (!(error instanceof Stopped)) throw error;
  }
  return { exact, told };
}

/** Drafts that are not sampled are the most likely tokens of their rows, lowest id on ties. */
function greedyDrafts(toy: Toy, rows: ToyRows, text: readonly number[], { drafted }: Round, where: string): string[] {
  const context = rows.context(text);
  return drafted.flatMap((token, slot) => {
    const due = argmax(toy.draft[context]![slot]!);
    return token === due ? [] : [`${where}: draft ${slot} is ${token}, the draft's most likely token is ${due}`];
  });
}

function distance(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let x = 0; x < b.length; x++) sum += Math.abs((a[x] ?? 0) - b[x]!);
  return sum / 2;
}
