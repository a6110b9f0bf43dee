/**
 * A second-order Markov chain, or a toy of tables, with a factorised draft and the real accept-reject sampler, for testing the
 * gate: rows are known exactly, rounds are cheap, and one defect of the catalogue can be switched on. Unlike an honest build,
 * the card says nothing of the defect: the gate has to find it. Rows in the replay are those of the model, before the
 * sampler's fault, except where the fault is in the rows themselves; uniforms are those that were read.
 */
import {
  type Decoding,
  type Engine,
  type EngineCard,
  InputError,
  type Round,
  type RoundReplay,
  type Score,
  type Session,
  type Toy,
} from '../engine.ts';
import { philox4x32, seedWords, uniform52 } from '../stats/philox.ts';
import { sha256 } from '../suite/canonical.ts';
import type { EngineSource } from './plugin.ts';

/** Faults of the sampler, the rows, the state and the limits, by their id in the catalogue. */
export const MARKOV_DEFECTS = [
  'M01',
  'M02',
  'M03',
  'M04',
  'M05',
  'M06',
  'M07',
  'M08',
  'M09',
  'M10',
  'M11',
  'M12',
  'M13',
  'M14',
  'M15',
  'M16',
  'M18',
  'M19',
  'M20',
  'M22',
  'M23',
  'M24',
  'M25',
  'M26',
  'M27',
  'M28',
  'M29',
  'M30',
  'M31b',
  'M32',
  'M34',
  'M35',
  'M37',
  'M38',
  'M39',
  'H02',
] as const;

/** Lossless but slower: another rule than the declared one, or a draft that knows less (which only a stated floor can show). */
export const MARKOV_SLOW = ['G01', 'G03'] as const;

/** Faults of both modes: equality and law cannot see them, only the filters computed again. */
export const MARKOV_SHARED = ['B1 temperature', 'B2 top-p'] as const;

export type MarkovDefect =
  | (typeof MARKOV_DEFECTS)[number]
  | (typeof MARKOV_SLOW)[number]
  | (typeof MARKOV_SHARED)[number];

export interface MarkovOptions {
  readonly weights: string;
  readonly vocabSize: number;
  readonly blockSize: number;
  readonly maxContext?: number;
  /** Rounds carry p and q. Default true. */
  readonly replay?: boolean;
  /** score() answers. Default true. */
  readonly scores?: boolean;
  /** Rounds carry the uniforms they read, and the engine states their generator. Default true. */
  readonly uniforms?: boolean;
  /** It opens toys, with a tape on request. Default true. */
  readonly toys?: boolean;
  readonly defect?: MarkovDefect;
}

const STREAM = { target: 0, draft: 1, accept: 2, residual: 3, row: 9 } as const;
/** Rows are functions of few keys, and the sessions of a gate meet them again and again. */
const MOST_ROWS = 200_000;

type Filters = Pick<Decoding, 'temperature' | 'topK' | 'topP'>;

/** Rows behind a text: of the target, and of the draft `offset` positions ahead, which sees the committed text only. */
interface Rows {
  target(text: readonly number[], filters: Filters): Float64Array;
  draft(text: readonly number[], offset: number, filters: Filters): Float64Array;
}

class Kept {
  readonly #rows = new Map<string, Float64Array>();

  row(key: string, filters: Filters, weights: () => readonly number[]): Float64Array {
    const { temperature, topK, topP } = filters;
    const whole = `${key} ${temperature} ${topK} ${topP}`;
    let row = this.#rows.get(whole);
    if (row === undefined) {
      row = filtered(weights(), filters);
      if (this.#rows.size >= MOST_ROWS) this.#rows.clear();
      this.#rows.set(whole, row);
    }
    return row;
  }
}

/** The tables of a toy. */
class Tables implements Rows {
  readonly #toy: Toy;
  readonly #kept = new Kept();

  constructor(toy: Toy) {
    this.#toy = toy;
  }

  target(text: readonly number[], filters: Filters): Float64Array {
    const context = this.#context(text);
    return this.#kept.row(`t ${context}`, filters, () => weightsOf(this.#toy.target[context]!));
  }

  draft(text: readonly number[], offset: number, filters: Filters): Float64Array {
    const context = this.#context(text);
    return this.#kept.row(`d ${context} ${offset}`, filters, () => weightsOf(this.#toy.draft[context]![offset]!));
  }

