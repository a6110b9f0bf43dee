/** The acceptance floor: a draft that is only slower is refuted by what was stated beforehand, and by nothing else. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Round } from '../../../harness/engine.ts';
import { AcceptanceTally, checkAcceptance, checkDrafts, readFloor } from '../../../harness/gate/acceptance.ts';
import type { GateResult } from '../../../harness/gate/result.ts';
import { find, gateOf, refutations, SMALL } from './support.ts';

const budget = { ...SMALL, prompts: 24, equalityPrompts: 24, lawTokens: 6_000 };
const LONG = { budget };
let scratch: string;
let clean: GateResult;
let file: string;
beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-acceptance-'));
  file = join(scratch, 'clean.json');
  clean = await gateOf({}, LONG);
  writeFileSync(file, JSON.stringify(clean));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const against = (path: string) => ({ ...LONG, acceptance: () => readFloor(path, 'reject', null) });

describe('the floor', () => {
  it('is not testable when nobody states one, and the measured value is there to be stated', () => {
    expect(find(clean, 'acceptance floor').outcome).toBe('not testable here');
    expect(clean.acceptance).toMatchObject({ rule: 'reject' });
    expect(clean.acceptance!.prompts).toBeGreaterThan(12); // short prompts come twice
    expect(clean.acceptance!.low!).toBeLessThan(clean.acceptance!.mean);
    expect(clean.acceptance!.mean).toBeLessThan(clean.acceptance!.high!);
  });
  it('holds for the same engine, with the same and with another seed', async () => {
    for (const seed of ['1', '2', '3']) {
      const again = await gateOf({}, { ...against(file), seed });
      expect(refutations(again)).toEqual([]);
      expect(find(again, 'acceptance floor').outcome).toBe('consistent');
    }
  });
  it('refutes G01, which every law keeps: a draft that is fed one token early', async () => {
    const slow = await gateOf({ defect: 'G01' }, against(file));
    expect(refutations(slow)).toEqual(['acceptance floor', 'reference drafts']);
    expect(find(slow, 'acceptance floor').evidence).toMatch(
      /-0\.\d+ more than stated in greedy sessions of the same \d+ prompts, interval -0\.\d+ to -0\.\d+/,
    );
    // Twin: without a statement it passes.
    expect((await gateOf({ defect: 'G01' }, LONG)).verdict).toBe('passed');
  });
  it('refutes G01 on other prompts too when the floor is near', async () => {
    const { mean } = clean.acceptance!;
    const stated = () => ({ floor: mean - 0.05, source: 'a test', greedy: [] });
    const slow = await gateOf({ defect: 'G01' }, { ...LONG, seed: '7', acceptance: stated });
    expect(refutations(slow)).toEqual(['acceptance floor']);
  });
});

describe('drafts', () => {
  const cells = (change: (drafts: number[], i: number) => number[]) =>
    Array.from({ length: 32 }, (_, i) => ({
      prompt: String(i),
      tokens: 3,
      rounds: 1,
      drafts: change([1, 2, 3, 4, 5, 6, 7], i),
    }));
  const judged = (change: (drafts: number[], i: number) => number[]) => {
    const measured = {
      rule: 'match',
      mean: 3,
      low: 3,
      high: 3,
      rounds: 32,
      prompts: 32,
      greedy: cells(change),
    } as const;
    return checkDrafts(measured, { floor: 1, source: 'a test', greedy: cells((drafts) => drafts) });
  };
  it('that are the stated ones are consistent, a rounding here and there too', () => {
    expect(judged((drafts) => drafts)).toMatchObject({ outcome: 'consistent', n: 224 });
    expect(judged((drafts, i) => (i % 8 === 0 ? drafts.with(6, 9) : drafts)).outcome).toBe('consistent');
  });
  it('that differ in a seventh of the places are refuted though nothing is slower', () => {
    expect(judged((drafts) => drafts.with(6, 9)).outcome).toBe('refuted');
  });
  it('that nobody stated are not testable', () => {
    expect(checkDrafts(null, null).outcome).toBe('not testable here');
    expect(find(clean, 'reference drafts').outcome).toBe('not testable here');
  });
});

describe('what is counted', () => {
  const round = (over: object) => ({ kind: 'decode', drafted: [1, 2, 3], accepted: 1, ...over }) as unknown as Round;
  it('is accepted + 1 of decode rounds that drafted', () => {
    const tally = new AcceptanceTally();
    tally.session(
      [1],
      [round({ kind: 'prefill', drafted: [] }), round({}), round({ accepted: 3 }), round({ drafted: [] })],
    );
    expect(tally.cells()).toMatchObject([{ tokens: 6, rounds: 2 }]);
    expect(tally.measured('reject', '1', [])).toMatchObject({ mean: 3, rounds: 2, low: null, greedy: [] });
  });
  it('too few prompts are no verdict', () => {
    const tally = new AcceptanceTally();
    tally.session([1], [round({})]);
    const stated = { floor: 9, source: 'a test', greedy: [] };
    expect(checkAcceptance(tally.measured('reject', '1', []), stated, '1').outcome).toBe('inconclusive');
    expect(checkAcceptance(null, stated, '1').outcome).toBe('not testable here');
  });
});

describe('the file', () => {
  it('is chosen by rule and identity', () => {
    expect(readFloor(file, 'reject', null)!.floor).toBe(clean.acceptance!.low);
    expect(readFloor(file, 'match', null)).toBeNull();
    expect(readFloor(file, 'reject', clean.card!)).not.toBeNull();
    expect(readFloor(file, 'reject', { ...clean.card!, draftDigest: 'sha256:other' })).toBeNull();
  });
  it.each(['{', '7', '{"acceptance": {"rule": "reject"}}', '[{}]'])('%s is bad input', (text) => {
    const path = join(scratch, 'bad.json');
    writeFileSync(path, text);
    expect(() => readFloor(path, 'reject', null)).toThrow(expect.objectContaining({ name: 'InputError' }));
  });
});
