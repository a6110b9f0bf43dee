/**
 * The oracle's rounds as an engine behind the seam, with one defect of the registry put in and nothing said of it on the card:
 * so every defect that the registry knows meets the gate, also those that the C++ loop has no place for (penalties, ranks,
 * preemption, logit bias). Numbers come from the engine's own generator, or from a tape.
 *
 * Rows of a fixture, decoding of the caller. Penalties and bias belong to the fixture and are the same in plain decoding.
 */
import {
  type Decoding,
  type Engine,
  type EngineCard,
  InputError,
  type Round,
  type RoundReplay,
  type Session,
  type Toy,
  type ToyOptions,
  type VerificationRule,
} from '../engine.ts';
import type { EngineSource } from '../engines/plugin.ts';
import type { Defect } from '../oracle/defects.ts';
import { WRONG_COMPARISONS } from '../oracle/edges.ts';
import type { Fixture } from '../oracle/fixture.ts';
import { CORRECT, type Hooks } from '../oracle/hooks.ts';
import { Model } from '../oracle/model.ts';
import { prefillRound, type RoundView, type State, verifyRound } from '../oracle/round.ts';
import { hasPenalties, type Row } from '../oracle/rows.ts';
import { type Address, type Comparisons, inverseCdf, type Source, STREAM, STRICT } from '../oracle/source.ts';
import { philox4x32, seedWords, uniform52 } from '../stats/philox.ts';
import { sha256 } from '../suite/canonical.ts';

const STREAM_NAMES: Readonly<Record<number, string>> = {
  [STREAM.target]: 'target',
  [STREAM.draft]: 'draft',
  [STREAM.coin]: 'accept',
  [STREAM.residual]: 'residual',
};
/** Second half of the key of a rank that has a seed of its own (M40). */
const OTHER_RANK = 0x9e3779b9;
const MAX_CONTEXT = 512;
const NO_PENALTIES = { repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: [] };

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type Uniform = RoundReplay['uniforms'][number];
type Noise = NonNullable<RoundReplay['noise']>[number];

/** Draws by counter or tape, and remembers what it drew. */
class RecordingSource implements Source {
  readonly uniforms: Uniform[] = [];
  readonly noise: Noise[] = [];
  readonly #key: { readonly low: number; readonly high: number };
  readonly #tape: { readonly values: readonly number[]; next: number } | null;
  readonly #comparisons: Comparisons;
  readonly #ranksDiffer: boolean;
  of: 'draft' | 'target' = 'target';

  constructor(seed: string, tape: { readonly values: readonly number[]; next: number } | null, defect: Defect | null) {
    this.#key = seedWords(seed);
    this.#tape = tape;
    this.#comparisons = WRONG_COMPARISONS[defect?.id ?? ''] ?? STRICT;
    this.#ranksDiffer = defect?.effects.includes('agreement') ?? false;
  }

  #at({ position, stream, round }: Address, draw: number, high = this.#key.high) {
    return philox4x32([position, stream, draw, round], this.#key.low, high);
  }

  #uniform(address: Address): number {
    const { position, stream, round } = address;
    const words = this.#at(address, 0);
    const tape = this.#tape;
    const u = tape === null ? uniform52(words[0], words[1]) : tape.values[tape.next++ % tape.values.length]!;
    this.uniforms.push({ stream: STREAM_NAMES[stream] ?? `${stream}`, position, round, draw: 0, u });
    return u;
  }

  pick(address: Address, row: Row): number {
    return inverseCdf(row, this.#uniform(address), this.#comparisons);
  }

  coin(address: Address, numerator: number, denominator: number): boolean {
    const own = this.#uniform(address);
    const words = this.#at(address, 0, this.#key.high ^ OTHER_RANK);
    const u = this.#ranksDiffer ? uniform52(words[0], words[1]) : own;
    return this.#comparisons.accepts(u, denominator, numerator);
  }

  /** The uniforms behind the noise of a position. */
  #noise(address: Address, size: number): Float64Array {
    const out = new Float64Array(size);
    for (let token = 0; token < size; token += 2) {
      const words = this.#at(address, token >> 1);
      out[token] = uniform52(words[0], words[1]);
      if (token + 1 < size) out[token + 1] = uniform52(words[2], words[3]);
    }
    return out;
  }

  exponentials(address: Address, size: number): number[] {
    return Array.from(this.#noise(address, size), (u) => -Math.log(u));
  }

  gumbel(address: Address, row: Row): number {
    const u = this.#noise(address, row.length);
    this.noise.push({ of: this.of, position: address.position, round: address.round, u });
    let best = -1;
    let most = Number.NEGATIVE_INFINITY;
    for (let id = 0; id < row.length; id++) {
      const value = Math.log(row[id]!) - Math.log(-Math.log(u[id]!));
      if (row[id]! > 0 && (best < 0 || value > most)) [best, most] = [id, value];
    }
    return best;
  }
}

