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
  type Score,
  type Session,
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

/** A session that says under which parameters it decodes. */
export interface EchoingSession extends Session {
  readonly decoding?: unknown;
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
      const answer = record(
        await transport.request('open_engine', blockSize === undefined ? {} : { blockSize }),
        'open_engine',
      );
      if (typeof answer.card !== 'object' || answer.card === null) {
        throw new EngineFault('garbage', 'open_engine: the answer has no card');
      }
      return new RemoteEngine(transport, handle(answer.engine, 'engine'), answer.card as EngineCard);
    },
    close: () => transport.close(),
  };
}

class RemoteEngine implements Engine {
  readonly card: EngineCard;
  readonly #transport: Transport;
  readonly #handle: number;

  constructor(transport: Transport, engine: number, card: EngineCard) {
    this.#transport = transport;
    this.#handle = engine;
    this.card = card;
  }

  async open(prompt: readonly number[], decoding: Decoding): Promise<EchoingSession> {
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

class RemoteSession implements EchoingSession {
  readonly decoding?: unknown;
  readonly #transport: Transport;
  readonly #handle: number;

  constructor(transport: Transport, session: number, decoding: unknown) {
    this.#transport = transport;
    this.#handle = session;
    if (decoding !== undefined) this.decoding = decoding;
  }

  async step(): Promise<Round> {
    const round = record(await this.#transport.request('step', { session: this.#handle }), 'step');
    const { replay } = round;
    if (replay === undefined || replay === null) return round as unknown as Round;
    const { p, q, uniforms } = record(replay, 'step: replay');
    return {
      ...(round as unknown as Round),
      replay: {
        p: rows(p, 'p'),
        q: q === undefined ? [] : rows(q, 'q'),
        uniforms: Array.isArray(uniforms) ? uniforms : [],
      },
    };
  }

  async fork(): Promise<Session> {
    const answer = record(await this.#transport.request('fork', { session: this.#handle }), 'fork');
    return new RemoteSession(this.#transport, handle(answer.session, 'session'), this.decoding);
  }

  async close(): Promise<void> {
    await this.#transport.request('close', { session: this.#handle });
  }
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
