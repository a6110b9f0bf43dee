/**
 * A decode loop over toys, held against what is known of them without asking it: rounds decided again from their own rows and
 * numbers, counters read once, rows of the tables, books, the exact laws of what is emitted and accepted, and decisions at the
 * edges of a uniform's range. Seeds and budgets are fixed: only times differ between two runs.
 */
import type { Decoding, Engine, Round, VerificationRule } from '../engine.ts';
import { Observer } from '../gate/observer.ts';
import { LARGEST_UNIFORM } from '../oracle/edges.ts';
import { EMPIRICAL_ALPHA, type Pearson } from '../oracle/empirical.ts';
import { type Fixture, runLength } from '../oracle/fixture.ts';
import { Model } from '../oracle/model.ts';
import { compareToy, sampleToy, toyOf } from '../oracle/toy.ts';
import { CounterAudit } from '../verify/counters.ts';
import { replayRound } from '../verify/replay.ts';
import { rowsOf } from '../verify/round-laws.ts';
import type { DefectBuild } from './build.ts';
import type { Layer } from './schema.ts';

/** Sessions that are decided again, and their length: beyond the run of the fixture, whose law is not needed here. */
const REPLAYED_SESSIONS = 400;
const REPLAYED_TOKENS = 16;
const LAW_SESSIONS = 4_000;
/** Rows here and there are binary64 from the same binary32 logits. */
const ROW_TOLERANCE = 1e-9;
const STEP_MS = 60_000;
const FIRST_SEED = 1;

/** What one judge found: when first, and what. */
export interface Sight {
  readonly killed: boolean;
  readonly n: number;
  readonly of: string;
  readonly measure: string;
  readonly distance: number | null;
}

class Judge {
  readonly #nothing: string;
  #n = 0;
  #first: { readonly n: number; readonly text: string } | null = null;

  constructor(nothing: string) {
    this.#nothing = nothing;
  }

  saw(n: number, text: string | null): void {
    this.#n += n;
    if (text !== null) this.#first ??= { n: this.#n, text };
  }

  sight(of: string): Sight {
    const { n, text } = this.#first ?? { n: this.#n, text: this.#nothing };
    return { killed: this.#first !== null, n, of, measure: text, distance: null };
  }
}

export class SessionJudges {
  readonly #books = new Judge('every round adds up');
  readonly #replay = new Judge('every decision follows');
  readonly #counters = new Judge('every counter read once, as stated');
  readonly #rows = new Judge('every row is that of its prefix');

  /** `model`: the tables, or null where rows are not known. */
  session(
    engine: Engine,
    decoding: Decoding,
    prompt: readonly number[],
    rounds: readonly Round[],
    model: Model | null,
  ): void {
    const setting = { rule: engine.card.rule, blockSize: engine.card.blockSize };
    const audit = new CounterAudit(engine.generator, decoding.seed);
    const ids = [...prompt];
    for (const round of rounds) {
      const rows = rowsOf(round, engine.card.vocabSize);
      if (rows === null || typeof rows === 'string') {
        this.#replay.saw(1, rows ?? 'the round carries no rows');
        continue;
      }
      const again = replayRound(setting, decoding, round, rows, ids.length);
      this.#replay.saw(1, again.kind === 'same' ? null : again.kind === 'untold' ? 'no numbers' : again.text);
      if (model !== null) this.#rows.saw(1, wrongRow(model, ids, round, rows));
      ids.push(...round.committed);
    }
    audit.session(decoding.seed, rounds, 'in a session');
    this.#counters.saw(rounds.length, audit.found()[0] ?? null);
  }

  books(rounds: number, text: string | null): void {
    this.#books.saw(rounds, text);
  }

