/**
 * An engine that does nothing: every step returns the same round at once. What the harness takes to drive it is the harness's own
 * cost, and nothing else's.
 */
import type { Engine, Round, Session } from '../engine.ts';

export interface NullEngineOptions {
  /** Tokens a decode round keeps; the block. */
  readonly blockSize: number;
  /** Time a step waits before it answers, spinning on the clock, nanoseconds; default none. */
  readonly stepNs?: number;
}

export function nullEngine(options: NullEngineOptions): Engine {
  const ns = { draft: 0, verify: 0, total: options.stepNs ?? 0 };
  const drafted = new Array<number>(options.blockSize - 1).fill(1);
  const prefill: Round = {
    kind: 'prefill',
    committed: [1],
    drafted: [],
    accepted: 0,
    finish: null,
    deviceNs: null,
    hostNs: ns,
  };
  const decode: Round = {
    ...prefill,
    kind: 'decode',
    committed: new Array<number>(options.blockSize).fill(1),
    drafted,
    accepted: drafted.length,
  };
  const session = (maxTokens: number): Session => {
    let emitted = 0;
    return {
      step: () => {
        if (options.stepNs !== undefined) spin(options.stepNs);
        const first = emitted === 0;
        const room = maxTokens - emitted;
        const round = first ? prefill : decode;
        emitted += round.committed.length;
        if (emitted < maxTokens) return Promise.resolve(round);
        return Promise.resolve({ ...round, committed: round.committed.slice(0, room), finish: 'length' as const });
      },
      fork: () => Promise.resolve(session(maxTokens - emitted)),
      close: () => Promise.resolve(),
    };
  };
  return {
    card: {
      name: 'null',
      weightsDigest: 'none',
      draftDigest: 'none',
      numerics: { id: 'none', experts: 'none', linears: 'none', activations: 'none', kv: 'none' },
      device: 'none',
      topology: 'none',
      tensorParallel: 1,
      blockSize: options.blockSize,
      rule: 'match',
      buildDigest: 'none',
      vocabSize: 2,
      maxContext: 2 ** 30,
      defects: [],
      syntheticAcceptance: 'the null engine accepts everything and computes nothing',
    },
    open: (_prompt, decoding) => Promise.resolve(session(decoding.maxTokens)),
    score: (_prefix, next) => Promise.resolve({ logprobs: next.map(() => 0) }),
    close: () => Promise.resolve(),
  };
}

function spin(ns: number): void {
  const until = process.hrtime.bigint() + BigInt(Math.round(ns));
  while (process.hrtime.bigint() < until);
}
