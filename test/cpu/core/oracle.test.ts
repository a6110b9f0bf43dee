/**
 * The judge judged: properties the oracle must have whatever any engine does. Speculation changes nothing under greedy, `match` and
 * `coupled`; hiding the future, the window and the sinks behave as the description says; `reject` gives back the target's law.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { attend, quantiseRow, rotate } from '../../support/oracle/ops.ts';
import {
  type Activations,
  inverseCdf,
  Oracle,
  type OracleDecoding,
  OracleSession,
  processedRow,
  type Rule,
  STREAM,
  uniform,
  verifyByRejection,
} from '../../support/oracle.ts';
import { TINY_VOCABULARY, writeSyntheticCheckpoint } from '../../support/synthetic-checkpoint.ts';

let root: string;
let oracle: Oracle;

beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'kilotoken-oracle-'));
  await writeSyntheticCheckpoint(root, { seed: 31, ...TINY_VOCABULARY });
  oracle = new Oracle(root);
});
afterAll(() => rm(root, { recursive: true, force: true }));

const PROMPT = [3, 1, 4, 1, 5, 0, 2, 6, 5, 3, 5, 7];

function decode(
  rule: Rule,
  speculative: boolean,
  decoding: Partial<OracleDecoding>,
  activations: Activations = 'bf16',
) {
  const target = oracle.target(activations);
  const full = { seed: 99n, temperature: 1.5, topP: 1, topK: 0, maxTokens: 24, stopIds: [], ...decoding };
  return new OracleSession(target, speculative ? oracle.draft(target) : null, rule, PROMPT, full).run();
}

const text = (rounds: readonly { committed: readonly number[] }[]) => rounds.flatMap((round) => round.committed);

describe('speculation on against off', () => {
  test.each([
    ['match', 0],
    ['coupled', 0],
    ['reject', 0],
    ['match', 1.5],
    ['coupled', 1.5],
    ['coupled', 4],
  ] as const)('%s at temperature %d: the same tokens, some of them drafted', (rule, temperature) => {
    const plain = decode(rule, false, { temperature });
    const speculative = decode(rule, true, { temperature });
    expect(text(speculative)).toEqual(text(plain));
    expect(plain).toHaveLength(24);
    if (temperature > 0) expect(new Set(text(plain)).size).toBeGreaterThan(3);
    if (rule === 'coupled' && temperature > 0) expect(speculative.length).toBeLessThan(plain.length);
  });

  test('twin: a target that keeps the keys of rejected drafts gives other tokens', () => {
    const target = oracle.target('bf16');
    target.crop = () => undefined;
    const decoding = { seed: 99n, temperature: 1.5, topP: 1, topK: 0, maxTokens: 24, stopIds: [] };
    const broken = new OracleSession(target, oracle.draft(target), 'coupled', PROMPT, decoding);
    expect(text(broken.run())).not.toEqual(text(decode('coupled', false, {})));
  });

  test('accepted drafts are the ones committed; the token behind them is the target`s', () => {
    for (const rule of ['match', 'coupled', 'reject'] as const) {
      for (const round of decode(rule, true, { temperature: 4 }).slice(1)) {
        expect(round.committed.slice(0, round.accepted)).toEqual(
          round.drafted.slice(0, round.committed.length).slice(0, round.accepted),
        );
        expect(round.drafted.length).toBeLessThanOrEqual(7);
      }
    }
  });

  test('emission ends with the first stop id, which is emitted, also inside accepted drafts', () => {
    const rounds = decode('coupled', true, { temperature: 4, stopIds: [0, 1, 2, 3, 4], maxTokens: 60 });
    const tokens = text(rounds);
    expect(rounds.at(-1)!.finish).toBe('stop');
    expect(tokens.findIndex((id) => id <= 4)).toBe(tokens.length - 1);
  });
});

describe('reject in law', () => {
  const DRAWS = 6000;
  const decoding = { seed: 0n, temperature: 4, topP: 1, topK: 0, maxTokens: 2, stopIds: [] };
  const anchor = 2;

  /** Counts of the first token behind the anchor over many seeds, drafts drawn from `draftLaw`. */
  function counts(p: Float64Array[], q: Float64Array[], draftLaw: Float64Array) {
    const tokens = new Float64Array(p[0]!.length);
    let accepted = 0;
    const start = PROMPT.length;
    for (let seed = 0n; seed < DRAWS; seed++) {
      const d = inverseCdf(draftLaw, uniform(seed, start + 1, STREAM.draftSample, 1));
      const outcome = verifyByRejection(p, q, [d], { seed, start, round: 1 });
      accepted += outcome.accepted;
      tokens[outcome.accepted === 1 ? d : outcome.next]! += 1;
    }
    return { tokens, accepted };
  }

  test('the first token behind the anchor follows p, whatever was drafted; a draft that lies about its q breaks it', () => {
    const target = oracle.target('bf16');
    const draft = oracle.draft(target)!;
    for (const row of target.forward(PROMPT)) draft.append(row.taps);
    const q = draft.propose(anchor, 2).map((row) => processedRow(row, decoding));
    const p = target.forward([anchor, 0]).map((row) => processedRow(row.logits, decoding));
    const chiSquare = (tokens: Float64Array) =>
      p[0]!.reduce((sum, value, id) => sum + (tokens[id]! - DRAWS * value) ** 2 / (DRAWS * value), 0);
    const honest = counts(p, q, q[0]!);
    expect(honest.accepted).toBeGreaterThan(DRAWS / 10);
    expect(honest.accepted).toBeLessThan((9 * DRAWS) / 10);
    // 8 degrees of freedom: the 0.999 quantile is 26.1.
    expect(chiSquare(honest.tokens)).toBeLessThan(26.1);
    const uniformDrafts = new Float64Array(9).fill(1 / 9);
    expect(chiSquare(counts(p, q, uniformDrafts).tokens)).toBeGreaterThan(100);
  });
});

