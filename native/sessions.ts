/**
 * Sessions of the addon behind the harness's seam, whatever model they decode: a checkpoint's or a toy's.
 */
import os from 'node:os';
import type {
  Decoding,
  Engine,
  EngineCard,
  Round,
  Score,
  Session,
  Toy,
  ToyOptions,
  VerificationRule,
} from '../harness/engine.ts';
import { callAddon, type NativeModel, type NativeRound, type NativeScored, type NativeSession } from './addon.ts';
import { InputError, quote } from './errors.ts';

const RULES: readonly VerificationRule[] = ['match', 'reject', 'coupled'];
/** Rows a scoring step carries; any number gives the same bits. */
export const SCORE_CHUNK = 64;

export interface EngineOptions {
  /** Anchor and drafts: 1 is plain decoding, 2 .. the draft's block size speculates. Default: the draft's, or 1 without one. */
  readonly blockSize?: number;
  /** Default `match`. */
  readonly rule?: VerificationRule;
  /** Rounds carry the rows and uniforms that decided them. */
  readonly replay?: boolean;
  /** A known mistake by its id, in a build that has them compiled in; the card names it. Default: none. */
  readonly defect?: string;
}

/** What a build was compiled with: null for the normal one. */
export type CompiledDefects = readonly { readonly id: string; readonly title: string }[] | null;

/** Options with their defaults. `longest`: the draft's block, 1 without a draft. Throws InputError, naming `owner`. */
export function checkedOptions(
  options: EngineOptions,
  longest: number,
  owner: string,
): Required<Omit<EngineOptions, 'defect'>> {
  const { blockSize = longest, rule = 'match', replay = false } = options;
  if (!Number.isInteger(blockSize) || blockSize < 1 || blockSize > longest) {
    const reason = longest === 1 ? `${owner} has no draft, so only 1 can be decoded` : `1 .. ${longest} can be decoded`;
    throw new InputError(`block size ${blockSize}: ${reason}`);
  }
  if (!RULES.includes(rule)) throw new InputError(`unknown rule ${JSON.stringify(rule)}; use ${RULES.join(', ')}`);
  return { blockSize, rule, replay };
}

/** The card's `defects`: none for a normal build, else that they are compiled in, and the active one. Throws InputError. */
export function defectsOnCard(compiled: CompiledDefects, defect: string | undefined): string[] {
  if (compiled === null && defect !== undefined)
    throw new InputError('this build of the addon has no defects compiled in');
  if (compiled === null) return [];
  if (defect === undefined) return ['compiled-in'];
  if (!compiled.some(({ id }) => id === defect)) throw new InputError(`unknown defect ${JSON.stringify(defect)}`);
  return ['compiled-in', defect];
}

/** What every session of an engine is opened with, besides its decoding. */
export interface SessionSettings {
  readonly replay: boolean;
  readonly defect?: string;
  readonly tape?: Float64Array;
}

/** A toy of the same rule and build, decoded with the same settings. */
export type ToyOpener = (toy: Toy, options: ToyOptions) => Promise<Engine>;

export function sessionSettings(replay: boolean, defect: string | undefined): SessionSettings {
  return defect === undefined ? { replay } : { replay, defect };
}

const DECODING_FIELDS: Readonly<Record<keyof Decoding, true>> = {
  seed: true,
  temperature: true,
  topP: true,
  topK: true,
  maxTokens: true,
  stopIds: true,
};

/** What this engine does not do it refuses: a penalty that is dropped in silence is another law. Throws InputError. */
function refuseUnknown(decoding: Decoding): void {
  const unknown = Object.keys(decoding ?? {}).find((field) => !Object.hasOwn(DECODING_FIELDS, field));
  if (unknown === undefined) return;
  throw new InputError(`decoding field ${quote(unknown)} is not supported by this engine`);
}

export function processorName(): string {
  return os.cpus()[0]?.model.trim() ?? process.arch;
}

export class NativeEngine implements Engine {
  readonly card: EngineCard;
  readonly generator = 'philox4x32-10';
  readonly tapes: boolean;
  readonly openToy: ToyOpener;
  readonly #native: NativeModel;
  readonly #settings: SessionSettings;
  readonly #decidesOnDevice: boolean;
  #closed = false;

  /** @param decidesOnDevice rounds are decided on the GPU: their times are its clock's, and it reads no tape */
  constructor(
    native: NativeModel,
    card: EngineCard,
    settings: SessionSettings,
    openToy: ToyOpener,
    decidesOnDevice = false,
  ) {
    this.#native = native;
    this.tapes = !decidesOnDevice;
    this.#decidesOnDevice = decidesOnDevice;
    this.card = card;
    this.#settings = settings;
    this.openToy = openToy;
  }

  async open(prompt: readonly number[], decoding: Decoding): Promise<Session> {
    this.#check();
    refuseUnknown(decoding);
    const { blockSize, rule } = this.card;
    const options = { ...decoding, blockSize, rule, ...this.#settings };
    const session = await callAddon(() => this.#native.open(prompt, options));
    return new NativeEngineSession(session, this.#decidesOnDevice);
  }

  async score(prefix: readonly number[], next: readonly number[]): Promise<Score> {
    this.#check();
    if (prefix.length === 0) throw new InputError('the prefix is empty');
    if (next.length === 0) return { logprobs: [] };
    const scored: NativeScored = await callAddon(() => this.#native.score([...prefix, ...next], 0, SCORE_CHUNK));
    return { logprobs: scored.nextLogprobs.slice(prefix.length - 1) };
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #check(): void {
    if (this.#closed) throw new InputError('the engine is closed');
  }
}

class NativeEngineSession implements Session {
  readonly #native: NativeSession;
  readonly #decidesOnDevice: boolean;

  constructor(native: NativeSession, decidesOnDevice: boolean) {
    this.#native = native;
    this.#decidesOnDevice = decidesOnDevice;
  }

  async step(): Promise<Round> {
    return toRound(await callAddon(() => this.#native.step()), this.#decidesOnDevice);
  }

  async fork(): Promise<Session> {
    return new NativeEngineSession(await callAddon(() => this.#native.fork()), this.#decidesOnDevice);
  }

  async close(): Promise<void> {
    this.#native.close();
  }
}

function toRound({ draftNs, verifyNs, totalNs, ...round }: NativeRound, onDevice: boolean): Round {
  const times = { draft: draftNs, verify: verifyNs };
  return {
    ...round,
    // All of the round's time: the addon could not tell what the GPU spent of it.
    deviceNs: onDevice && draftNs + verifyNs < totalNs ? { ...times, total: draftNs + verifyNs } : null,
    hostNs: { ...times, total: totalNs },
  };
}
