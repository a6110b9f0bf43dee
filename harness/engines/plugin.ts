/**
 * Engines of other people behind the seam: `./my-engine.mjs` or `cmd:python3 my_engine.py`. The verbs are those of
 * docs/engines.md. What an engine says is passed on as it is; whoever runs sessions checks it.
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
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
  type ToyOptions,
} from '../engine.ts';
import {
  childTransport,
  DEFAULT_LIMITS,
  EngineFault,
  type Limits,
  moduleTransport,
  type Transport,
} from './transport.ts';

/** Gives engines over one set of weights: the subject of a gate and its plain mode come from the same source. */
export interface EngineSource {
  readonly name: string;
  /** Without `blockSize` the engine chooses; 1 is plain decoding. */
  open(options: { readonly blockSize?: number }): Promise<Engine>;
  close(): Promise<void>;
}

const CHILD_PREFIX = 'cmd:';

export function isPlugin(text: string): boolean {
  return text.startsWith(CHILD_PREFIX) || /\.(m|c)?js$/.test(text);
}

/** @throws InputError for a module that does not exist or an empty command */
export function openPlugin(text: string, limits: Limits = DEFAULT_LIMITS): EngineSource {
  if (text.startsWith(CHILD_PREFIX)) {
    const command = text.slice(CHILD_PREFIX.length).trim();
    if (command === '') throw new InputError('cmd: names no command');
    return sourceOf(text, childTransport(command, limits));
  }
  const path = resolve(text);
  if (!existsSync(path)) throw new InputError(`${text}: no such module`);
  return sourceOf(text, moduleTransport(pathToFileURL(path).href, limits));
}

function sourceOf(name: string, transport: Transport): EngineSource {
  return {
    name,
    open: async ({ blockSize }) => {
      return opened(transport, 'open_engine', blockSize === undefined ? {} : { blockSize });
    },
    close: () => transport.close(),
  };
}

async function opened(transport: Transport, verb: string, parameters: Record<string, unknown>): Promise<RemoteEngine> {
  const answer = record(await transport.request(verb, parameters), verb);
  if (typeof answer.card !== 'object' || answer.card === null) {
    throw new EngineFault('garbage', `${verb}: the answer has no card`);
  }
  return new RemoteEngine(transport, handle(answer.engine, 'engine'), answer.card as EngineCard, answer);
}

/** JSON has no infinity: null is a logit of probability 0. NaN, for broken tables, is the text "NaN". */
function wireToy({ target, draft, ...sizes }: Toy): Record<string, unknown> {
  const wire = (row: readonly number[]) =>
    row.map((value) => (Number.isNaN(value) ? 'NaN' : value === Number.NEGATIVE_INFINITY ? null : value));
  return { ...sizes, target: target.map(wire), draft: draft.map((slots) => slots.map(wire)) };
}

class RemoteEngine implements Engine {
  readonly card: EngineCard;
  readonly generator?: 'philox4x32-10';
  readonly openToy?: (toy: Toy, options: ToyOptions) => Promise<Engine>;
  readonly tapes: boolean;
  readonly #transport: Transport;
  readonly #handle: number;

  /** `answer`: that of the verb that opened it, with what the engine offers besides. */
  constructor(transport: Transport, engine: number, card: EngineCard, answer: Record<string, unknown>) {
    this.#transport = transport;
    this.#handle = engine;
    this.card = card;
    const { generator, toys, tapes } = answer;
    if (generator !== undefined && generator !== null) {
      if (generator !== 'philox4x32-10')
        throw new EngineFault('garbage', 'the generator stated is not one that is known');
      this.generator = generator;
    }
    this.tapes = tapes === true;
    if (toys === true) {
      this.openToy = (toy, options) => opened(transport, 'open_toy', { engine, toy: wireToy(toy), ...options });
    }
  }