describe('attention', () => {
  test('a row does not depend on what follows it, and does on what precedes it', () => {
    const first = oracle.target('fp8').forward(PROMPT)[5]!.logits;
    const otherFuture = oracle.target('fp8').forward([...PROMPT.slice(0, 6), 8, 8, 8])[5]!.logits;
    const otherPast = oracle.target('fp8').forward([8, ...PROMPT.slice(1)])[5]!.logits;
    expect(otherFuture).toEqual(first);
    expect(otherPast).not.toEqual(first);
  });

  test('a crop forgets', () => {
    const target = oracle.target('bf16');
    target.forward(PROMPT);
    target.crop(4);
    expect(target.forward(PROMPT.slice(4)).at(-1)!.logits).toEqual(
      oracle.target('bf16').forward(PROMPT).at(-1)!.logits,
    );
  });

  test('rotation keeps lengths, leaves the rest alone, and scores depend on distances only', () => {
    const head = Float64Array.from({ length: 12 }, (_, i) => Math.sin(3 * i + 1));
    const other = Float64Array.from({ length: 12 }, (_, i) => Math.cos(5 * i + 2));
    const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
    const turned = rotate(head, 17, 8, 1e4);
    expect([...turned.slice(8)]).toEqual([...head.slice(8)]);
    expect(dot(turned, turned)).toBeCloseTo(dot(head, head), 12);
    expect(dot(rotate(head, 105, 8, 1e4), rotate(other, 100, 8, 1e4))).toBeCloseTo(
      dot(rotate(head, 5, 8, 1e4), other),
      12,
    );
    expect([...rotate(head, 0, 8, 1e4)]).toEqual([...head]);
  });

  test('a sink takes weight from the values and gives none', () => {
    const q = Float64Array.from([1, 0]);
    const keys = [Float64Array.from([0, 0]), Float64Array.from([0, 5])];
    const values = [Float64Array.from([2]), Float64Array.from([4])];
    expect(attend(q, keys, values, null)[0]).toBeCloseTo(3, 14);
    expect(attend(q, keys, values, 0)[0]).toBeCloseTo(2, 14); // three equal logits, one of them without a value
    expect(attend(q, keys, values, 800)[0]).toBeCloseTo(0, 14);
  });
});

describe('activation quantisation', () => {
  test('per 128 channels, the largest magnitude becomes 448 steps; a group of zeros stays zero; the last group may be short', () => {
    const x = Float64Array.from({ length: 300 }, (_, i) =>
      i < 128 ? 0 : Math.fround(Math.sin(i) * 2 ** Math.floor(i / 64)),
    );
    const out = quantiseRow(x);
    expect(out.slice(0, 128).every((value) => value === 0)).toBe(true);
    for (const [start, end] of [
      [128, 256],
      [256, 300],
    ] as const) {
      const amax = Math.max(...x.slice(start, end).map(Math.abs));
      const s = Math.fround(amax / 448);
      for (let i = start; i < end; i++) {
        // E4M3 keeps 4 significant bits: relative error 2^-4 at most, or half the smallest step.
        expect(Math.abs(out[i]! - x[i]!)).toBeLessThanOrEqual(Math.max(Math.abs(x[i]!) / 16, s * 2 ** -10) * 1.0001);
      }
      expect(Math.max(...out.slice(start, end).map(Math.abs))).toBeCloseTo(amax, 4);
    }
  });
});

describe('processed rows', () => {
  const logits = Float64Array.from([0, 2, 1, 2, -1, 2]);
  const base = { seed: 0n, temperature: 1, topP: 1, topK: 0, maxTokens: 1, stopIds: [] };
  const kept = (decoding: Partial<OracleDecoding>) =>
    [...processedRow(logits, { ...base, ...decoding }).entries()].filter(([, value]) => value > 0).map(([id]) => id);

  test('top-k keeps the lowest ids among equals; top-p the shortest prefix that reaches the mass; both renormalise', () => {
    expect(kept({ topK: 2 })).toEqual([1, 3]);
    expect(kept({ topK: 4 })).toEqual([1, 2, 3, 5]);
    const e = Math.exp;
    const share = e(2) / (3 * e(2) + e(1) + 1 + e(-1));
    expect(kept({ topP: share })).toEqual([1]);
    expect(kept({ topP: share + 1e-9 })).toEqual([1, 3]);
    expect(kept({ temperature: 0 })).toEqual([1]);
    for (const decoding of [{ topK: 3 }, { topP: 0.7 }, { topK: 5, topP: 0.8, temperature: 0.5 }]) {
      const row = processedRow(logits, { ...base, ...decoding });
      expect(row.reduce((sum, value) => sum + value, 0)).toBeCloseTo(1, 14);
    }
  });
});
