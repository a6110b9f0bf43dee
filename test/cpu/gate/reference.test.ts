/** Scores stated beforehand: the only thing in a gate that sees a fault which both modes share. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { markovEngine } from '../../../harness/engines/markov.ts';
import { type ReferenceScores, readReference } from '../../../harness/gate/reference.ts';
import { CHAIN, find, gateOf, refutations } from './support.ts';

let scratch: string;
let stated: ReferenceScores;
const ids = [1, 4, 2, 0, 3, 3, 5, 1, 0];
beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-reference-'));
  const { logprobs } = await markovEngine(CHAIN).score(ids.slice(0, 1), ids.slice(1));
  stated = { source: 'a test', texts: [{ ids, nextLogprobs: logprobs }] };
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const judged = async (over: object, texts = stated.texts) => {
  const result = await gateOf(over, { reference: () => ({ source: 'a test', texts }) });
  return { result, check: find(result, 'reference scores') };
};

describe('reference scores', () => {
  it('are met by the engine they are of, and not testable where nobody states any', async () => {
    expect((await judged({})).check).toMatchObject({ outcome: 'consistent', n: 8 });
    expect(find(await gateOf({}), 'reference scores').outcome).toBe('not testable here');
  });
  it('refute another chain, which is lossless with respect to itself', async () => {
    const { result, check } = await judged({ weights: '6' });
    expect(refutations(result)).toEqual(['reference scores']);
    expect(check.evidence).toMatch(/text 0, token \d: -?\d/);
  });
  it('refute one token of one text by 0.002 nats, and pass 0.0005', async () => {
    const moved = (by: number) => [
      { ids, nextLogprobs: stated.texts[0]!.nextLogprobs.map((x, i) => (i === 5 ? x + by : x)) },
    ];
    expect((await judged({}, moved(0.002))).check.outcome).toBe('refuted');
    expect((await judged({}, moved(0.0005))).check.outcome).toBe('consistent');
    expect((await judged({}, moved(Number.NaN))).check.outcome).toBe('refuted');
  });
  it('are not testable without score()', async () => {
    expect((await judged({ scores: false })).check.outcome).toBe('not testable here');
  });
});

describe('the file', () => {
  const file = (value: unknown): string => {
    const path = join(scratch, 'scores.json');
    writeFileSync(path, typeof value === 'string' ? value : JSON.stringify(value));
    return path;
  };
  const identity = { weightsDigest: 'sha256:a', numerics: { id: 'n' } };
  const text = { ids: [1, 2], nextLogprobs: [-1] };
  it('is chosen by weights and numerics', () => {
    const card = (weightsDigest: string, id: string) => ({ weightsDigest, numerics: { id } });
    const both = [
      { card: card('sha256:b', 'n'), texts: [{ ...text, nextLogprobs: [-2] }] },
      { card: card('sha256:a', 'n'), texts: [text] },
    ];
    expect(readReference(file(both), identity)!.texts).toEqual([text]);
    expect(readReference(file(both), { ...identity, numerics: { id: 'm' } })).toBeNull();
    expect(readReference(file({ texts: [text] }), identity)!.texts).toEqual([text]);
  });
  it.each([
    '{',
    '7',
    { texts: [] },
    { texts: [{ ids: [1], nextLogprobs: [] }] },
    { texts: [{ ids: [1, 2], nextLogprobs: [-1, -1] }] },
    { texts: [{ ids: [1, -2], nextLogprobs: [-1] }] },
    { texts: [{ ids: [1, 2], nextLogprobs: [null] }] },
  ])('%j is bad input', (value) => {
    expect(() => readReference(file(value), identity)).toThrow(expect.objectContaining({ name: 'InputError' }));
  });
});