interface Setting {
  readonly fixture: Fixture;
  readonly rule: VerificationRule;
  readonly block: number;
  readonly maxContext: number;
  readonly defect: Defect | null;
  readonly tape: readonly number[] | null;
}

/** Models by decoding and block: rows are the same for every session. */
class Models {
  readonly #setting: Setting;
  readonly #known = new Map<string, Model>();

  constructor(setting: Setting) {
    this.#setting = setting;
  }

  of(decoding: Decoding, prompt: readonly number[], block: number): Model {
    const { fixture } = this.#setting;
    const { temperature, topP, topK, stopIds } = decoding;
    const inPrompt = hasPenalties(fixture.decoding) ? [...new Set(prompt)].sort().join() : '';
    const key = `${temperature} ${topP} ${topK} ${block} ${inPrompt}`;
    let model = this.#known.get(key);
    if (model === undefined) {
      const asked = { ...fixture.decoding, temperature, topP, topK, stopIds: [...stopIds] };
      model = new Model({ ...fixture, prompt: [...prompt], block, decoding: asked });
      this.#known.set(key, model);
    }
    return model;
  }
}

function logs(row: Row): Float64Array {
  const out = new Float64Array(row.length);
  for (let token = 0; token < row.length; token++) out[token] = Math.log(row[token]!);
  return out;
}

class OracleSession implements Session {
  readonly #setting: Setting;
  readonly #models: Models;
  readonly decoding: Decoding;
  readonly #prompt: readonly number[];
  #state: State;
  #emitted = 0;
  #round = 0;
  #finished = false;
  #tapeAt = 0;