  async open(prompt: readonly number[], decoding: Decoding): Promise<Session> {
    const parameters = { engine: this.#handle, prompt: [...prompt], decoding: { ...decoding } };
    const answer = record(await this.#transport.request('open', parameters), 'open');
    return new RemoteSession(this.#transport, handle(answer.session, 'session'), answer.decoding);
  }

  async score(prefix: readonly number[], next: readonly number[]): Promise<Score> {
    const parameters = { engine: this.#handle, prefix: [...prefix], next: [...next] };
    const answer = record(await this.#transport.request('score', parameters), 'score');
    const { logprobs } = answer;
    if (!Array.isArray(logprobs)) throw new EngineFault('garbage', 'score: the answer has no list of logprobs');
    return { logprobs: logprobs.map((value) => (value === null ? Number.NEGATIVE_INFINITY : Number(value))) };
  }

  async close(): Promise<void> {
    await this.#transport.request('close', { engine: this.#handle });
  }
}

class RemoteSession implements Session {
  readonly decoding?: Decoding;
  readonly #transport: Transport;
  readonly #handle: number;

  constructor(transport: Transport, session: number, decoding: unknown) {
    this.#transport = transport;
    this.#handle = session;
    // As it came: whoever reads it compares it with what was asked.
    if (decoding !== undefined) this.decoding = decoding as Decoding;
  }

  async step(): Promise<Round> {
    const round = record(await this.#transport.request('step', { session: this.#handle }), 'step');
    const { replay } = round;
    if (replay === undefined || replay === null) return round as unknown as Round;
    return { ...(round as unknown as Round), replay: replayOf(record(replay, 'step: replay')) };
  }

  async fork(): Promise<Session> {
    const answer = record(await this.#transport.request('fork', { session: this.#handle }), 'fork');
    return new RemoteSession(this.#transport, handle(answer.session, 'session'), this.decoding);
  }

  async close(): Promise<void> {
    await this.#transport.request('close', { session: this.#handle });
  }
}

function replayOf({ p, q, uniforms, noise }: Record<string, unknown>): RoundReplay {
  const given = noise !== undefined && noise !== null;
  return {
    p: rows(p, 'p'),
    q: q === undefined || q === null ? [] : rows(q, 'q'),
    uniforms: uniforms === undefined || uniforms === null ? [] : list(uniforms, 'uniforms').map(uniformOf),
    ...(given ? { noise: list(noise, 'noise').map(noiseOf) } : {}),
  };
}

function uniformOf(entry: Record<string, unknown>): RoundReplay['uniforms'][number] {
  const { stream, position, round, draw, u } = entry;
  const counted = whole(position) && whole(round) && (draw === undefined || whole(draw));
  if (typeof stream !== 'string' || typeof u !== 'number' || !counted) {
    throw new EngineFault('garbage', `step: an entry of replay.uniforms is ${JSON.stringify(entry).slice(0, 120)}`);
  }
  return { stream, position, round, u, ...(draw === undefined ? {} : { draw }) };
}

function noiseOf(entry: Record<string, unknown>): NonNullable<RoundReplay['noise']>[number] {
  const { of, position, round, u } = entry;
  if ((of !== 'draft' && of !== 'target') || !whole(position) || !whole(round)) {
    throw new EngineFault('garbage', 'step: an entry of replay.noise lacks of, position or round');
  }
  return { of, position, round, u: rows([u], 'noise')[0]! };
}

const whole = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0;

function list(value: unknown, name: string): Record<string, unknown>[] {
  if (!Array.isArray(value)) throw new EngineFault('garbage', `step: replay.${name} is not a list`);
  return value.map((entry) => record(entry, `step: an entry of replay.${name}`));
}

/** Log-probability rows; JSON has no infinity, so null stands for log 0. */
function rows(value: unknown, name: string): Float64Array[] {
  if (!Array.isArray(value)) throw new EngineFault('garbage', `step: replay.${name} is not a list of rows`);
  return value.map((row: unknown) => {
    if (row instanceof Float64Array) return row;
    if (!Array.isArray(row)) throw new EngineFault('garbage', `step: a row of replay.${name} is not a list`);
    return Float64Array.from(row, (x: unknown) =>
      x === null ? Number.NEGATIVE_INFINITY : typeof x === 'number' ? x : Number.NaN,
    );
  });
}

function record(value: unknown, verb: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new EngineFault('garbage', `${verb}: the result is not an object`);
  }
  return value as Record<string, unknown>;
}

function handle(value: unknown, what: string): number {
  if (!Number.isInteger(value)) throw new EngineFault('garbage', `the ${what} has no whole number as its handle`);
  return value as number;
}