  sights(withRows: boolean): Map<Layer, Sight> {
    const sights = new Map<Layer, Sight>([
      ['loop: books', this.#books.sight('rounds')],
      ['loop: replay', this.#replay.sight('rounds')],
      ['loop: counters', this.#counters.sight('rounds')],
    ]);
    if (withRows) sights.set('loop: rows', this.#rows.sight('rounds'));
    return sights;
  }
}

function wrongRow(
  model: Model,
  ids: readonly number[],
  round: Round,
  { p, q }: { readonly p: readonly Float64Array[]; readonly q: readonly Float64Array[] },
): string | null {
  const off = (row: Float64Array, due: readonly number[]): boolean =>
    row.some((value, id) => Math.abs(value - due[id]!) > ROW_TOLERANCE);
  const context = model.contextOf(ids);
  const draft = q.findIndex((row, slot) => off(row, model.draftRow(context, slot)));
  if (draft >= 0) return `draft row ${draft} is not that of the committed tokens`;
  const target = p.findIndex((row, i) =>
    off(row, model.targetRow(model.contextOf([...ids, ...round.drafted.slice(0, i)]), [])),
  );
  return target < 0 ? null : `target row ${target} is not that of the tokens before it`;
}

/** Sessions of an engine through the judges; `model` as above. */
export async function judgeSessions(
  engine: Engine,
  prompts: readonly (readonly number[])[],
  decoding: Omit<Decoding, 'seed'>,
  sessions: number,
  model: Model | null,
): Promise<Map<Layer, Sight>> {
  const judges = new SessionJudges();
  for (let i = 0; i < sessions; i++) {
    const observer = new Observer(STEP_MS);
    const ids = prompts[i % prompts.length]!;
    const asked = { ...decoding, seed: String(FIRST_SEED + i) };
    const run = await observer.run(engine, { name: `${i}`, ids }, asked, 'loop');
    const wrong = observer.violations[0]?.text ?? observer.faults[0]?.message ?? null;
    judges.books(run.rounds.length, wrong);
    judges.session(engine, asked, ids, run.rounds, model);
    if (observer.broken) break;
  }
  return judges.sights(model !== null);
}

const decodingOf = ({ decoding }: Fixture, maxTokens: number): Omit<Decoding, 'seed'> => {
  const { temperature, topK, topP, stopIds } = decoding;
  return { temperature, topK, topP, stopIds, maxTokens };
};

/** One fixture under one rule through every judge of the loop. */
export async function judgeLoop(
  build: DefectBuild,
  given: Fixture,
  rule: VerificationRule,
  defect: string | null,
): Promise<Map<Layer, Sight>> {
  const { toy, fixture } = toyOf(given);
  const length = fixture.decoding.maxTokens === null ? REPLAYED_TOKENS : runLength(fixture);
  const roomy = { ...toy, maxContext: toy.maxContext + length };
  const engine = await build.openToy(roomy, { rule, defect });
  const model = new Model(fixture);
  const sights = await judgeSessions(engine, [fixture.prompt], decodingOf(fixture, length), REPLAYED_SESSIONS, model);
  const sampled = await sampleToy(engine, fixture, LAW_SESSIONS, FIRST_SEED);
  const { emitted, accepted } = compareToy(sampled, fixture, rule);
  sights.set('loop: emitted law', lawSight(emitted));
  if (accepted !== null) sights.set('loop: accepted law', lawSight(accepted));
  await engine.close();
  return sights;
}

function lawSight({ n, statistic, df, p, offSupport, smallestDistance }: Pearson): Sight {
  const outside = offSupport > 0 ? `, ${offSupport} where the law has no mass` : '';
  const seen = smallestDistance === null ? '' : `; distances from ${smallestDistance.toFixed(3)} are seen`;
  const measure = `chi-square ${statistic.toFixed(1)} with ${df} degrees of freedom, p ${p.toExponential(1)}${outside}${seen}`;
  return { killed: p < EMPIRICAL_ALPHA, n, of: 'sessions', measure, distance: null };
}

const NONE = Number.NEGATIVE_INFINITY;

/** Tables and a tape whose decision at the edge is known: the only token due. */
const EDGES: readonly {
  readonly name: string;
  readonly row: readonly number[];
  readonly u: number;
  readonly due: number;
}[] = [
  { name: 'u = 0 on a row that starts without mass', row: [NONE, 0, 0], u: 0, due: 1 },
  {
    name: 'the largest u on ten tenths with two ids behind them',
    row: [...new Array<number>(10).fill(0), NONE, NONE],
    u: LARGEST_UNIFORM,
    due: 9,
  },
];

/** The same two edges as in the oracle, through the whole loop: numbers come from a tape. */
export async function judgeEdges(build: DefectBuild, defect: string | null): Promise<Sight> {
  const wrong: string[] = [];
  for (const { name, row, u, due } of EDGES) {
    const vocab = row.length;
    const target = Array.from({ length: vocab }, () => row);
    const toy = { vocab, order: 1, block: 2, maxContext: 16, target, draft: target.map((slot) => [slot]) };
    const engine = await build.openToy(toy, { rule: 'match', defect, tape: [u] });
    const session = await engine.open([due], { ...PLAIN, seed: '1' });
    const { committed } = await session.step();
    if (committed[0] !== due) wrong.push(`${name}: token ${committed[0]} instead of ${due}`);
    await session.close();
    await engine.close();
  }
  const measure = wrong.length === 0 ? 'every edge decided as it is due' : wrong.join('; ');
  return { killed: wrong.length > 0, n: EDGES.length, of: 'vectors', measure, distance: null };
}

const PLAIN = { temperature: 1, topP: 1, topK: 0, maxTokens: 1, stopIds: [] } as const;
