/** Toys of the gate: exact by the oracle's enumeration, shown to engines that open them, and refuted where an engine lies about them. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Engine, Toy, VerificationRule } from '../../../harness/engine.ts';
import { lyingEngine } from '../../../harness/engines/liars.ts';
import { type MarkovDefect, markovSource } from '../../../harness/engines/markov.ts';
import type { EngineSource } from '../../../harness/engines/plugin.ts';
import { makeToys, ToyRows } from '../../../harness/gate/toys.ts';
import { enumerate } from '../../../harness/oracle/enumerate.ts';
import type { Fixture } from '../../../harness/oracle/fixture.ts';
import { Model } from '../../../harness/oracle/model.ts';
import { CpuModel } from '../../../native/engines.ts';
import { writeTinyCheckpoint } from '../../support/tiny-checkpoint.ts';
import { CHAIN, find, gate, gateOf, refutations } from './support.ts';

const NEUTRAL = {
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: [],
  stopIds: [],
  maxTokens: null,
};

function fixtureOf(toy: Toy, tokens: number, decoding: object): Fixture {
  const { vocab, order, block, target, draft } = toy;
  const filters = { temperature: 1, topK: 0, topP: 1, ...decoding };
  return {
    format: 'kilotoken/fixture@1',
    name: 'toy',
    note: '',
    ...{ vocab, order, block, tokens, rows: 'logits', prompt: new Array<number>(order).fill(1) },
    target: target as number[][],
    draft: draft as number[][][],
    decoding: { ...NEUTRAL, ...filters },
  };
}

describe('the tables', () => {
  it.each(['match', 'reject', 'coupled'] as const)('keep the exact law under rule %s', (rule) => {
    for (const { toy, settings, name } of makeToys('9')) {
      if (toy.block > 5) continue; // 3^8 paths a state: enumerated elsewhere at smaller size
      const fixture = fixtureOf(toy, 3, settings[0]!);
      expect(enumerate(fixture, rule).distance, name).toBeLessThan(1e-12);
    }
  });
  it('have the rows of the oracle, other rows for another seed, and differ much between target and draft', () => {
    for (const { toy, settings } of makeToys('9')) {
      const decoding = { seed: '1', maxTokens: 1, stopIds: [], temperature: 1, topK: 0, topP: 1, ...settings[0] };
      const [rows, model] = [new ToyRows(toy), new Model(fixtureOf(toy, 2, settings[0]!))];
      for (let context = 0; context < toy.target.length; context++) {
        const text = Array.from(
          { length: toy.order },
          (_, i) => Math.floor(context / toy.vocab ** (toy.order - 1 - i)) % toy.vocab,
        );
        expect([...rows.target(text, decoding)]).toEqual([...model.targetRow(context, [])]);
        expect([...rows.draft(text, 0, decoding)]).toEqual([...model.draftRow(context, 0)]);
      }
    }
    expect(makeToys('9')).toEqual(makeToys('9'));
    expect(makeToys('9')[0]!.toy.target).not.toEqual(makeToys('10')[0]!.toy.target);
  });
  it('are exact in binary32', () => {
    for (const { toy } of makeToys('9'))
      for (const row of toy.target) for (const x of row) expect(Math.fround(x)).toBe(x);
  });
});

/** The chain, with something else where its toys are opened. */
function withToys(change: (honest: NonNullable<Engine['openToy']>) => NonNullable<Engine['openToy']>): EngineSource {
  const source = markovSource(CHAIN);
  return {
    ...source,
    open: async (options) => {
      const engine = await source.open(options);
      return { ...engine, openToy: change(engine.openToy!) };
    },
  };
}

