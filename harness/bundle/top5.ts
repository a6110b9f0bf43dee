/** The five likeliest tokens of a row, so that a difference between two runs can be seen as close or gross without the whole row. */

/** `row`: [V] natural-log probabilities. Pairs [token, log-probability], likeliest first, ties by id; fewer where fewer are possible. */
export function top5(row: ArrayLike<number>): [number, number][] {
  const best: [number, number][] = [];
  for (let token = 0; token < row.length; token++) {
    const value = row[token]!;
    if (!(value > -Infinity)) continue;
    if (best.length === 5 && value <= best[4]![1]) continue;
    let at = best.length;
    while (at > 0 && best[at - 1]![1] < value) at -= 1;
    best.splice(at, 0, [token, value]);
    if (best.length > 5) best.pop();
  }
  return best;
}
