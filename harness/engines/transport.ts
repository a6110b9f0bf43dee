/**
 * The wire under a plug-in: one request, one answer, each with an id. Two carriers: a child process that speaks JSON
 * Lines on stdin and stdout, and a worker thread that holds a JavaScript module. Both can be killed, so an engine that
 * dies, hangs, talks nonsense or floods is a named fault and never a wait without end.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { Worker } from 'node:worker_threads';
import { EnvironmentError, InputError } from '../engine.ts';

export type FaultKind = 'died' | 'hung' | 'garbage' | 'oversize' | 'unknown id' | 'failed';

/** What an engine did instead of answering. */
export class EngineFault extends Error {
  override readonly name = 'EngineFault';
  readonly kind: FaultKind;

  constructor(kind: FaultKind, message: string) {
    super(message);
    this.kind = kind;
  }
}

export interface Limits {
  /** Longest wait for one answer. */
  readonly answerMs: number;
  /** Longest answer of a child process. */
  readonly lineBytes: number;
}

export const DEFAULT_LIMITS: Limits = { answerMs: 30_000, lineBytes: 64 * 1024 * 1024 };

export interface Transport {
  /** @throws EngineFault, InputError or EnvironmentError; after a fault other than `failed` every request rejects */
  request(verb: string, parameters: Record<string, unknown>): Promise<unknown>;
  close(): Promise<void>;
}

interface Pending {
  readonly verb: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

/** Ids, timeouts and the end of the line, the same for both carriers. */
class Exchange {
  readonly #pending = new Map<number, Pending>();
  readonly #limits: Limits;
  readonly #send: (message: Record<string, unknown>) => void;
  readonly #kill: () => void;
  #next = 1;
  #fault: Error | null = null;
  answered = false;

  constructor(limits: Limits, send: (message: Record<string, unknown>) => void, kill: () => void) {
    this.#limits = limits;
    this.#send = send;
    this.#kill = kill;
  }

  request(verb: string, parameters: Record<string, unknown>): Promise<unknown> {
    if (this.#fault !== null) return Promise.reject(this.#fault);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => this.fail(new EngineFault('hung', `no answer to ${verb} within ${this.#limits.answerMs} ms`)),
        this.#limits.answerMs,
      );
      this.#pending.set(id, { verb, resolve, reject, timer });
      this.#send({ id, verb, ...parameters });
    });
  }

  answer(message: unknown): void {
    if (this.#fault !== null) return;
    if (typeof message !== 'object' || message === null) {
      this.fail(new EngineFault('garbage', `an answer is not an object: ${excerpt(JSON.stringify(message))}`));
      return;
    }
    const { id, result, error } = message as { id?: unknown; result?: unknown; error?: unknown };
    const pending = typeof id === 'number' ? this.#pending.get(id) : undefined;
    if (pending === undefined) {
      this.fail(new EngineFault('unknown id', `an answer to request ${excerpt(String(id))}, which is not open`));
      return;
    }
    if (error === undefined && result === undefined) {
      this.fail(new EngineFault('garbage', `the answer to ${pending.verb} has neither result nor error`));
      return;
    }
    this.answered = true;
    this.#pending.delete(id as number);
    clearTimeout(pending.timer);
    if (error === undefined) pending.resolve(result);
    else pending.reject(refusal(pending.verb, error));
  }

  fail(error: Error): void {
    if (this.#fault !== null) return;
    this.#fault = error;
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#pending.clear();
    this.#kill();
  }
}

/** `error` of an answer: {"kind": "input" | "environment" | "fault", "message": "..."}. */
function refusal(verb: string, error: unknown): Error {
  const { kind, message } = (typeof error === 'object' && error !== null ? error : {}) as Record<string, unknown>;
  const text = typeof message === 'string' ? excerpt(message, 500) : `${verb} failed without a message`;
  if (kind === 'input') return new InputError(text);
  if (kind === 'environment') return new EnvironmentError(text);
  return new EngineFault('failed', `${verb}: ${text}`);
}

function excerpt(text: string | undefined, most = 80): string {
  const clean = (text ?? 'undefined').replace(/\s+/g, ' ').trim();
  return clean.length > most ? `${clean.slice(0, most)} ...` : clean;
}

/** Exit codes of a shell that could not start the command. */
const NOT_STARTED = [126, 127];

/** How long a child that has closed its output may take to end, so that its exit code can be told. */
const LAST_WORDS_MS = 1000;

/** `command` runs in a shell; its stderr passes through. The whole process group ends with the transport or with us. */
export function childTransport(command: string, limits: Limits): Transport {
  const child: ChildProcess = spawn(command, { shell: true, detached: true, stdio: ['pipe', 'pipe', 'inherit'] });
  let ended = false;
  const kill = (): void => {
    process.off('exit', kill);
    if (child.pid === undefined) return;
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // The group is gone already.
    }
  };
  process.on('exit', kill);
  const exchange = new Exchange(limits, (message) => child.stdin!.write(`${JSON.stringify(message)}\n`), kill);
  child.stdin!.on('error', () => {}); // a dead child is reported by its exit
  child.once('error', (error) => exchange.fail(new EnvironmentError(`cannot start ${command}: ${error.message}`)));
  child.once('close', (code, signal) => {
    ended = true;
    process.off('exit', kill);
    if (!exchange.answered && code !== null && NOT_STARTED.includes(code)) {
      exchange.fail(new EnvironmentError(`cannot start ${excerpt(command)}: the shell gave exit code ${code}`));
    } else {
      exchange.fail(new EngineFault('died', `the engine process ended by ${signal ?? `exit code ${code}`}`));
    }
  });

  child.stdout!.once('end', () => {
    const closed = new EngineFault('died', 'the engine closed its output');
    setTimeout(() => exchange.fail(closed), LAST_WORDS_MS).unref();
  });

  let parts: Buffer[] = [];
  let held = 0;
  const line = (bytes: Buffer): void => {
    const text = bytes.toString('utf8').trim();
    if (text === '') return;
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch {
      exchange.fail(new EngineFault('garbage', `a line on stdout is not JSON: ${excerpt(text)}`));
      return;
    }
    exchange.answer(message);
  };
  child.stdout!.on('data', (chunk: Buffer) => {
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      parts.push(chunk.subarray(from, end));
      from = end + 1;
      const whole = Buffer.concat(parts);
      parts = [];
      held = 0;
      line(whole);
    }
    if (from === chunk.length) return;
    parts.push(chunk.subarray(from));
    held += chunk.length - from;
    if (held > limits.lineBytes) {
      parts = [];
      held = 0;
      exchange.fail(new EngineFault('oversize', `a line on stdout exceeds ${limits.lineBytes} bytes`));
    }
  });
  return {
    request: (verb, parameters) => exchange.request(verb, parameters),
    close: async () => {
      if (ended) return;
      exchange.fail(new EngineFault('died', 'the engine was closed'));
      kill();
    },
  };
}

