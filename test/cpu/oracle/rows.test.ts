/** Processed rows against values worked out by hand, and against properties that any correct filter has. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { filtered, penalised, type RowDecoding } from '../../../harness/oracle/rows.ts';
import { anyRow, PLAIN, property } from './support.ts';

const decoding = (change: Partial<RowDecoding>): RowDecoding => ({ ...PLAIN, ...change });
const logs = (row: readonly number[]): number[] => row.map((value) => Math.log(value));
const nothing = (size: number) => ({
  inPrompt: new Array<boolean>(size).fill(false),
  generated: new Array<number>(size).fill(0),
});

function close(got: readonly number[], expected: readonly number[]): void {
  expect(got.length).toBe(expected.length);
  got.forEach((value, id) => {
    expect(Math.abs(value - expected[id]!), `entry ${id}: ${value}, expected ${expected[id]}`).toBeLessThan(1e-15);
  });
}

describe('by hand', () => {
  test('temperature squares at one half and takes the root at two', () => {
    close(filtered(logs([0.5, 0.3, 0.2]), decoding({ temperature: 0.5 })), [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]);
    const root = [Math.SQRT1_2, Math.sqrt(0.3), Math.sqrt(0.2)];
    const sum = root.reduce((a, b) => a + b);
    close(
      filtered(logs([0.5, 0.3, 0.2]), decoding({ temperature: 2 })),
      root.map((value) => value / sum),
    );
  });

  test('temperature 0 is the lowest id of the largest logit', () => {
    close(filtered([1, 3, 3, -1], decoding({ temperature: 0 })), [0, 1, 0, 0]);
  });

  test('top-k keeps the lowest ids of a tie at its edge', () => {
    close(filtered([0, 1, 0, 0], decoding({ topK: 2 })), [1 / (1 + Math.E), Math.E / (1 + Math.E), 0, 0]);
  });

  test('top-p keeps the shortest prefix that reaches the mass, ties by id', () => {
    close(filtered(logs([0.25, 0.25, 0.25, 0.25]), decoding({ topP: 0.5 })), [0.5, 0.5, 0, 0]);
    close(filtered(logs([0.25, 0.25, 0.25, 0.25]), decoding({ topP: 0.51 })), [1 / 3, 1 / 3, 1 / 3, 0]);
    close(filtered(logs([0.125, 0.5, 0.375]), decoding({ topP: 0.5 })), [0, 1, 0]);
    close(filtered(logs([0.125, 0.5, 0.375]), decoding({ topP: 0.6 })), [0, 4 / 7, 3 / 7]);
  });

  test('top-p sees the mass after top-k, not before', () => {
    // Of [.4 .3 .2 .1] top-k 2 leaves 4/7 and 3/7: the first alone reaches 0.55, before the cut it had 0.4.
    close(filtered(logs([0.4, 0.3, 0.2, 0.1]), decoding({ topK: 2, topP: 0.55 })), [1, 0, 0, 0]);
  });

  test('penalties: repetition over prompt and output, presence and frequency over the output alone', () => {
    const seen = { inPrompt: [true, false, false, false], generated: [0, 2, 1, 0] };
    const asked = decoding({ repetitionPenalty: 2, presencePenalty: 0.5, frequencyPenalty: 0.25 });
    // Prompt only: 1 / 2. Generated twice, negative: -1 * 2 - 0.5 - 0.5. Once: 3 / 2 - 0.5 - 0.25. Never: 4.
    expect(penalised([1, -1, 3, 4], asked, seen)).toEqual([0.5, -3, 0.75, 4]);
  });

  test('the bias comes before the penalties', () => {
    const seen = { inPrompt: [true, false], generated: [0, 0] };
    const asked = decoding({ repetitionPenalty: 2, logitBias: [{ token: 0, bias: 3 }] });
    expect(penalised([1, 0], asked, seen)).toEqual([2, 0]);
  });

  test('a row that is no law is refused', () => {
    expect(() => filtered([0, Number.NaN], PLAIN)).toThrow(/not a number/);
    expect(() => filtered([0, Number.POSITIVE_INFINITY], PLAIN)).toThrow(/not a number/);
    expect(() => filtered([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY], PLAIN)).toThrow(/no mass/);
  });
});

const anyDecoding = fc.record({
  temperature: fc.constantFrom(0, 0.3, 1, 2.5),
  topK: fc.integer({ min: 0, max: 7 }),
  topP: fc.constantFrom(1e-9, 0.3, 0.5, 0.9, 1),
});

property(
  'rows.test.ts',
  'a processed row is a law on a subset of the support, in the order of the logits',
  fc.tuple(anyRow(7), anyDecoding),
  { seed: 31, runs: 500 },
  ([row, change]) => {
    const asked = decoding(change);
    const logits = logs(row);
    const out = filtered(penalised(logits, asked, nothing(7)), asked);
    expect(Math.abs(out.reduce((a, b) => a + b, 0) - 1)).toBeLessThan(1e-14);
    const kept = out.filter((value) => value > 0).length;
    expect(kept).toBeGreaterThan(0);
    if (asked.topK > 0) expect(kept).toBeLessThanOrEqual(asked.topK);
    for (const [a, p] of out.entries()) {
      if (row[a] === 0) expect(p).toBe(0);
      for (const [b, other] of out.entries()) if (logits[a]! > logits[b]!) expect(p).toBeGreaterThanOrEqual(other);
    }
  },
);