  #context(text: readonly number[]): number {
    const { order, vocab } = this.#toy;
    return text.slice(-order).reduce((context, id) => context * vocab + id, 0);
  }
}

function weightsOf(logits: readonly number[]): number[] {
  const top = Math.max(...logits);
  const weights = logits.map((value) => Math.exp(value - top));
  if (weights.some(Number.isNaN)) throw new Error('a row of logits holds a value that is not a number');
  return weights;
}

class Chain implements Rows {
  readonly #options: MarkovOptions;
  readonly #words: { readonly low: number; readonly high: number };
  readonly #kept = new Kept();

  constructor(options: MarkovOptions) {
    this.#options = options;
    this.#words = seedWords(options.weights);
  }

  target(text: readonly number[], filters: Filters): Float64Array {
    const [last, before] = [text.at(-1)!, text.at(-2) ?? -1];
    return this.#kept.row(`t ${last} ${before}`, filters, () => this.#weights(last, before, 0));
  }

  draft(text: readonly number[], offset: number, filters: Filters): Float64Array {
    const [last, before] = [text.at(-1)!, text.at(-2) ?? -1];
    return this.#kept.row(`d ${last} ${before} ${offset}`, filters, () => {
      const near = this.#weights(last, before, 0);
      const own = this.#weights(last, 0, offset + 1);
      const total = (row: readonly number[]): number => row.reduce((sum, value) => sum + value, 0);
      const [a, b] = [total(near), total(own)];
      return near.map((value, x) => value / a + own[x]! / b);
    });
  }

  #weights(last: number, before: number, kind: number): number[] {
    return Array.from({ length: this.#options.vocabSize }, (_, token) => {
      const words = philox4x32([token, last + 1, before + 1, STREAM.row + kind], this.#words.low, this.#words.high);
      return Math.exp(3 * uniform52(words[0], words[1]));
    });
  }
}

/** Temperature, top-k, nucleus; temperature 0 is one-hot at the first maximum. */
function filtered(weights: readonly number[], { temperature, topK, topP }: Filters): Float64Array {
  if (temperature === 0) {
    const best = weights.indexOf(Math.max(...weights));
    return Float64Array.from(weights, (_, x) => (x === best ? 1 : 0));
  }
  const warm = Float64Array.from(weights, (weight) => weight ** (1 / temperature));
  const order = [...warm.keys()].sort((a, b) => warm[b]! - warm[a]! || a - b);
  if (topK > 0) for (const x of order.slice(topK)) warm[x] = 0;
  const row = normalised(warm);
  if (topP === 1) return row;
  let mass = 0;
  for (const x of order) {
    const before = mass;
    mass += row[x]!;
    if (before >= topP) row[x] = 0;
  }
  return normalised(row);
}

function normalised(row: Float64Array): Float64Array {
  const sum = row.reduce((total, value) => total + value, 0);
  return row.map((value) => value / sum);
}

/** M34 takes an edge for inside, M35 falls through to the last id. */
function inverse(row: Float64Array, u: number, defect?: MarkovDefect): number {
  let sum = 0;
  let last = 0;
  for (let x = 0; x < row.length; x++) {
    sum += row[x]!;
    if (row[x]! > 0) last = x;
    if (defect === 'M34' ? sum >= u : sum > u) return x;
  }
  return defect === 'M35' ? row.length - 1 : last;
}

function argmax(row: Float64Array): number {
  return row.indexOf(Math.max(...row));
}

const logs = (row: Float64Array): Float64Array => row.map(Math.log);

/** Opens with the block of `options` unless told otherwise. */
export function markovSource(options: MarkovOptions): EngineSource {
  const chain = new Chain(options);
  return {
    name: 'markov',
    open: async ({ blockSize }) => markovEngine({ ...options, blockSize: blockSize ?? options.blockSize }, chain),
    close: async () => {},
  };
}

