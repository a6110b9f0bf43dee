/** What a gate looks at: all that its name says up to the vocabularies it was calibrated on, less where rows are longer, and never nothing. */
import { expect, test } from 'vitest';
import { BUDGETS, fittedTo } from '../../../harness/gate/budget.ts';

test.each(['pr', 'nightly'] as const)('%s: nano and narrower vocabularies have the whole budget', (gate) => {
  for (const vocab of [2, 64, 1024, 2048]) expect(fittedTo(BUDGETS[gate], vocab)).toEqual(BUDGETS[gate]);
});

test('rows of 152,576 numbers: fewer positions, a least number of each, everything else as it was', () => {
  expect(fittedTo(BUDGETS.pr, 152_576)).toEqual({
    ...BUDGETS.pr,
    equalityPrompts: 16,
    equalityTokens: 24,
    wideLawTokens: 135,
    lawSessionTokens: 16,
    rowPositions: 8,
  });
});

test('the least is never more than was asked for', () => {
  const small = {
    ...BUDGETS.pr,
    equalityPrompts: 3,
    equalityTokens: 5,
    wideLawTokens: 20,
    lawSessionTokens: 4,
    rowPositions: 2,
  };
  expect(fittedTo(small, 1_000_000)).toEqual(small);
});