  constructor(setting: Setting, models: Models, prompt: readonly number[], decoding: Decoding) {
    this.#setting = setting;
    this.#models = models;
    this.decoding = decoding;
    this.#prompt = prompt;
    const model = models.of(decoding, prompt, 1);
    // Where a prompt is shorter than the order, 0 stands for what is missing, as in a toy.
    const padded = [...new Array<number>(setting.fixture.order).fill(0), ...prompt];
    this.#state = {
      context: model.contextOf(padded),
      counted: model.penalties ? new Array<number>(model.vocab).fill(0) : [],
      memory: [],
    };
  }

  async step(): Promise<Round> {
    if (this.#finished) throw new InputError('the session has ended');
    const started = process.hrtime.bigint();
    const { rule, defect, tape, maxContext } = this.#setting;
    const position = this.#prompt.length + this.#emitted;
    const kind = this.#round === 0 ? 'prefill' : 'decode';
    const block = kind === 'prefill' ? 1 : Math.min(this.#setting.block, maxContext - position);
    const reel = tape === null ? null : { values: tape, next: this.#tapeAt };
    const source = new RecordingSource(this.decoding.seed, reel, defect);
    let seen: RoundView | null = null;
    const asked = { ...CORRECT, ...(this.#setting.block > 1 ? defect?.change : {}) };
    const model = this.#models.of(this.decoding, this.#prompt, block);
    const run = { model, rule, hooks: watched(asked, source, (view) => (seen = view)) };
    const advance = kind === 'prefill' ? prefillRound : verifyRound;
    const { tokens, accepted, next } = advance(run, this.#state, { position, round: this.#round }, source);
    const view = seen as unknown as RoundView;
    const { kept, ended } = asked.emit({
      emitted: this.#emitted,
      tokens,
      stopIds: this.decoding.stopIds,
      maxTokens: this.decoding.maxTokens,
      memory: next.memory,
    });
    const committed = kept.slice(0, maxContext - position);
    const full = position + committed.length >= maxContext;
    const stopped = committed.some((token) => this.decoding.stopIds.includes(token));
    const drafted = view.draftsBefore(view.k);
    const greedy = model.greedy;
    const replay: Mutable<RoundReplay> = {
      p: Array.from({ length: view.k + 1 }, (_, slot) => logs(view.p(slot))),
      q: greedy || rule === 'match' ? [] : drafted.map((_, slot) => logs(view.q(slot))),
      uniforms: source.uniforms,
    };
    if (source.noise.length > 0) replay.noise = source.noise;
    this.#state = next;
    this.#emitted += committed.length;
    this.#round += 1;
    this.#finished = ended || full;
    this.#tapeAt = reel?.next ?? 0;
    const total = Number(process.hrtime.bigint() - started);
    return {
      kind,
      committed,
      drafted,
      accepted,
      finish: !this.#finished ? null : stopped ? 'stop' : 'length',
      deviceNs: null,
      hostNs: { draft: 0, verify: total, total },
      replay,
    };
  }

  async fork(): Promise<Session> {
    const copy = new OracleSession(this.#setting, this.#models, this.#prompt, this.decoding);
    copy.#state = this.#state;
    copy.#emitted = this.#emitted;
    copy.#round = this.#round;
    copy.#finished = this.#finished;
    copy.#tapeAt = this.#tapeAt;
    return copy;
  }

  async close(): Promise<void> {}
}

/** Hooks that propose the whole block before the first decision, as engines do, and show the view of the round. */
function watched(hooks: Hooks, source: RecordingSource, see: (view: RoundView) => void): Hooks {
  const whole = (view: RoundView): void => {
    if (view.k > 0) view.draft(view.k - 1);
  };
  return {
    ...hooks,
    propose: (view, slot) => {
      source.of = 'draft';
      const token = hooks.propose(view, slot);
      source.of = 'target';
      return token;
    },
    unchecked: (view, slot) => {
      whole(view);
      return hooks.unchecked(view, slot);
    },
    odds: (view, slot, draft) => {
      whole(view);
      return hooks.odds(view, slot, draft);
    },
    memory: (view) => {
      see(view);
      return hooks.memory(view);
    },
  };
}

function oracleEngine(setting: Setting): Engine {
  const { fixture, rule, block, maxContext, defect } = setting;
  const models = new Models(setting);
  const card: EngineCard = {
    name: 'oracle',
    weightsDigest: sha256(`oracle ${JSON.stringify([fixture.rows, fixture.target])}`),
    draftDigest: block > 1 ? sha256(`oracle draft ${JSON.stringify(fixture.draft)}`) : 'none',
    numerics: { id: 'oracle=f64', experts: 'none', linears: 'none', activations: 'none', kv: 'none' },
    device: 'none',
    topology: 'none',
    tensorParallel: 1,
    blockSize: block,
    rule,
    buildDigest: 'none',
    vocabSize: fixture.vocab,
    maxContext,
    defects: [],
    syntheticAcceptance: null,
  };
  return {
    card,
    generator: 'philox4x32-10',
    tapes: true,
    openToy: async (toy, options) => oracleEngine(toySetting(toy, options, setting)),
    open: async (prompt, decoding) => {
      if (prompt.length === 0) throw new InputError('the prompt is empty');
      if (prompt.some((id) => !Number.isInteger(id) || id < 0 || id >= card.vocabSize))
        throw new InputError('a token is outside the vocabulary');
      if (prompt.length >= maxContext) throw new InputError('the prompt does not fit the context');
      return new OracleSession(setting, models, [...prompt], decoding);
    },
    score: async (prefix, next) => {
      if (hasPenalties(fixture.decoding)) throw new InputError('rows with penalties depend on what was emitted');
      const bare = { seed: '0', temperature: 1, topP: 1, topK: 0, maxTokens: 1, stopIds: [] };
      const model = models.of(bare, prefix, 1);
      const text = [...new Array<number>(fixture.order).fill(0), ...prefix];
      const logprobs = next.map((token) => {
        const value = Math.log(model.targetRow(model.contextOf(text), [])[token] ?? 0);
        text.push(token);
        return value;
      });
      return { logprobs };
    },
    close: async () => {},
  };

  function toySetting(toy: Toy, { blockSize, tape }: ToyOptions, from: Setting): Setting {
    const { vocab, order, target, draft } = toy;
    const rows = target.map((row) => [...row]);
    const drafts = draft.map((slots) => slots.map((row) => [...row]));
    // Tables are all there is to a toy.
    const decoding = { ...from.fixture.decoding, ...NO_PENALTIES };
    return {
      fixture: {
        ...from.fixture,
        vocab,
        order,
        rows: 'logits',
        target: rows,
        draft: drafts,
        block: toy.block,
        decoding,
      },
      rule: from.rule,
      block: blockSize ?? toy.block,
      maxContext: toy.maxContext,
      defect,
      tape: tape ?? null,
    };
  }
}

/** Engines of one fixture, with a defect or without; `blockSize` 1 is plain decoding, which no defect of a round reaches. */
export function oracleSource(fixture: Fixture, rule: VerificationRule, defect: Defect | null): EngineSource {
  return {
    name: 'oracle',
    open: async ({ blockSize }) =>
      oracleEngine({
        fixture,
        rule,
        block: blockSize ?? fixture.block,
        maxContext: MAX_CONTEXT,
        defect,
        tape: null,
      }),
    close: async () => {},
  };
}
