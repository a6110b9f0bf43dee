/**
 * Every code of every format decodes to the very bits its definition gives, and encoding is checked at each midpoint between
 * neighbours and at the two binary32 numbers beside it: there rounding decides, and nowhere else. Expected values come from integer
 * arithmetic (test/support/exact.ts).
 */
import { describe, expect, test } from 'vitest';
import { asU16, asU32, probe } from '../../support/core-probe.ts';
import {
  BF16,
  BINARY32,
  compare,
  type Dyadic,
  decode,
  E2M1,
  E4M3,
  type Format,
  ladder,
  midpoint,
  nearestCode,
  toBinary32Bits,
} from '../../support/exact.ts';
import { firstDifference } from './compare.ts';

const SIGN = 0x80000000;

/** Binary32 patterns of all codes of a format; a NaN keeps the sign of its code. */
function expectedDecode(format: Format): Uint32Array {
  const half = 2 ** (format.exponentBits + format.mantissaBits);
  return Uint32Array.from({ length: 2 * half }, (_, code) => {
    const bits = toBinary32Bits(decode(format, BigInt(code % half)));
    return code >= half ? bits + SIGN : bits;
  });
}

const allBytes = (count: number) => Uint8Array.from({ length: count }, (_, code) => code);

describe('decode, all codes', () => {
  test('E2M1: 16 codes', () => {
    const got = asU32(probe('e2m1_decode', allBytes(16)));
    expect(firstDifference('E2M1', expectedDecode(E2M1), got)).toBeNull();
  });

  test('E4M3: 256 codes', () => {
    const got = asU32(probe('e4m3_decode', allBytes(256)));
    expect(firstDifference('E4M3', expectedDecode(E4M3), got)).toBeNull();
  });

  test('E4M3 to BF16 bits: 256 codes, exact', () => {
    const got = asU16(probe('e4m3_to_bf16', allBytes(256)));
    const expected = expectedDecode(E4M3).map((bits) => bits >>> 16);
    expect(expectedDecode(E4M3).every((bits) => (bits & 0xffff) === 0)).toBe(true);
    expect(firstDifference('E4M3 as BF16', expected, got)).toBeNull();
  });

  test('E8M0: 256 codes', () => {
    const got = asU32(probe('e8m0_decode', allBytes(256)));
    const expected = Uint32Array.from({ length: 256 }, (_, code) =>
      toBinary32Bits(code === 255 ? 'nan' : { mantissa: 1n, exponent: code - 127 }),
    );
    expect(firstDifference('E8M0', expected, got)).toBeNull();
  });

  test('BF16: 65536 codes', () => {
    const codes = Uint16Array.from({ length: 65536 }, (_, code) => code);
    const got = asU32(probe('bf16_decode', codes));
    const expected = expectedDecode(BF16);
    // A NaN keeps its payload; the definition only says that it is one.
    codes.forEach((code, i) => {
      if ((code & 0x7fff) > 0x7f80) expected[i] = code * 65536;
    });
    expect(firstDifference('BF16', expected, got)).toBeNull();
  });
});

interface Case {
  readonly bits: number;
  readonly code: number;
}

/** Rounding cases of both signs around every midpoint of a format's ladder, with the code that must come out. */
function roundingCases(format: Format, saturate: boolean): Case[] {
  const values = ladder(format);
  const signBit = 2 ** (format.exponentBits + format.mantissaBits);
  const cases: Case[] = [];
  const add = (bits: number, code: number) => cases.push({ bits, code }, { bits: bits + SIGN, code: code + signBit });
  values.forEach((value, code) => {
    const exact = toBinary32Bits(value);
    add(exact, code);
    if (exact > 0) add(exact - 1, code);
    add(exact + 1, code);
    const next = values[code + 1];
    if (next === undefined) return;
    const half = toBinary32Bits(midpoint(value, next));
    add(half - 1, code);
    add(half, code % 2 === 0 ? code : code + 1);
    add(half + 1, code + 1);
  });
  // Beyond the largest value: halfway to the value that would follow, the largest binary32, infinity.
  const last = values.length - 1;
  const over = saturate ? last : last + 1;
  const largest = values[last]!;
  const halfStep: Dyadic = { mantissa: 1n, exponent: largest.exponent - 1 };
  const half = toBinary32Bits(midpoint({ ...largest, mantissa: largest.mantissa * 2n }, { ...halfStep, mantissa: 2n }));
  add(half - 1, last);
  add(half, last % 2 === 0 ? last : over);
  add(half + 1, over);
  add(0x7f7fffff, over);
  add(0x7f800000, over);
  return cases;
}

