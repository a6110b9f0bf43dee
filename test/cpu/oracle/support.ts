/**
 * What the tests of the oracle share: properties whose failure says how to run it again, arbitrary rows and fixtures,
 * and the fixtures of the repository.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { test } from 'vitest';
import type { VerificationRule } from '../../../harness/engine.ts';
import { checkFixture, type Fixture, type FixtureDecoding, readFixture } from '../../../harness/oracle/fixture.ts';

export const ROOT = join(import.meta.dirname, '../../..');
export const FIXTURES = join(ROOT, 'harness/fixtures');
export const RULES: readonly VerificationRule[] = ['match', 'reject', 'coupled'];

export const FIXTURE_NAMES = readdirSync(FIXTURES)
  .filter((file) => file.endsWith('.json'))
  .map((file) => file.slice(0, -'.json'.length))
  .sort();

export const fixture = (name: string): Fixture => readFixture(join(FIXTURES, `${name}.json`));

/** A property with a fixed seed; a failure prints the counterexample, its seed and path, and the command that repeats it. */
export function property<T>(
  file: string,
  title: string,
  arbitrary: fc.Arbitrary<T>,
  { seed, runs }: { readonly seed: number; readonly runs: number },
  check: (value: T) => void,
): void {
  test(`${title}, seed ${seed}`, () => {
    const found = fc.check(fc.property(arbitrary, check), { seed, numRuns: runs });
    if (!found.failed) return;
    const error = found.errorInstance instanceof Error ? found.errorInstance.message : String(found.errorInstance);
    throw new Error(
      `${error}\nseed ${found.seed}, path ${found.counterexamplePath}, after ${found.numShrinks} shrinks: ` +
        `${JSON.stringify(found.counterexample)}\nreplay: npx vitest run test/cpu/oracle/${file} -t "${title}"`,
    );
  });
}

/** The same for checks that wait. `file`: from the root of the repository. */
export function waitingProperty<T>(
  file: string,
  title: string,
  arbitrary: fc.Arbitrary<T>,
  { seed, runs }: { readonly seed: number; readonly runs: number },
  check: (value: T) => Promise<void>,
): void {
  test(`${title}, seed ${seed}`, async () => {
    const found = await fc.check(fc.asyncProperty(arbitrary, check), { seed, numRuns: runs });
    if (!found.failed) return;
    const error = found.errorInstance instanceof Error ? found.errorInstance.message : String(found.errorInstance);
    throw new Error(
      `${error}\nseed ${found.seed}, path ${found.counterexamplePath}, after ${found.numShrinks} shrinks: ` +
        `${JSON.stringify(found.counterexample)}\nreplay: npx vitest run ${file} -t "${title}"`,
    );
  });
}

export const PLAIN: FixtureDecoding = {
  temperature: 1,
  topK: 0,
  topP: 1,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: [],
  stopIds: [],
  maxTokens: null,
};

/** A checked fixture from its parts, with the plain decoding where nothing else is said. */
export function make(
  parts: Pick<Fixture, 'vocab' | 'order' | 'prompt' | 'target' | 'draft' | 'block' | 'tokens'> & {
    readonly decoding?: Partial<FixtureDecoding>;
  },
): Fixture {
  return checkFixture({
    format: 'kilotoken/fixture@1',
    name: 'made by a test',
    note: '',
    rows: 'probabilities',
    ...parts,
    decoding: { ...PLAIN, ...parts.decoding },
  });
}

/** A law over `size` tokens: flat, one-hot, with zeros, with ties, or anything. */
export function anyRow(size: number): fc.Arbitrary<number[]> {
  const weight = fc.oneof(
    { weight: 3, arbitrary: fc.double({ min: 1e-6, max: 1, noNaN: true }) },
    { weight: 2, arbitrary: fc.constantFrom(0, 1, 2) },
    { weight: 1, arbitrary: fc.constantFrom(1e-15, 1e-9, 1e6) },
  );
  return fc
    .array(weight, { minLength: size, maxLength: size })
    .filter((weights) => weights.some((value) => value > 0))
    .map((weights) => {
      const sum = weights.reduce((total, value) => total + value, 0);
      return weights.map((value) => value / sum);
    });
}

/** A pair of laws: independent, equal, or nearly equal. */
export function anyPair(size: number): fc.Arbitrary<{ p: number[]; q: number[] }> {
  return fc.tuple(anyRow(size), anyRow(size), fc.constantFrom(1, 1, 0, 1e-14, 1e-9, 1e-3)).map(([p, other, mix]) => ({
    p,
    q: p.map((value, id) => (1 - mix) * value + mix * other[id]!),
  }));
}

/** Any fixture that is quick to enumerate: rows as above, any block up to 5, filters on or off. */
export const anyFixture: fc.Arbitrary<Fixture> = fc
  .record({
    vocab: fc.integer({ min: 2, max: 3 }),
    order: fc.integer({ min: 1, max: 2 }),
    block: fc.integer({ min: 1, max: 5 }),
  })
  .chain(({ vocab, order, block }) => {
    const contexts = vocab ** order;
    return fc.record({
      vocab: fc.constant(vocab),
      order: fc.constant(order),
      block: fc.constant(block),
      tokens: fc.integer({ min: 1, max: 5 }),
      prompt: fc.array(fc.integer({ min: 0, max: vocab - 1 }), { minLength: order, maxLength: order + 2 }),
      pairs: fc.array(fc.array(anyPair(vocab), { minLength: block, maxLength: block }), {
        minLength: contexts,
        maxLength: contexts,
      }),
      decoding: fc.record({
        temperature: fc.constantFrom(1, 1, 0.6, 1.7, 0),
        topK: fc.constantFrom(0, 0, 1, 2),
        topP: fc.constantFrom(1, 1, 0.9, 0.5),
        stopIds: fc.constantFrom<number[]>([], [], [0], [1]),
        maxTokens: fc.constantFrom(null, null, 1, 3),
      }),
    });
  })
  .map(({ pairs, ...parts }) =>
    make({
      ...parts,
      target: pairs.map((slots) => slots[0]!.p),
      // The first slot's draft row belongs to the same pair as the target row: equal or near-equal rows really meet.
      draft: pairs.map((slots) => slots.slice(0, parts.block - 1).map(({ q }) => q)),
    }),
  );
