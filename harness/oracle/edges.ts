/**
 * Decisions at the edges of a uniform's range, where a wrong comparison shows at once and statistics would need 1e8
 * draws. Each vector is one decision with its answer worked out by hand.
 */
import { type Comparisons, inverseCdf, STRICT } from './source.ts';

/** The largest value of the engine's 52-bit uniforms. */
export const LARGEST_UNIFORM = 1 - 2 ** -53;

interface EdgeVector {
  readonly name: string;
  readonly decide: (comparisons: Comparisons) => number | boolean;
  readonly answer: number | boolean;
}

/** Ten additions of 0.1 stay below 1 in binary64: a uniform above that sum exhausts the row. */
const SHORT_ROW = [...new Array<number>(10).fill(0.1), 0, 0];

export const EDGE_VECTORS: readonly EdgeVector[] = [
  {
    name: 'u = 0 never picks a token of probability 0',
    decide: (by) => inverseCdf([0, 0.5, 0.5], 0, by),
    answer: 1,
  },
  {
    name: 'u on a cumulative edge picks the token above it',
    decide: (by) => inverseCdf([0.5, 0, 0.5], 0.5, by),
    answer: 2,
  },
  {
    name: 'the largest u on a row that rounding exhausts picks the last token with mass',
    decide: (by) => inverseCdf(SHORT_ROW, LARGEST_UNIFORM, by),
    answer: 9,
  },
  {
    name: 'a one-hot row picks its token at the largest u',
    decide: (by) => inverseCdf([0, 1, 0], LARGEST_UNIFORM, by),
    answer: 1,
  },
  { name: 'coin 0 refuses a draft of target probability 0', decide: (by) => by.accepts(0, 0.5, 0), answer: false },
  { name: 'a coin equal to p / q refuses', decide: (by) => by.accepts(0.5, 0.5, 0.25), answer: false },
  { name: 'the largest coin accepts at p = q', decide: (by) => by.accepts(LARGEST_UNIFORM, 0.3, 0.3), answer: true },
  { name: 'q = 0 accepts wherever p has mass', decide: (by) => by.accepts(LARGEST_UNIFORM, 0, 1e-300), answer: true },
];

/** The comparisons of the defects that only show here. */
export const WRONG_COMPARISONS: Readonly<Record<string, Comparisons>> = {
  M34: {
    ...STRICT,
    inside: (u, cumulative) => u <= cumulative,
    accepts: (u, denominator, numerator) => u * denominator <= numerator,
  },
  M35: { ...STRICT, fallThrough: (row) => row.length - 1 },
};

/** Names of the vectors that the comparisons answer wrongly. */
export function wrongEdges(comparisons: Comparisons): string[] {
  return EDGE_VECTORS.filter(({ decide, answer }) => decide(comparisons) !== answer).map(({ name }) => name);
}
