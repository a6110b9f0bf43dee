/**
 * An engine without a model, for the harness's own tests and for measuring its overhead: a second-order Markov chain
 * whose rows are hashes of (weights seed, last two tokens), and drafts that are right with stated probabilities. Output,
 * acceptance law and step time are known beforehand, so every figure of the harness can be checked against them.
 *
 * It is truthful unless `leak` says otherwise; engines that lie wrap it (liars.ts).
 */
import {
  type Decoding,
  type Engine,
  type EngineCard,
  InputError,
  type Round,
  type Score,
  type Session,
} from '../engine.ts';
import { philox4x32, seedWords, uniform52 } from '../stats/philox.ts';
import { sha256 } from '../suite/canonical.ts';

/** A clock that only its owner moves. */
export class ManualClock {
  #ns = 0n;

  readonly now = (): bigint => this.#ns;

  advance(ns: number): void {
    this.#ns += BigInt(Math.round(ns));
  }
}

export interface ScriptedOptions {
  readonly name?: string;
  /** Decides every row; two engines with the same are "the same weights". */
  readonly weights: string;
  readonly vocabSize: number;
  readonly blockSize: number;
  readonly rule: EngineCard['rule'];
  /** acceptance[i] = P(draft i accepted | drafts before it accepted); one a draft, blockSize - 1 in all. */
  readonly acceptance: readonly number[];
  readonly maxContext?: number;
  /** Share of probability that the speculative arm wrongly moves to token 0. */
  readonly leak?: number;
  /** Time a step takes on `clock`, nanoseconds. Without a clock the real one is read. */
  readonly stepNs?: (kind: Round['kind'], promptTokens: number) => number;
  readonly clock?: ManualClock;
}

const STREAM = { target: 0, accept: 2, residual: 3, row: 9 } as const;

export function scriptedEngine(options: ScriptedOptions): Engine {
  if (options.acceptance.length !== options.blockSize - 1) {
    throw new InputError(
      `a block of ${options.blockSize} has ${options.blockSize - 1} drafts, not ${options.acceptance.length}`,
    );
  }
  const card: EngineCard = {
    name: options.name ?? 'scripted',
    weightsDigest: sha256(`scripted weights ${options.weights} ${options.vocabSize}`),
    draftDigest: options.blockSize > 1 ? sha256(`scripted draft ${options.acceptance.join(' ')}`) : 'none',
    numerics: { id: 'scripted=f64', experts: 'none', linears: 'none', activations: 'none', kv: 'none' },
    device: 'none',
    topology: 'none',
    tensorParallel: 1,
    blockSize: options.blockSize,
    rule: options.rule,
    buildDigest: 'none',
    vocabSize: options.vocabSize,
    maxContext: options.maxContext ?? 4096,
    defects: options.leak === undefined ? [] : [`leak ${options.leak}`],
    syntheticAcceptance: 'drafts are scripted',
  };
  return {
    card,
    open: async (prompt, decoding) => new ScriptedSession(options, card, [...prompt], 0, decoding),
    score: async (prefix, next) => scoreRows(options, prefix, next),
    close: async () => {},
  };
}

class ScriptedSession implements Session {
  readonly #options: ScriptedOptions;
  readonly #card: EngineCard;
  readonly #decoding: Decoding;
  readonly #tokens: number[];
  #emitted: number;
  #round = 0;
  #finished = false;

  constructor(options: ScriptedOptions, card: EngineCard, tokens: number[], emitted: number, decoding: Decoding) {
    if (decoding.topP !== 1 || decoding.topK !== 0)
      throw new InputError('the scripted engine has no top-p and no top-k');
    if (tokens.length === 0) throw new InputError('the prompt is empty');
    if (tokens.length >= card.maxContext) throw new InputError(`${tokens.length} tokens do not fit ${card.maxContext}`);
    this.#options = options;
    this.#card = card;
    this.#tokens = tokens;
    this.#emitted = emitted;
    this.#decoding = decoding;
  }

