/**
 * A baseline is a yardstick: where it fails, at whatever point, the gate ends with an error of the environment that names it, and what
 * was held against it refutes nothing. A baseline that lies is not told from an engine that differs, and an engine that fails or is
 * wrong by its own rows stays refuted.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Engine, EnvironmentError } from '../../../harness/engine.ts';
import { type Lie, lyingEngine } from '../../../harness/engines/liars.ts';
import { markovSource } from '../../../harness/engines/markov.ts';
import type { EngineSource } from '../../../harness/engines/plugin.ts';
import { EvidenceRecord } from '../../../harness/gate/evidence.ts';
import type { GateInput } from '../../../harness/gate/gate.ts';
import { CHAIN, find, gate, refutations } from './support.ts';

const SHORT = { lawTokens: 1_500, toyTokens: 1_500, scoredTokens: 100, twoSampleSessions: 64 };
const STEP_MS = 300;

const source = (change: (engine: Engine) => Engine, chain = markovSource(CHAIN)): EngineSource => ({
  ...chain,
  name: 'toy',
  open: async (options) => change(await chain.open(options)),
});
const lying = (lie: Lie, from?: number): EngineSource => source((engine) => lyingEngine(engine, lie, from));

/** Every session from this one on fails at its first step, counted over all that are opened. */
function failingFrom(session: number, fail: () => never = thrown, over: Partial<Engine> = {}): EngineSource {
  let opened = 0;
  return source((engine) => ({
    ...engine,
    ...over,
    open: async (...args) => {
      const inner = await engine.open(...args);
      if (opened++ < session) return inner;
      return { step: async () => fail(), fork: () => inner.fork(), close: () => inner.close() };
    },
  }));
}

const thrown = (): never => {
  throw new Error('the device is gone');
};

const judged = (engine: EngineSource, baseline: EngineSource | null, over: Partial<GateInput> = {}) =>
  gate(engine, { baseline, budget: { prompts: 6, equalityPrompts: 6, equalityTokens: 16, ...SHORT }, ...over });

/** Shows no rows: then it is tested by rows put together from the scores of the baseline, or by two samples. */
const bare = source((engine) => ({
  ...engine,
  open: async (...args) => {
    const session = await engine.open(...args);
    const step = async () => {
      const { replay: _, ...round } = await session.step();
      return round;
    };
    return { step, fork: () => session.fork(), close: () => session.close() };
  },
}));
const noScores = { score: () => Promise.reject(new Error('no scores')) };

/** Says it has the weights of the chain and decodes another: its own rows are right, the comparison is not. */
const other = source(
  (engine) => ({ ...engine, card: { ...engine.card, weightsDigest: digest } }),
  markovSource({ ...CHAIN, weights: '6' }),
);
const digest = (await markovSource(CHAIN).open({})).card.weightsDigest;