/** Runs beside the module: same verbs, by message. Plain JavaScript, because a worker cannot load TypeScript. */
const MODULE_HOST = `
const { parentPort, workerData } = require('node:worker_threads');
const engines = new Map(), sessions = new Map();
let handles = 0;
const known = (map, handle, what) => {
  if (!map.has(handle)) throw Object.assign(new Error('no such ' + what), { name: 'InputError' });
  return map.get(handle);
};
const keep = (engine) => {
  engines.set(++handles, engine);
  const { card, generator, openToy, tapes } = engine;
  return { engine: handles, card, generator, toys: typeof openToy === 'function', tapes: tapes === true };
};
const kinds = { InputError: 'input', EnvironmentError: 'environment' };
const verbs = {
  async open_engine({ blockSize }) {
    const module = await import(workerData.url).catch((error) => {
      if (kinds[error?.name] !== undefined) throw error;
      const where = error instanceof SyntaxError ? ' (node --check shows the line)' : '';
      throw new Error('the module cannot be loaded: ' + error + where);
    });
    const made = module.createEngine ?? module.default;
    if (made === undefined || made === null) throw new Error('the module exports neither createEngine nor a default');
    const options = blockSize === undefined ? {} : { blockSize };
    const engine = await (typeof made === 'function' ? made(options) : made);
    if (typeof engine?.open !== 'function' || engine.card === undefined) throw new Error('the module gives no Engine');
    return keep(engine);
  },
  async open_toy({ engine, toy, blockSize, tape }) {
    const number = (x) => (x === null ? -Infinity : x === 'NaN' ? NaN : x);
    const target = toy.target.map((row) => row.map(number));
    const draft = toy.draft.map((slots) => slots.map((row) => row.map(number)));
    const options = { ...(blockSize === undefined ? {} : { blockSize }), ...(tape === undefined ? {} : { tape }) };
    return keep(await known(engines, engine, 'engine').openToy({ ...toy, target, draft }, options));
  },
  async open({ engine, prompt, decoding }) {
    const session = await known(engines, engine, 'engine').open(prompt, decoding);
    sessions.set(++handles, session);
    return { session: handles, ...(session.decoding === undefined ? {} : { decoding: session.decoding }) };
  },
  async step({ session }) { return await known(sessions, session, 'session').step(); },
  async fork({ session }) {
    const copy = await known(sessions, session, 'session').fork();
    sessions.set(++handles, copy);
    return { session: handles };
  },
  async score({ engine, prefix, next }) { return await known(engines, engine, 'engine').score(prefix, next); },
  async close({ session, engine }) {
    const [map, handle] = session === undefined ? [engines, engine] : [sessions, session];
    const one = known(map, handle, 'session or engine');
    map.delete(handle);
    await one.close?.();
    return null;
  },
};
parentPort.on('message', async ({ id, verb, ...parameters }) => {
  try {
    const result = await verbs[verb](parameters);
    parentPort.postMessage({ id, result: result === undefined ? null : result });
  } catch (error) {
    parentPort.postMessage({ id, error: { kind: kinds[error?.name] ?? 'fault', message: String(error?.message ?? error) } });
  }
});
`;

/** `url` of an ES module whose \`createEngine\` or default export gives an Engine. A busy loop in it can be ended. */
export function moduleTransport(url: string, limits: Limits): Transport {
  const worker = new Worker(MODULE_HOST, { eval: true, workerData: { url }, stdout: true, stderr: false });
  worker.stdout.pipe(process.stderr, { end: false });
  const exchange = new Exchange(
    limits,
    (message) => worker.postMessage(message),
    () => void worker.terminate(),
  );
  worker.on('message', (message: unknown) => exchange.answer(message));
  worker.on('messageerror', () => exchange.fail(new EngineFault('garbage', 'an answer could not be read')));
  worker.on('error', (error: Error) => exchange.fail(new EngineFault('died', `the module threw: ${error.message}`)));
  worker.on('exit', (code) => exchange.fail(new EngineFault('died', `the module's thread ended with code ${code}`)));
  return {
    request: (verb, parameters) => exchange.request(verb, parameters),
    close: async () => {
      exchange.fail(new EngineFault('died', 'the engine was closed'));
      await worker.terminate();
    },
  };
}
