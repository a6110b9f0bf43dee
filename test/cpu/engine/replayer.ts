/**
 * Rounds decided once more from what they carry, and the counters of the numbers they read: the judges of replay.test.ts and
 * defects.test.ts. Decisions and generator are the oracle's of test/support, not the engine's.
 */
import type { Decoding, Round, VerificationRule } from '../../../harness/engine.ts';
import { argmax, inverseCdf } from '../../support/oracle/decode.ts';
import { gumbel, STREAM, uniform } from '../../support/oracle/random.ts';

const STREAMS: Readonly<Record<string, number>> = {
  target: STREAM.targetSample,
  draft: STREAM.draftSample,
  accept: STREAM.acceptCoin,
  residual: STREAM.residualSample,
};

export interface Played {
  readonly rule: VerificationRule;
  readonly blockSize: number;
  readonly decoding: Decoding;
  readonly prompt: readonly number[];
  readonly maxContext: number;
  readonly rounds: readonly Round[];
}

/** Rows are logarithms: exp(log p) is off by a few units of 2^-53, so decisions closer than this are not held against anyone. */
const GUARD = 1e-13;

class Replayer {
  readonly round: Round;
  readonly played: Played;
  closeCalls = 0;
  #uniforms = 0;
  #noise = 0;

  constructor(played: Played, round: Round) {
    this.played = played;
    this.round = round;
  }

  uniform(stream: string): number {
    const use = this.round.replay!.uniforms[this.#uniforms++];
    if (use?.stream !== stream) throw new Error(`the replay holds ${use?.stream} where ${stream} was drawn`);
    return use.u;
  }

  pick(row: Float64Array, stream: string): number {
    const u = this.uniform(stream);
    let cumulative = 0;
    for (const p of row) {
      cumulative += p;
      if (Math.abs(cumulative - u) < GUARD) this.closeCalls += 1;
    }
    return inverseCdf(row, u);
  }

  noisy(log: Float64Array, of: 'draft' | 'target'): number {
    const use = this.round.replay!.noise![this.#noise++];
    if (use?.of !== of) throw new Error(`the replay holds noise of ${use?.of} where ${of} was drawn`);
    return argmax(log.map((value, id) => value - Math.log(-Math.log(use.u[id]!))));
  }

  /** The target's own token, as equality rules draw it. */
  target(log: Float64Array): number {
    if (this.played.decoding.temperature === 0) return argmax(log);
    return this.played.rule === 'coupled' ? this.noisy(log, 'target') : this.pick(log.map(Math.exp), 'target');
  }

  decide(emitted: number, length: number) {
    const { round, played } = this;
    const { p, q } = round.replay!;
    const sampled = played.decoding.temperature > 0;
    const drafted = round.drafted.map((draft, i) => {
      if (!sampled || played.rule === 'match') return draft; // the draft's argmax; its row decides nothing else
      return played.rule === 'coupled' ? this.noisy(q[i]!, 'draft') : this.pick(q[i]!.map(Math.exp), 'draft');
    });
    const tokens: number[] = [];
    let accepted = 0;
    const byRejection = sampled && played.rule === 'reject' && played.blockSize > 1 && round.kind === 'decode';
    for (let i = 0; ; i++) {
      const row = p[i]!.map(Math.exp);
      const draft = drafted[i];
      if (!byRejection) {
        const token = this.target(p[i]!);
        tokens.push(token);
        if (token !== draft) break;
      } else if (draft === undefined) {
        tokens.push(this.pick(row, 'residual'));
        break;
      } else {
        const u = this.uniform('accept');
        const qd = Math.exp(q[i]![draft]!);
        if (Math.abs(u * qd - row[draft]!) < GUARD) this.closeCalls += 1;
        if (!(u * qd < row[draft]!)) {
          const rest = row.map((value, id) => Math.max(value - Math.exp(q[i]![id]!), 0));
          const mass = rest.reduce((sum, value) => sum + value, 0);
          tokens.push(this.pick(mass > GUARD ? rest.map((value) => value / mass) : row, 'residual'));
          break;
        }
        tokens.push(draft);
      }
      accepted += 1;
    }
    if (this.#uniforms !== round.replay!.uniforms.length || this.#noise !== (round.replay!.noise ?? []).length)
      throw new Error('the replay holds numbers that decided nothing');
    const { stopIds, maxTokens } = played.decoding;
    const within = tokens.slice(0, maxTokens - emitted);
    const stop = within.findIndex((token) => stopIds.includes(token));
    const committed = stop < 0 ? within : within.slice(0, stop + 1);
    const full = emitted + committed.length >= maxTokens || length + committed.length >= played.maxContext;
    return { drafted, committed, accepted, finish: stop >= 0 ? 'stop' : full ? 'length' : null };
  }
}

/** Decisions that differ from the rounds', and decisions too close to call. */
export function replay(played: Played): { differ: number; closeCalls: number } {
  let emitted = 0;
  let differ = 0;
  let closeCalls = 0;
  for (const round of played.rounds) {
    const replayer = new Replayer(played, round);
    const again = replayer.decide(emitted, played.prompt.length + emitted);
    const { drafted, committed, accepted, finish } = round;
    if (JSON.stringify(again) !== JSON.stringify({ drafted, committed, accepted, finish })) differ += 1;
    closeCalls += replayer.closeCalls;
    emitted += committed.length;
  }
  return { differ, closeCalls };
}

/** Every number read, by its counter, with the reads that this rule does not allow. */
export function audit({ rule, decoding, rounds }: Played): { read: number; repeated: string[]; wrong: string[] } {
  const seed = BigInt(decoding.seed);
  const seen = new Set<string>();
  const repeated: string[] = [];
  const wrong: string[] = [];
  let read = 0;
  const note = (counter: string, u: number, expected: number, mayRepeat: boolean) => {
    read += 1;
    if (seen.has(counter) && !mayRepeat) repeated.push(counter);
    if (!mayRepeat) seen.add(counter);
    if (u !== expected) wrong.push(counter);
  };
  for (const { replay } of rounds) {
    for (const { stream, position, round, draw, u } of replay!.uniforms) {
      if (draw !== 0) wrong.push(`${stream} ${position} ${round} draw ${draw}`);
      note(`${stream} ${position} ${round}`, u, uniform(seed, position, STREAMS[stream]!, round), false);
    }
    for (const { of, position, round, u } of replay!.noise ?? []) {
      if (rule !== 'coupled' || round !== 0) wrong.push(`noise ${position} under ${rule}, round ${round}`);
      u.forEach((value, token) => {
        note(`noise ${position} ${token}`, -Math.log(-Math.log(value)), gumbel(seed, position, token), of === 'draft');
      });
    }
  }
  return { read, repeated, wrong };
}