export function markovEngine(options: MarkovOptions, rows: Rows = new Chain(options), tape: Tape = null): Engine {
  const card: EngineCard = {
    name: 'markov',
    weightsDigest: sha256(`markov ${options.weights} ${options.vocabSize}`),
    draftDigest: options.blockSize > 1 ? sha256(`markov draft ${options.weights}`) : 'none',
    numerics: { id: 'markov=f64', experts: 'none', linears: 'none', activations: 'none', kv: 'none' },
    device: 'none',
    topology: 'none',
    tensorParallel: 1,
    blockSize: options.blockSize,
    rule: 'reject',
    buildDigest: 'none',
    vocabSize: options.vocabSize,
    maxContext: options.maxContext ?? 512,
    defects: [],
    syntheticAcceptance: null,
  };
  const stated = options.uniforms !== false && tape === null;
  return {
    card,
    ...(stated ? { generator: 'philox4x32-10' as const } : {}),
    ...(options.toys === false ? {} : { openToy: toysOf(options), tapes: true }),
    open: async (prompt, asked) => {
      const decoding = {
        ...asked,
        ...(options.defect === 'B1 temperature' && asked.temperature > 0 ? { temperature: 1 } : {}),
        ...(options.defect === 'B2 top-p' ? { topP: 1 } : {}),
      };
      if (prompt.length === 0) throw new InputError('the prompt is empty');
      if (prompt.some((id) => id < 0 || id >= card.vocabSize))
        throw new InputError('a token is outside the vocabulary');
      if (prompt.length >= card.maxContext) throw new InputError('the prompt does not fit the context');
      const state = { tokens: [...prompt], emitted: 0, round: 0, taped: 0 };
      return new MarkovSession({ options, card, rows, decoding, tape }, state);
    },
    score: async (prefix, next) => {
      if (options.scores === false) throw new InputError('this chain gives no scores');
      return scored(rows, prefix, next);
    },
    close: async () => {},
  };
}

function toysOf(options: MarkovOptions): NonNullable<Engine['openToy']> {
  return async (toy, { blockSize, tape }) => {
    const { vocab, block, maxContext } = toy;
    const own = { ...options, vocabSize: vocab, blockSize: blockSize ?? block, maxContext };
    return markovEngine(own, new Tables(toy), tape ?? null);
  };
}

function scored(rows: Rows, prefix: readonly number[], next: readonly number[]): Score {
  const text = [...prefix];
  const logprobs = next.map((token) => {
    const value = Math.log(rows.target(text, { temperature: 1, topK: 0, topP: 1 })[token] ?? 0);
    text.push(token);
    return value;
  });
  return { logprobs };
}

/** Uniforms to be read in order instead of the generator's. */
type Tape = readonly number[] | null;

interface Setting {
  readonly options: MarkovOptions;
  readonly card: EngineCard;
  readonly rows: Rows;
  readonly decoding: Decoding;
  readonly tape: Tape;
}

interface State {
  readonly tokens: number[];
  emitted: number;
  round: number;
  /** Numbers read from the tape. */
  taped: number;
  /** M19: draft rows of the round before. M20: a rejected draft that was not rolled back. */
  stale?: Float64Array[];
  ghost?: number | undefined;
  finished?: boolean;
}

class MarkovSession implements Session {
  readonly #setting: Setting;
  readonly #options: MarkovOptions;
  readonly #card: EngineCard;
  readonly #rows: Rows;
  readonly #decoding: Decoding;
  readonly #state: State;
  readonly #key: { readonly low: number; readonly high: number };
  #uniforms: RoundReplay['uniforms'][number][] = [];

  constructor(setting: Setting, state: State) {
    this.#setting = setting;
    this.#options = setting.options;
    this.#card = setting.card;
    this.#rows = setting.rows;
    this.#decoding = setting.decoding;
    this.#state = state;
    this.#key = seedWords(setting.decoding.seed);
  }

