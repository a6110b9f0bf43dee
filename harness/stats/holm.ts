/** Holm's step-down correction (Holm 1979): family-wise error at most alpha under any dependence. */

/** Adjusted p-values, in the order given; hypothesis i is rejected at level alpha iff the result is <= alpha. */
export function holm(pValues: readonly number[]): number[] {
  const order = pValues.map((_, index) => index).sort((a, b) => pValues[a]! - pValues[b]!);
  const adjusted = new Array<number>(pValues.length);
  let running = 0;
  order.forEach((index, rank) => {
    running = Math.max(running, (pValues.length - rank) * pValues[index]!);
    adjusted[index] = Math.min(1, running);
  });
  return adjusted;
}