  async step(): Promise<Round> {
    if (this.#finished) throw new InputError('the session has ended');
    const { clock, stepNs } = this.#options;
    const started = process.hrtime.bigint();
    const kind = this.#round === 0 ? 'prefill' : 'decode';
    const room = this.#card.maxContext - this.#tokens.length;
    const block = kind === 'prefill' ? 1 : Math.min(this.#options.blockSize, room);

    const drafted: number[] = [];
    const emitted: number[] = [];
    let accepted = 0;
    let rejected = false;
    for (let i = 0; i < block; i++) {
      const token = this.#sample(emitted);
      if (!rejected) emitted.push(token);
      if (i === block - 1) break;
      const right = !rejected && this.#coin(this.#tokens.length + i) < this.#options.acceptance[i]!;
      drafted.push(right ? token : (token + 1) % this.#options.vocabSize);
      if (right) accepted += 1;
      else rejected = true;
    }
    const { committed, finish } = this.#cut(emitted);
    this.#tokens.push(...committed);
    this.#emitted += committed.length;
    this.#round += 1;
    this.#finished = finish !== null;

    let total = Number(process.hrtime.bigint() - started);
    if (clock !== undefined && stepNs !== undefined) {
      total = Math.round(stepNs(kind, this.#tokens.length));
      clock.advance(total);
    }
    const hostNs = { draft: 0, verify: total, total };
    return { kind, committed, drafted, accepted, finish, deviceNs: null, hostNs };
  }

  async fork(): Promise<Session> {
    const copy = new ScriptedSession(this.#options, this.#card, [...this.#tokens], this.#emitted, this.#decoding);
    copy.#round = this.#round;
    copy.#finished = this.#finished;
    return copy;
  }

  async close(): Promise<void> {}

  #cut(emitted: readonly number[]): { committed: number[]; finish: Round['finish'] } {
    const limit = this.#decoding.maxTokens - this.#emitted;
    const committed: number[] = [];
    for (const token of emitted) {
      committed.push(token);
      if (this.#decoding.stopIds.includes(token)) return { committed, finish: 'stop' };
      if (committed.length === limit || this.#tokens.length + committed.length === this.#card.maxContext) {
        return { committed, finish: 'length' };
      }
    }
    return { committed, finish: null };
  }

  #sample(pending: readonly number[]): number {
    const context = [...this.#tokens, ...pending].slice(-2);
    const row = processedRow(this.#options, context, this.#decoding.temperature);
    const speculative = this.#options.blockSize > 1;
    if (speculative && this.#options.leak !== undefined) {
      for (let i = 0; i < row.length; i++) row[i]! *= 1 - this.#options.leak;
      row[0]! += this.#options.leak;
    }
    // Under `reject` a speculative engine draws from other streams than a plain one: same law, other tokens.
    const stream = speculative && this.#options.rule === 'reject' && this.#round > 0 ? STREAM.residual : STREAM.target;
    return inverse(row, this.#uniform(stream, this.#tokens.length + pending.length));
  }

  #coin(position: number): number {
    return this.#uniform(STREAM.accept, position);
  }

  #uniform(stream: number, position: number): number {
    const { low, high } = seedWords(this.#decoding.seed);
    const words = philox4x32([position, stream, this.#tokens[0]!, 0], low, high);
    return uniform52(words[0], words[1]);
  }
}

/** The chain's law of the token after `context` (its last two tokens matter), at a temperature; 0 is one-hot. */
export function processedRow(
  options: Pick<ScriptedOptions, 'weights' | 'vocabSize'>,
  context: readonly number[],
  temperature: number,
): number[] {
  const { low, high } = seedWords(options.weights);
  const logits: number[] = [];
  for (let token = 0; token < options.vocabSize; token++) {
    const words = philox4x32([token, context.at(-1) ?? 0, context.at(-2) ?? 0, STREAM.row], low, high);
    logits.push(3 * uniform52(words[0], words[1]));
  }
  const top = Math.max(...logits);
  if (temperature === 0) {
    const first = logits.indexOf(top);
    return logits.map((_, token) => (token === first ? 1 : 0));
  }
  const weights = logits.map((logit) => Math.exp((logit - top) / temperature));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

function inverse(row: readonly number[], u: number): number {
  let cumulative = 0;
  for (let token = 0; token < row.length; token++) {
    cumulative += row[token]!;
    if (cumulative > u) return token;
  }
  return row.length - 1;
}

function scoreRows(options: ScriptedOptions, prefix: readonly number[], next: readonly number[]): Score {
  const text = [...prefix];
  const logprobs = next.map((token) => {
    const logprob = Math.log(processedRow(options, text.slice(-2), 1)[token] ?? 0);
    text.push(token);
    return logprob;
  });
  return { logprobs };
}
