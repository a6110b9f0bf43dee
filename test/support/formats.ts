/**
 * The same formats in ordinary numbers, for the oracle and the checkpoint writer, which handle millions of values. Tables come from
 * exact.ts; a binary64 holds every value and every midpoint of these formats exactly, so the comparisons below do not round.
 */
import { BF16, type Decoded, decode, E2M1, E4M3, type Format } from './exact.ts';

export function toNumber(value: Decoded): number {
  if (value === 'nan') return Number.NaN;
  if (value === '+inf') return Number.POSITIVE_INFINITY;
  if (value === '-inf') return Number.NEGATIVE_INFINITY;
  return Number(value.mantissa) * 2 ** value.exponent;
}

function table(format: Format): Float64Array {
  const bits = 1 + format.exponentBits + format.mantissaBits;
  const out = new Float64Array(2 ** bits);
  for (let code = 0; code < out.length; code++) {
    const value = toNumber(decode(format, BigInt(code)));
    out[code] = value === 0 && code >= out.length / 2 ? -0 : value;
  }
  return out;
}

/** Value of every code; index = code. */
export const E2M1_VALUES = table(E2M1);
export const E4M3_VALUES = table(E4M3);
export const BF16_VALUES = table(BF16);

/** Nearest code among `values[0..count)`, ascending from 0, ties to the even code, saturating. */
function nearest(values: Float64Array, count: number, size: number): number {
  let low = 0;
  let high = count;
  while (low + 1 < high) {
    const middle = (low + high) >> 1;
    if (values[middle]! <= size) low = middle;
    else high = middle;
  }
  if (low === count - 1) return low;
  const half = (values[low]! + values[low + 1]!) / 2;
  if (size !== half) return size < half ? low : low + 1;
  return low % 2 === 0 ? low : low + 1;
}

function negativeBit(x: number, bit: number): number {
  return x < 0 || Object.is(x, -0) ? bit : 0;
}

/** E4M3 code, saturating at 448; NaN gives 0x7f. */
export function toE4m3(x: number): number {
  if (Number.isNaN(x)) return 0x7f;
  return negativeBit(x, 0x80) | nearest(E4M3_VALUES, 127, Math.abs(x));
}

/** E2M1 code, saturating at 6. */
export function toE2m1(x: number): number {
  return negativeBit(x, 8) | nearest(E2M1_VALUES, 8, Math.abs(x));
}

/** BF16 code of a finite number within range. */
export function toBf16(x: number): number {
  return negativeBit(x, 0x8000) | nearest(BF16_VALUES, 0x7f80, Math.abs(x));
}

export function roundToBf16(x: number): number {
  return BF16_VALUES[toBf16(x)]!;
}

/** 2^(code - 127) */
export function e8m0Value(code: number): number {
  return code === 255 ? Number.NaN : 2 ** (code - 127);
}

/** One MXFP4 block: 32 values to 16 bytes (low nibble = even k) and a scale code, by the OCP rule floor(log2 amax) - 2. */
export function encodeMxfp4(x: ArrayLike<number>, packed: Uint8Array): number {
  let amax = 0;
  for (let k = 0; k < 32; k++) amax = Math.max(amax, Math.abs(x[k]!));
  let exponent = -127;
  if (amax > 0) {
    // Exact for binary64 normals: log2 may round up to an integer just below a power of two, hence the correction.
    exponent = Math.floor(Math.log2(amax));
    if (2 ** exponent > amax) exponent -= 1;
    if (2 ** (exponent + 1) <= amax) exponent += 1;
    exponent = Math.min(127, Math.max(-127, exponent - 2));
  }
  packed.fill(0);
  for (let k = 0; k < 32; k++) packed[k >> 1]! |= toE2m1(x[k]! / 2 ** exponent) << (4 * (k & 1));
  return exponent + 127;
}
