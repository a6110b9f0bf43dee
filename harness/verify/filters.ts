/**
 * The decoding filters on a row of probabilities at temperature 1: temperature, top-k (ties keep the lowest ids), top-p (by
 * probability descending, ties by id, the shortest prefix that reaches the mass), renormalised. Written from the contract
 * of the seam, to check rows of an engine at other parameters against its own row without filters.
 */

export interface FilteredRow {
  readonly row: Float64Array;
  /** The cut is so close to a token's boundary that rounding may move it. */
  readonly onEdge: boolean;
}

const EDGE = 1e-9;

/** `row` sums to 1; temperature above 0. */
export function filterRow(row: Float64Array, temperature: number, topK: number, topP: number): FilteredRow {
  const warm = new Float64Array(row.length);
  let sum = 0;
  for (let x = 0; x < row.length; x++) {
    warm[x] = row[x]! > 0 ? row[x]! ** (1 / temperature) : 0;
    sum += warm[x]!;
  }
  let order = [...warm.keys()].filter((x) => warm[x]! > 0).sort((a, b) => warm[b]! - warm[a]! || a - b);
  let onEdge = false;
  if (topK > 0 && topK < order.length) {
    onEdge = Math.abs(warm[order[topK]!]! / warm[order[topK - 1]!]! - 1) < EDGE;
    order = order.slice(0, topK);
    sum = order.reduce((total, x) => total + warm[x]!, 0);
  }
  const out = new Float64Array(row.length);
  let mass = 0;
  let kept = 0;
  for (const x of order) {
    if (topP < 1 && mass >= topP) break;
    out[x] = warm[x]!;
    kept += warm[x]!;
    mass += warm[x]! / sum;
    onEdge ||= topP < 1 && Math.abs(mass - topP) < EDGE;
  }
  // The last token kept and the first cut may be a tie that rounding orders the other way.
  const cut = order[order.findIndex((x) => out[x] === 0)];
  const last = order[order.findIndex((x) => out[x] === 0) - 1];
  if (cut !== undefined && last !== undefined) onEdge ||= Math.abs(warm[cut]! / warm[last]! - 1) < EDGE;
  for (let x = 0; x < out.length; x++) out[x]! /= kept;
  return { row: out, onEdge };
}