describe('a baseline that fails', () => {
  it.each<[string, EngineSource, RegExp]>([
    [
      'when it is opened',
      { ...markovSource(CHAIN), name: 'toy', open: thrown },
      /^the baseline toy did not open: the device is gone$/,
    ],
    [
      'when a session is opened',
      lying('throws-on-open'),
      /^the baseline toy failed: plain\/.*: threw: no such device$/,
    ],
    ['at the first step', lying('throws', 0), /^the baseline toy failed: plain\/.*: threw: the device is gone$/],
    ['in the midst of a session', lying('throws', 2), /^the baseline toy failed: plain\/.*: the device is gone$/],
    ['by hanging', lying('hangs', 1), /^the baseline toy failed: .*: hung: no answer to round 1 within 300 ms$/],
    ['by rounds without form', lying('nan-count', 1), /^the baseline toy failed: .*: malformed: round 1/],
    ['behind the equality checks', failingFrom(20), /^the baseline toy failed: row\/.*: threw: the device is gone$/],
    [
      'because the machine lacks something',
      failingFrom(3, () => {
        throw new EnvironmentError('no memory');
      }),
      /^the baseline toy failed: plain\/.*: no memory$/,
    ],
    [
      'when it is closed',
      source((engine) => ({ ...engine, close: () => new Promise(() => {}) })),
      /^the baseline toy failed: close: hung/,
    ],
  ])('%s is named, and refutes nothing', async (_, baseline, message) => {
    await expect(judged(markovSource(CHAIN), baseline, { stepMs: STEP_MS })).rejects.toMatchObject({
      name: 'EnvironmentError',
      message: expect.stringMatching(message),
    });
  });

  it.each<[string, EngineSource, EngineSource]>([
    ['two samples', source((engine) => ({ ...engine, ...noScores })), failingFrom(40, thrown, noScores)],
    [
      'rows put together from scores',
      markovSource(CHAIN),
      source((engine) => {
        let scores = 0;
        return { ...engine, score: async (...args) => (scores++ < 30 ? engine.score(...args) : thrown()) };
      }),
    ],
  ])('is named where the engine is tested by %s', async (_, working, baseline) => {
    expect(refutations(await judged(bare, working))).toEqual([]);
    await expect(judged(bare, baseline)).rejects.toThrow(/^the baseline toy failed: .*: the device is gone$/);
  });

  it('takes back what was held against it', async () => {
    expect(refutations(await judged(other, markovSource(CHAIN)))).toContain('equality greedy');
    await expect(judged(other, failingFrom(4))).rejects.toThrow(/^the baseline toy failed/);
  });

  it('takes back a difference of numerics too', async () => {
    const engine = markovSource({ ...CHAIN, weights: '6' });
    const over = { fidelityMargin: 0.01, budget: { prompts: 32, equalityPrompts: 32, equalityTokens: 40 } };
    expect(refutations(await judged(engine, markovSource(CHAIN), over))).toContain('fidelity likelihood');
    await expect(judged(engine, failingFrom(30), over)).rejects.toThrow(/^the baseline toy failed: fidelity\/.* gone$/);
  });

  it('leaves an engine refuted that is wrong by its own rows, and is told beside it', async () => {
    const wrong = source((engine) => lyingEngine(engine, 'accepted-plus-one'));
    const result = await judged(wrong, failingFrom(2));
    expect(result.verdict).toBe('refuted');
    expect(refutations(result)).toContain('books');
    expect(find(result, 'baseline')).toMatchObject({ outcome: 'inconclusive' });
    expect(find(result, 'baseline').evidence).toMatch(/^toy failed: plain\/.*the device is gone\. /);
    expect(refutations(await judged(lying('throws'), failingFrom(2)))).toContain('sessions');
  });

  it('leaves the run open in the record of evidence, and no refutation', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'kilotoken-baseline-'));
    try {
      const judge = (baseline: EngineSource) =>
        judged(markovSource(CHAIN), baseline, { record: new EvidenceRecord(folder), seed: '9' });
      await expect(judge(failingFrom(4))).rejects.toThrow(EnvironmentError);
      expect(refutations(await judge(markovSource(CHAIN)))).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('what stays refuted', () => {
  it.each<[Lie, string]>([
    ['wrong-token', 'equality greedy'],
    ['early-end', 'equality greedy'],
    ['slow-clock', 'books'],
  ])('an engine beside a baseline with the lie %s', async (lie, id) => {
    const result = await judged(markovSource(CHAIN), lying(lie));
    expect(result.verdict).toBe('refuted');
    expect(refutations(result)).toContain(id);
  });

  it.each<[string, EngineSource | null]>([
    ['a baseline', markovSource(CHAIN)],
    ['its own plain mode', null],
  ])('an engine that fails midway, beside %s', async (_, baseline) => {
    const result = await judged(lying('throws'), baseline);
    expect(result.verdict).toBe('refuted');
    expect(refutations(result)).toContain('sessions');
  });

  it('an engine whose own plain mode fails', async () => {
    const chain = markovSource(CHAIN);
    const half: EngineSource = {
      ...chain,
      open: async (options) => {
        const engine = await chain.open(options);
        return options.blockSize === 1 ? lyingEngine(engine, 'throws') : engine;
      },
    };
    const result = await judged(half, null);
    expect(refutations(result)).toContain('sessions');
  });
});
