/**
 * Runs one session after another and trusts none of them: every step has a time limit, every round a shape, every session
 * an end. Keeps what the bookkeeping checks need and forgets the rows, which are large.
 */
import { RoundRow } from '../bundle/rows.ts';
import type { Decoding, Engine, Round, Session } from '../engine.ts';
import { checkBooks, type Violation } from '../verify/books.ts';

export interface GatePrompt {
  readonly name: string;
  readonly ids: readonly number[];
}

export interface Fault {
  readonly session: string;
  readonly kind: string;
  readonly message: string;
}

export interface Observed {
  readonly session: string;
  readonly rounds: readonly Round[];
  readonly tokens: readonly number[];
  /** The parameters as the engine repeats them; undefined when it does not. */
  readonly echo: unknown;
  readonly fault: Fault | null;
}

class Late extends Error {
  override readonly name = 'Late';
}

/** `call` may throw at once, or never settle. */
export async function within<T>(milliseconds: number, what: string, call: () => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Late(`no answer to ${what} within ${milliseconds} ms`)), milliseconds);
  });
  try {
    return await Promise.race([(async () => call())(), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Of whatever was thrown: anything may be. */
function nameOf(error: unknown): string | undefined {
  return (error as { name?: string } | null | undefined)?.name;
}

class Malformed extends Error {
  readonly kind = 'malformed';
}

/** A session with its verbs. */
function checkedSession(session: Session | null | undefined): Session {
  const verbs = ['step', 'fork', 'close'] as const;
  const lacking = verbs.find((verb) => typeof session?.[verb] !== 'function');
  if (lacking !== undefined) throw new Malformed(`open gives a session without ${lacking}`);
  return session!;
}

/** Faults after which an engine is not asked again. */
const FINAL: readonly string[] = ['died', 'hung', 'garbage', 'oversize', 'unknown id'];
const MOST_FAULTS = 3;

export class Observer {
  readonly faults: Fault[] = [];
  readonly violations: Violation[] = [];
  /** Sessions that the caller abandoned, which need no end. */
  sessions = 0;
  rounds = 0;
  tokens = 0;
  readonly #stepMs: number;

  readonly #of: 'engine' | 'baseline';

  constructor(stepMs: number, of: 'engine' | 'baseline' = 'engine') {
    this.#stepMs = stepMs;
    this.#of = of;
  }

  /** What the machine lacks ends the gate; where a baseline lacks it, that is one more way for it to fail. */
  #ends(error: unknown): boolean {
    return this.#of === 'engine' && nameOf(error) === 'EnvironmentError';
  }

  /** Whether there is any use in asking on. */
  get broken(): boolean {
    return this.faults.length >= MOST_FAULTS || this.faults.some((fault) => FINAL.includes(fault.kind));
  }

  /** Runs a session to its end. Rejects only with an EnvironmentError of an engine that is no baseline, or an InputError of open(). */
  async run(engine: Engine, prompt: GatePrompt, decoding: Decoding, label: string): Promise<Observed> {
    const session = `${label}/${prompt.name}/seed ${decoding.seed}`;
    let opened: Session;
    try {
      opened = checkedSession(await within(this.#stepMs, 'open', async () => engine.open(prompt.ids, decoding)));
    } catch (error) {
      if (this.#ends(error) || nameOf(error) === 'InputError') throw error;
      return { session, rounds: [], tokens: [], echo: undefined, fault: this.#fault(session, error) };
    }
    const observed = await this.finish(engine, opened, prompt, decoding, session, []);
    await within(this.#stepMs, 'close', async () => opened.close()).catch((error: unknown) =>
      this.#fault(session, error),
    );
    return observed;
  }

  /** Steps an open session to its end; `before` are its rounds so far. */
  async finish(
    engine: Engine,
    opened: Session,
    prompt: GatePrompt,
    decoding: Decoding,
    session: string,
    before: readonly Round[],
  ): Promise<Observed> {
    const rounds: Round[] = [...before];
    const rows: RoundRow[] = [];
    let fault: Fault | null = null;
    this.sessions += 1;
    for (const round of before) rows.push(rowOf(session, rows.length, round, round.hostNs.total) as RoundRow);
    let emitted = rows.reduce((sum, row) => sum + row.committed.length, 0);
    while (rows.at(-1)?.finish == null) {
      try {
        const started = process.hrtime.bigint();
        const round = await within(this.#stepMs, `round ${rows.length}`, async () => opened.step());
        const row = rowOf(session, rows.length, round, Number(process.hrtime.bigint() - started));
        if (typeof row === 'string') {
          fault = this.#record(session, 'malformed', `round ${rows.length}: ${row}`);
          break;
        }
        rows.push(row);
        rounds.push(round);
      } catch (error) {
        if (this.#ends(error)) throw error;
        fault = this.#fault(session, error);
        break;
      }
      emitted += rows.at(-1)!.committed.length;
      if (emitted > decoding.maxTokens || rows.length > decoding.maxTokens + 1) {
        fault = this.#record(session, 'overran', `${emitted} tokens in ${rows.length} rounds of ${decoding.maxTokens}`);
        break;
      }
    }
    this.rounds += rows.length;
    const tokens = rows.flatMap((row) => row.committed);
    this.tokens += tokens.length;
    this.violations.push(...books(engine, prompt, decoding, session, rows, fault));
    return { session, rounds, tokens, echo: opened.decoding, fault };
  }

  /** As `ask`, but an engine that merely refuses is no fault: it lacks the verb. */
  async mayRefuse<T>(session: string, what: string, call: () => Promise<T>): Promise<T | null> {
    return this.ask(session, what, async () => {
      try {
        return await call();
      } catch (error) {
        const { name, kind } = (error ?? {}) as { name?: string; kind?: string };
        if (name === 'EngineFault' && kind !== 'failed') throw error;
        return null;
      }
    });
  }

  /** Awaits something that is not a session, with the same time limit; a fault is recorded and gives null. */
  async ask<T>(session: string, what: string, call: () => Promise<T>): Promise<T | null> {
    try {
      return await within(this.#stepMs, what, call);
    } catch (error) {
      if (this.#ends(error)) throw error;
      this.#fault(session, error);
      return null;
    }
  }

  #fault(session: string, error: unknown): Fault {
    const { name, message, kind } = (error ?? {}) as { name?: string; message?: string; kind?: string };
    return this.#record(session, name === 'Late' ? 'hung' : (kind ?? 'threw'), message ?? String(error));
  }

  #record(session: string, kind: string, message: string): Fault {
    const fault = { session, kind, message };
    this.faults.push(fault);
    return fault;
  }
}

export interface Observers {
  readonly observer: Observer;
  /** Watches plain decoding: the same observer where that is the engine's own plain mode, one of its own for a baseline. */
  readonly yardstick: Observer;
}

/** No use in comparing on: the engine is broken, or the baseline failed, after which nothing that was held against it counts. */
export function lost({ observer, yardstick }: Observers): boolean {
  return observer.broken || (yardstick !== observer && yardstick.faults.length > 0);
}

function books(
  engine: Engine,
  prompt: GatePrompt,
  decoding: Decoding,
  session: string,
  rounds: RoundRow[],
  fault: Fault | null,
): Violation[] {
  const { card } = engine;
  const row = { session, promptTokens: prompt.ids.length, decoding: { ...decoding, stopIds: [...decoding.stopIds] } };
  const trace = { row, rounds, fault: fault === null ? null : { session, kind: 'threw', message: '' } };
  return checkBooks(trace as unknown as Parameters<typeof checkBooks>[0], card as Parameters<typeof checkBooks>[1]);
}

/** The row of a round, or in words what is wrong with its shape. */
function rowOf(session: string, index: number, round: Round, wallNs: number): RoundRow | string {
  const result = RoundRow.safeParse({
    session,
    index,
    kind: round?.kind,
    committed: listed(round?.committed),
    drafted: listed(round?.drafted),
    accepted: round?.accepted,
    finish: round?.finish,
    ns: round?.hostNs,
    deviceNs: round?.deviceNs ?? null,
    wallNs,
  });
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  return `${issue.path.join('.')}: ${issue.message}`;
}

function listed(ids: unknown): unknown {
  return ArrayBuffer.isView(ids) ? Array.from(ids as unknown as ArrayLike<number>) : ids;
}