describe('an engine that opens toys', () => {
  it('passes when it is truthful, and its e-values are in the record', async () => {
    const result = await gateOf({});
    expect(result.verdict).toBe('passed');
    for (const id of ['toy rows', 'toy equality', 'toy replay', 'toy counters', 'boundary rows', 'boundary numbers']) {
      expect(find(result, id).outcome, id).toBe('consistent');
    }
    expect(find(result, 'law toy emission').n).toBeGreaterThanOrEqual(4_000);
  });

  it.each([
    [
      'that plays another toy',
      (open) => (toy, options) => open({ ...toy, target: [...toy.target].reverse() }, options),
      'toy rows',
    ],
    [
      'whose draft is another',
      (open) => (toy, options) => open({ ...toy, draft: [...toy.draft].reverse() }, options),
      'toy rows',
    ],
    ['that ignores the block', (open) => (toy) => open(toy, {}), 'toy rows'],
    [
      'that ignores the tape',
      (open) =>
        (toy, { tape: _, ...options }) =>
          open(toy, options),
      'boundary numbers',
    ],
    ['that dies of a toy', () => async () => Promise.reject(new Error('out of memory')), 'sessions'],
    ['that never opens it', () => () => new Promise<Engine>(() => {}), 'sessions'],
    [
      'whose toy says a draft more was accepted',
      (open) => async (toy, options) => lyingEngine(await open(toy, options), 'accepted-plus-one', 1),
      'books',
    ],
    [
      'whose toy emits another token',
      (open) => async (toy, options) => lyingEngine(await open(toy, options), 'wrong-token', 1),
      'toy replay',
    ],
    [
      'whose toy says NaN',
      (open) => async (toy, options) => lyingEngine(await open(toy, options), 'nan-count', 1),
      'sessions',
    ],
    [
      'whose toy hangs',
      (open) => async (toy, options) => lyingEngine(await open(toy, options), 'hangs', 1),
      'sessions',
    ],
    [
      'whose toy emits foreign tokens',
      (open) => async (toy, options) => lyingEngine(await open(toy, options), 'foreign-token', 1),
      'books',
    ],
    [
      'that samples rows of NaN',
      (open) => (toy, options) =>
        open({ ...toy, target: toy.target.map((row) => row.map((x) => (Number.isNaN(x) ? 0 : x))) }, options),
      'boundary rows',
    ],
  ] as [string, (open: NonNullable<Engine['openToy']>) => NonNullable<Engine['openToy']>, string][])(
    '%s is refuted',
    async (_, change, id) => {
      const result = await gate(withToys(change), { stepMs: 400 });
      expect(refutations(result)).toContain(id);
    },
  );

  it.each(['M25', 'M28'] as const)(
    'a leniency of a percent, %s, is seen without rows and scores of its own',
    async (defect) => {
      const found = refutations(await gateOf({ scores: false, defect }));
      expect(found).toContain('toy replay');
    },
  );

  it.each(['M01', 'M05', 'M07', 'M09', 'M12', 'M20', 'M24'] as MarkovDefect[])(
    '%s is seen by toys although nothing is logged at all',
    async (defect) => {
      const silent = { replay: false, scores: false, vocabSize: 3, blockSize: 3 };
      const found = refutations(
        await gateOf({ ...silent, defect }, { budget: { toyTokens: 30_000, twoSampleSessions: 32 } }),
      );
      expect(
        found.some((id) => id.startsWith('law toy ')),
        found.join(', '),
      ).toBe(true);
    },
  );
});

describe("this repository's engine", () => {
  it.each(['match', 'reject', 'coupled'] as const)(
    'keeps every law of its toys: %s',
    async (rule: VerificationRule) => {
      const scratch = mkdtempSync(join(tmpdir(), 'kilotoken-toys-'));
      await writeTinyCheckpoint(join(scratch, 'tiny'));
      const model = await CpuModel.load(join(scratch, 'tiny'));
      rmSync(scratch, { recursive: true });
      const source: EngineSource = {
        name: 'tiny',
        open: async ({ blockSize }) =>
          model.engine({ rule, replay: true, ...(blockSize === undefined ? {} : { blockSize }) }),
        close: async () => {},
      };
      const result = await gate(source, {
        stepMs: 20_000,
        budget: { prompts: 4, equalityPrompts: 4, lawTokens: 200, toyTokens: 4_000 },
      });
      expect(refutations(result)).toEqual([]);
      expect(find(result, 'toy replay').outcome).toBe('consistent');
      expect(find(result, 'boundary rows').outcome).toBe('consistent');
      expect(find(result, 'boundary numbers').outcome).toBe(rule === 'coupled' ? 'not testable here' : 'consistent');
      await model.close();
    },
  );
});