function encodeMismatch(operation: string, cases: readonly Case[]): string | null {
  const out = probe(
    operation,
    Uint32Array.from(cases, (item) => item.bits),
  );
  const got = operation === 'bf16_encode' ? asU16(out) : out;
  const difference = firstDifference(
    operation,
    Uint32Array.from(cases, (item) => item.code),
    got,
  );
  if (difference === null) return null;
  const at = Number(/position (\d+)/.exec(difference)?.[1] ?? 0);
  return `${difference} (input 0x${cases[at]?.bits.toString(16)})`;
}

describe('encode, every rounding decision', () => {
  test('the cases are what they claim: midpoints are exact and the general rule agrees', () => {
    for (const format of [E2M1, E4M3]) {
      const values = ladder(format);
      for (const { bits, code } of roundingCases(format, true)) {
        const value = decode(BINARY32, BigInt(bits % SIGN));
        if (typeof value === 'string') continue;
        expect(nearestCode(values, value, true)).toBe(code % 2 ** (format.exponentBits + format.mantissaBits));
      }
    }
  });

  test('E2M1: ties to even, saturation at 6, infinities, binary32 subnormals', () => {
    expect(encodeMismatch('e2m1_encode', roundingCases(E2M1, true))).toBeNull();
  });

  test('E4M3: ties to even, saturation at 448, infinities, subnormals', () => {
    expect(encodeMismatch('e4m3_encode', roundingCases(E4M3, true))).toBeNull();
  });

  test('BF16: ties to even, overflow to infinity, subnormals', () => {
    expect(encodeMismatch('bf16_encode', roundingCases(BF16, false))).toBeNull();
  });

  test('NaN of both signs and any payload', () => {
    const nans = Uint32Array.from([0x7fc00000, 0xffc00000, 0x7f800001, 0xff800001, 0x7fffffff]);
    expect([...probe('e4m3_encode', nans)]).toEqual([0x7f, 0xff, 0x7f, 0xff, 0x7f]);
    expect([...probe('e2m1_encode', nans)]).toEqual([7, 15, 7, 15, 7]);
    expect([...asU16(probe('bf16_encode', nans))]).toEqual([0x7fc0, 0xffc0, 0x7fc0, 0xffc0, 0x7fff]);
  });

  test('E4M3 and E2M1: one binary32 number of every upper half (65536), against the general rule', () => {
    const bits = Uint32Array.from({ length: 65536 }, (_, high) => high * 65536 + ((high * 40503) & 0xffff));
    for (const [operation, format] of [
      ['e4m3_encode', E4M3],
      ['e2m1_encode', E2M1],
    ] as const) {
      const values = ladder(format);
      const signBit = 2 ** (format.exponentBits + format.mantissaBits);
      const got = probe(operation, bits);
      const expected = Uint8Array.from(bits, (pattern, i) => {
        const value = decode(BINARY32, BigInt(pattern % SIGN));
        if (typeof value === 'string') return got[i]!; // infinities and NaN are tested above
        return nearestCode(values, value, true) + (pattern >= SIGN ? signBit : 0);
      });
      expect(firstDifference(operation, expected, got)).toBeNull();
    }
  });

  test('E8M0 from an exponent clamps to its range', () => {
    const exponents = Int32Array.from([-1000, -128, -127, -126, 0, 126, 127, 128, 1000]);
    expect([...probe('e8m0_from_exponent', exponents)]).toEqual([0, 0, 0, 1, 127, 253, 254, 254, 254]);
  });
});

describe('twins: the same comparison fails on a wrong table', () => {
  test('E4M3 with the bias of E5M2, with an IEEE top exponent, with one code off', () => {
    const got = asU32(probe('e4m3_decode', allBytes(256)));
    const ieee = Uint32Array.from({ length: 256 }, (_, code) => {
      const bits = toBinary32Bits(decode({ ...E4M3, specials: 'ieee' }, BigInt(code % 128)));
      return code >= 128 ? bits + SIGN : bits;
    });
    expect(firstDifference('bias', expectedDecode({ ...E4M3, bias: 8 }), got)).toMatch(/position 1:/);
    expect(firstDifference('ieee', ieee, got)).toMatch(/position 120:/);
    const off = expectedDecode(E4M3);
    off[77]! += 0x100000;
    expect(firstDifference('off', off, got)).toMatch(/position 77:/);
  });

  test('rounding half away from zero fails at a tie', () => {
    const away = roundingCases(E4M3, true).map(({ bits, code }) => ({ bits, code }));
    const values = ladder(E4M3);
    for (const item of away) {
      const value = decode(BINARY32, BigInt(item.bits % SIGN)) as Dyadic;
      const code = item.code % 128;
      const above = values[code + 1];
      if (typeof value !== 'string' && above && compare(value, midpoint(values[code]!, above)) === 0)
        Object.assign(item, { code: item.code + 1 });
    }
    expect(encodeMismatch('e4m3_encode', away)).toMatch(/position/);
  });
});
