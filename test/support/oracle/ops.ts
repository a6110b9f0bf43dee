/** The operations of the model in binary64, one plain function each. Rows are Float64Array. */
import { E4M3_VALUES, toE4m3 } from '../formats.ts';
import type { Matrix } from './weights.ts';

export type Activations = 'fp8' | 'bf16';

/**
 * Per 128 channels: s = amax / 448 in binary32 (1 for a group of zeros), code = E4M3 of x / s in binary32, value = code * s.
 * This step is defined in binary32, so it is done there; everything around it is binary64.
 */
export function quantiseRow(x: Float64Array): Float64Array {
  const out = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += 128) {
    const group = Float32Array.from(x.subarray(start, Math.min(start + 128, x.length)));
    let amax = 0;
    for (const value of group) amax = Math.max(amax, Math.abs(value));
    const s = amax === 0 ? 1 : Math.fround(amax / 448);
    group.forEach((value, i) => {
      out[start + i] = E4M3_VALUES[toE4m3(Math.fround(value / s))]! * s;
    });
  }
  return out;
}

/** W x; the input is quantised first when the weight is stored quantised and `activations` says so. */
export function apply(w: Matrix, x: Float64Array, activations: Activations): Float64Array {
  const input = w.quantised && activations === 'fp8' ? quantiseRow(x) : x;
  const out = new Float64Array(w.rows);
  for (let r = 0; r < w.rows; r++) {
    let sum = 0;
    const base = r * w.cols;
    for (let c = 0; c < w.cols; c++) sum += w.values[base + c]! * input[c]!;
    out[r] = sum;
  }
  return out;
}

export function rmsNorm(x: Float64Array, weight: Float64Array, eps: number): Float64Array {
  let squares = 0;
  for (const value of x) squares += value * value;
  const scale = 1 / Math.sqrt(squares / x.length + eps);
  return x.map((value, i) => value * scale * weight[i]!);
}

/** NeoX rotation of the first `rotaryDim` of a head: pairs (i, i + rotaryDim / 2), angle position * theta^(-2 i / rotaryDim). */
export function rotate(head: Float64Array, position: number, rotaryDim: number, theta: number): Float64Array {
  const out = head.slice();
  const half = rotaryDim / 2;
  for (let i = 0; i < half; i++) {
    const angle = position * theta ** ((-2 * i) / rotaryDim);
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    out[i] = head[i]! * cos - head[i + half]! * sin;
    out[i + half] = head[i + half]! * cos + head[i]! * sin;
  }
  return out;
}

/** softmax(q.k / sqrt(headDim)) v over the given keys; `sink` is a logit that joins the maximum and the sum but has no value. */
export function attend(
  q: Float64Array,
  keys: readonly Float64Array[],
  values: readonly Float64Array[],
  sink: number | null,
): Float64Array {
  const scale = q.length ** -0.5;
  const scores = keys.map((key) => scale * key.reduce((sum, value, i) => sum + value * q[i]!, 0));
  let max = sink ?? Number.NEGATIVE_INFINITY;
  for (const score of scores) max = Math.max(max, score);
  let total = sink === null ? 0 : Math.exp(sink - max);
  const out = new Float64Array(values[0]!.length);
  scores.forEach((score, j) => {
    const weight = Math.exp(score - max);
    total += weight;
    const value = values[j]!;
    for (let i = 0; i < out.length; i++) out[i]! += weight * value[i]!;
  });
  return out.map((value) => value / total);
}

export function swiglu(gate: Float64Array, up: Float64Array): Float64Array {
  return gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]!);
}

export function add(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((value, i) => value + b[i]!);
}

/** Cut into heads of `size`. */
export function heads(row: Float64Array, size: number): Float64Array[] {
  return Array.from({ length: row.length / size }, (_, h) => row.slice(h * size, (h + 1) * size));
}

export function concat(rows: readonly Float64Array[]): Float64Array {
  const out = new Float64Array(rows.reduce((sum, row) => sum + row.length, 0));
  let at = 0;
  for (const row of rows) {
    out.set(row, at);
    at += row.length;
  }
  return out;
}