  async fork(): Promise<Session> {
    return new MarkovSession(this.#setting, { ...this.#state, tokens: [...this.#state.tokens] });
  }

  async close(): Promise<void> {}

  async step(): Promise<Round> {
    const state = this.#state;
    if (state.finished) throw new InputError('the session has ended');
    const started = process.hrtime.bigint();
    const kind = state.round === 0 ? 'prefill' : 'decode';
    const room = this.#card.maxContext - state.tokens.length;
    const drafts = kind === 'prefill' ? 0 : Math.min(this.#options.blockSize, room) - 1;
    const defect = this.#card.blockSize > 1 && this.#decoding.temperature > 0 ? this.#options.defect : undefined;

    this.#uniforms = [];
    const q = Array.from({ length: drafts }, (_, i) => this.#draftRow(i));
    const greedy = this.#decoding.temperature === 0;
    const drafted = q.map((row, i) =>
      greedy ? argmax(row) : this.#drawn(row, defect, this.#uniform('draft', state.tokens.length + i)),
    );
    const p = Array.from({ length: drafts + 1 }, (_, i) => this.#targetRow(drafted, i, drafts, defect));
    const { emitted, accepted } = this.#verify(p, q, drafted, defect);
    const { committed, finish } = this.#cut(emitted);
    state.ghost = defect === 'M20' && accepted < drafts ? drafted[accepted] : undefined;
    state.stale = q;
    state.tokens.push(...committed);
    state.emitted += committed.length;
    state.round += 1;
    state.finished = finish !== null;
    const total = Number(process.hrtime.bigint() - started);
    const logged = this.#options.replay ?? true;
    if (defect === 'M39' && state.round === 3 && q[0] !== undefined) q[0] = q[0].map(() => Number.NaN);
    return {
      kind,
      committed,
      drafted,
      accepted: defect === 'H02' && accepted > 0 ? accepted - 1 : accepted,
      finish,
      deviceNs: null,
      hostNs: { draft: 0, verify: total, total },
      ...(logged ? { replay: { p: p.map(logs), q: q.map(logs), uniforms: this.#told() } } : {}),
    };
  }

  #told(): RoundReplay['uniforms'] {
    return this.#options.uniforms === false ? [] : this.#uniforms;
  }

  #drawn(row: Float64Array, defect: MarkovDefect | undefined, u: number): number {
    return defect === 'M16' ? argmax(row) : inverse(row, u, defect);
  }

  #draftRow(i: number): Float64Array {
    const { tokens } = this.#state;
    // G01: the draft is fed one token early. Over tables it is what the table says; what it should be over the chain nobody knows.
    const early = this.#options.defect === 'G01' && this.#rows instanceof Chain && tokens.length > 1;
    return this.#rows.draft(early ? tokens.slice(0, -1) : tokens, i, this.#decoding);
  }

  #targetRow(drafted: readonly number[], i: number, drafts: number, defect: MarkovDefect | undefined): Float64Array {
    const text = [...this.#state.tokens.slice(-8), ...drafted.slice(0, i)];
    // The ghost stands where the token before the last one is read.
    if (i === 0 && this.#state.ghost !== undefined) text[text.length - 2] = this.#state.ghost;
    if (defect === 'M13' && drafts > 0) return this.#rows.target(text, { ...this.#decoding, temperature: 1 });
    if (defect === 'M14' && drafts > 0 && i < drafts) return this.#rows.target(text, { ...this.#decoding, topP: 1 });
    return this.#rows.target(text, this.#decoding);
  }

  #verify(
    p: readonly Float64Array[],
    q: readonly Float64Array[],
    drafted: readonly number[],
    defect: MarkovDefect | undefined,
  ): { emitted: number[]; accepted: number } {
    const emitted: number[] = [];
    const at = this.#state.tokens.length;
    const greedy = this.#decoding.temperature === 0;
    if (greedy) return this.#verifyGreedy(p, drafted);
    for (const [i, d] of drafted.entries()) {
      const coinPosition = defect === 'M32' ? at : at + i;
      const coin = this.#uniform('accept', coinPosition, defect === 'M31b' ? STREAM.draft : STREAM.accept);
      if (this.#accepts(p[i]!, q, i, d, coin, drafted.length, defect)) {
        emitted.push(d);
        continue;
      }
      const accepted = emitted.length;
      if (defect === 'M22' && i > 0) return { emitted, accepted };
      const fresh = this.#uniform('residual', at + i);
      emitted.push(inverse(normalised(this.#residual(p, q, i, d, defect)), defect === 'M30' ? coin : fresh, defect));
      return { emitted, accepted };
    }
    const last = drafted.length;
    const bonus =
      last === 0 || this.#state.round === 0
        ? p[last]!
        : defect === 'M07'
          ? p[last - 1]!
          : defect === 'M08'
            ? this.#draftRow(last - 1)
            : p[last]!;
    const token =
      defect === 'M09' && last > 0
        ? argmax(bonus)
        : inverse(bonus, this.#uniform(last > 0 ? 'residual' : 'target', at + last), defect);
    emitted.push(token);
    return { emitted, accepted: last };
  }

  #verifyGreedy(p: readonly Float64Array[], drafted: readonly number[]): { emitted: number[]; accepted: number } {
    const own = p.map(argmax);
    const refused = drafted.findIndex((token, i) => token !== own[i]);
    const accepted = refused < 0 ? drafted.length : refused;
    return { emitted: own.slice(0, accepted + 1), accepted };
  }

  #accepts(
    p: Float64Array,
    q: readonly Float64Array[],
    i: number,
    d: number,
    u: number,
    drafts: number,
    defect: MarkovDefect | undefined,
  ): boolean {
    const [pd, qd] = [p[d]!, q[i]![d]!];
    switch (defect) {
      case 'M03':
        return true;
      case 'M04':
        return u * pd < qd;
      case 'M06':
      case 'G03':
        return u < pd;
      case 'M11':
        return i === 0 || u * qd < pd;
      case 'M12':
        return i === drafts - 1 || u * qd < pd;
      case 'M15':
        return u * this.#rawDraft(i)[d]! < pd;
      case 'M18':
        return u * (q[i + 1] ?? q[i]!)[d]! < pd;
      case 'M19':
        return u * (this.#state.stale?.[i] ?? q[i]!)[d]! < pd;
      case 'M23':
        return false;
      case 'M24':
        return u * 0.9 * qd < pd;
      case 'M25':
        return u * 0.99 * qd < pd;
      case 'M28':
        return u * (i % 2 === 0 ? 1.01 : 0.99) * qd < pd;
      case 'M34':
        return u * qd <= pd;
      case 'M26':
        return d === argmax(p);
      default:
        return u * qd < pd;
    }
  }

  #rawDraft(i: number): Float64Array {
    return this.#rows.draft(this.#state.tokens, i, { temperature: 1, topK: 0, topP: 1 });
  }

  #residual(
    p: readonly Float64Array[],
    q: readonly Float64Array[],
    i: number,
    d: number,
    defect: MarkovDefect | undefined,
  ): Float64Array {
    const own = p[i]!;
    const left = (a: Float64Array, b: Float64Array): Float64Array => {
      const row = a.map((value, x) => Math.max(0, value - b[x]!));
      return row.some((value) => value > 0) ? row : own;
    };
    const without = (row: Float64Array): Float64Array => row.map((value, x) => (x === d ? 0 : value));
    switch (defect) {
      case 'M01':
        return own;
      case 'M02':
        return own.map((value, x) => Math.abs(value - q[i]![x]!));
      case 'M05':
      case 'G03':
        return without(own);
      case 'M10':
        return left(p[i + 1]!, q[i + 1] ?? q[i]!);
      case 'M15':
        return left(own, this.#rawDraft(i));
      case 'M18':
        return left(own, q[i + 1] ?? q[i]!);
      case 'M19':
        return left(own, this.#state.stale?.[i] ?? q[i]!);
      case 'M23':
        return left(without(own), q[i]!);
      case 'M26':
        return own.map((_, x) => (x === argmax(own) ? 1 : 0));
      case 'M27':
        return own.map((_, x) => (x === 0 ? 1 : 0));
      case 'M29':
        return left(own, q[0]!);
      default:
        return left(own, q[i]!);
    }
  }

  #cut(emitted: readonly number[]): { committed: number[]; finish: Round['finish'] } {
    const { stopIds, maxTokens } = this.#decoding;
    const { tokens, emitted: before, round } = this.#state;
    const speculative = this.#card.blockSize > 1;
    const counted = this.#options.defect === 'M38' && speculative ? round : before;
    const committed: number[] = [];
    let stopped = false;
    for (const token of emitted) {
      committed.push(token);
      stopped ||= stopIds.includes(token);
      if (stopped && !(this.#options.defect === 'M37' && speculative)) break;
      if (counted + committed.length >= maxTokens || tokens.length + committed.length >= this.#card.maxContext) {
        return { committed, finish: stopped ? 'stop' : 'length' };
      }
    }
    return { committed, finish: stopped ? 'stop' : null };
  }

  #uniform(name: keyof typeof STREAM, position: number, stream: number = STREAM[name]): number {
    const { round } = this.#state;
    const { tape } = this.#setting;
    const words = philox4x32([position, stream, 0, round], this.#key.low, this.#key.high);
    const u = tape === null ? uniform52(words[0], words[1]) : tape[this.#state.taped++ % tape.length]!;
    this.#uniforms.push({ stream: name, position, round, draw: 0, u });
    return u;
  }
}
