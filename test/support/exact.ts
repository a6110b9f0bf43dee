/**
 * Number formats from their definitions, in integers. A finite binary floating-point number is an integer times a power of two, so a
 * pair of bigint and exponent holds every code of every format here, every midpoint between neighbours, and compares without
 * rounding. These tables judge core/; they share no line with it and use no floating-point arithmetic.
 */

/** mantissa * 2^exponent */
export interface Dyadic {
  readonly mantissa: bigint;
  readonly exponent: number;
}

export type Decoded = Dyadic | 'nan' | '+inf' | '-inf';

/** A sign-magnitude binary format: 1 sign bit, then exponent and mantissa bits. */
export interface Format {
  readonly name: string;
  readonly exponentBits: number;
  readonly mantissaBits: number;
  readonly bias: number;
  /** `ieee`: the top exponent is infinity and NaN. `fn`: only all ones is NaN, no infinity. `none`: every code is a number. */
  readonly specials: 'ieee' | 'fn' | 'none';
}

export const E2M1: Format = { name: 'E2M1', exponentBits: 2, mantissaBits: 1, bias: 1, specials: 'none' };
export const E4M3: Format = { name: 'E4M3', exponentBits: 4, mantissaBits: 3, bias: 7, specials: 'fn' };
export const BF16: Format = { name: 'BF16', exponentBits: 8, mantissaBits: 7, bias: 127, specials: 'ieee' };
export const BINARY32: Format = { name: 'binary32', exponentBits: 8, mantissaBits: 23, bias: 127, specials: 'ieee' };

export function decode(format: Format, code: bigint): Decoded {
  const { exponentBits, mantissaBits, bias } = format;
  const mantissa = code & ((1n << BigInt(mantissaBits)) - 1n);
  const field = Number((code >> BigInt(mantissaBits)) & ((1n << BigInt(exponentBits)) - 1n));
  const negative = (code >> BigInt(exponentBits + mantissaBits)) & 1n;
  const top = (1 << exponentBits) - 1;
  const ones = (1n << BigInt(mantissaBits)) - 1n;
  if (format.specials === 'ieee' && field === top) return mantissa !== 0n ? 'nan' : negative ? '-inf' : '+inf';
  if (format.specials === 'fn' && field === top && mantissa === ones) return 'nan';
  const significand = field === 0 ? mantissa : mantissa + (1n << BigInt(mantissaBits));
  const exponent = (field === 0 ? 1 : field) - bias - mantissaBits;
  return { mantissa: negative ? -significand : significand, exponent };
}

/** -1, 0 or 1 */
export function compare(a: Dyadic, b: Dyadic): number {
  const low = Math.min(a.exponent, b.exponent);
  const left = a.mantissa << BigInt(a.exponent - low);
  const right = b.mantissa << BigInt(b.exponent - low);
  return left < right ? -1 : left > right ? 1 : 0;
}

export function midpoint(a: Dyadic, b: Dyadic): Dyadic {
  const low = Math.min(a.exponent, b.exponent);
  const sum = (a.mantissa << BigInt(a.exponent - low)) + (b.mantissa << BigInt(b.exponent - low));
  return { mantissa: sum, exponent: low - 1 };
}

function magnitude(x: Dyadic): Dyadic {
  return x.mantissa < 0n ? { mantissa: -x.mantissa, exponent: x.exponent } : x;
}

/** Times 2^shift. */
export function scaled(x: Dyadic, shift: number): Dyadic {
  return { mantissa: x.mantissa, exponent: x.exponent + shift };
}

/** floor(log2 |x|) of x != 0 */
export function floorLog2(x: Dyadic): number {
  return magnitude(x).mantissa.toString(2).length - 1 + x.exponent;
}

/** Non-negative finite values of a format in ascending order; the index is the code. */
export function ladder(format: Format): Dyadic[] {
  const values: Dyadic[] = [];
  const codes = 1n << BigInt(format.exponentBits + format.mantissaBits);
  for (let code = 0n; code < codes; code++) {
    const value = decode(format, code);
    if (typeof value === 'string') break;
    values.push(value);
  }
  return values;
}

/**
 * The magnitude code of the nearest value, ties to the even code. Beyond the midpoint between the largest value and the next one the
 * format would have with an unbounded exponent, IEEE formats overflow (code = length of the ladder, which is infinity); with
 * `saturate` the largest code is taken.
 */
export function nearestCode(values: readonly Dyadic[], x: Dyadic, saturate: boolean): number {
  const size = magnitude(x);
  let low = 0;
  let high = values.length; // first value > size lies in (low, high]
  while (low + 1 < high) {
    const middle = (low + high) >> 1;
    if (compare(values[middle]!, size) <= 0) low = middle;
    else high = middle;
  }
  const last = values.length - 1;
  if (low === last) {
    const step = { mantissa: 1n, exponent: values[last]!.exponent }; // spacing of the top binade
    const next = midpoint(scaled(values[last]!, 1), scaled(step, 1));
    const half = midpoint(values[last]!, next);
    const order = compare(size, half);
    const beyond = order > 0 || (order === 0 && last % 2 === 1);
    return beyond && !saturate ? last + 1 : last;
  }
  const order = compare(size, midpoint(values[low]!, values[low + 1]!));
  if (order !== 0) return order < 0 ? low : low + 1;
  return low % 2 === 0 ? low : low + 1;
}

/** The binary32 pattern of a value that binary32 holds exactly; throws otherwise. */
export function toBinary32Bits(value: Decoded): number {
  if (value === 'nan') return 0x7fc00000;
  if (value === '+inf') return 0x7f800000;
  if (value === '-inf') return 0xff800000;
  const negative = value.mantissa < 0n;
  let mantissa = negative ? -value.mantissa : value.mantissa;
  let exponent = value.exponent;
  const sign = negative ? 0x80000000 : 0;
  if (mantissa === 0n) return sign;
  while (mantissa % 2n === 0n) {
    mantissa /= 2n;
    exponent += 1;
  }
  const bits = mantissa.toString(2).length;
  const top = exponent + bits - 1;
  if (bits > 24 || top > 127 || exponent < -149) throw new RangeError('not a binary32 number');
  const shift = top < -126 ? exponent + 149 : 24 - bits;
  const field = top < -126 ? 0 : top + 127;
  const fraction = Number(mantissa << BigInt(shift)) - (field > 0 ? 0x800000 : 0);
  return (sign + field * 0x800000 + fraction) >>> 0;
}
