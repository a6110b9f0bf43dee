/**
 * MXFP4 blocks: the shared exponent by its definition, every element by E2M1's rounding of the exactly scaled value, the low nibble
 * for the even k, and the round trip. Blocks are drawn with a fixed seed over the whole range of binary32.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { asU32, probe } from '../../support/core-probe.ts';
import {
  BINARY32,
  type Dyadic,
  decode,
  E2M1,
  floorLog2,
  ladder,
  nearestCode,
  scaled,
  toBinary32Bits,
} from '../../support/exact.ts';
import { encodeMxfp4 } from '../../support/formats.ts';
import { firstDifference } from './compare.ts';

const SEED = 20260608;
const MAGNITUDES = ladder(E2M1);

/** 17 bytes: 16 packed, then the scale. */
function expectedBlock(bits: ArrayLike<number>): Uint8Array {
  const values = Array.from(bits, (pattern) => decode(BINARY32, BigInt(pattern % 0x80000000)) as Dyadic);
  const exponents = values.filter((value) => value.mantissa !== 0n).map(floorLog2);
  const shared = exponents.length === 0 ? -127 : Math.min(127, Math.max(-127, Math.max(...exponents) - 2));
  const out = new Uint8Array(17);
  out[16] = shared + 127;
  values.forEach((value, k) => {
    const code = nearestCode(MAGNITUDES, scaled(value, -shared), true) + (bits[k]! >= 0x80000000 ? 8 : 0);
    out[k >> 1]! += code * (k % 2 === 0 ? 1 : 16);
  });
  return out;
}

/** Finite binary32 patterns with exponents near `centre`, as real blocks have them, or anywhere. */
const near = fc
  .tuple(
    fc.integer({ min: 0, max: 254 }),
    fc.array(fc.tuple(fc.nat(12), fc.nat(0x7fffff), fc.boolean(), fc.nat(9)), { minLength: 32, maxLength: 32 }),
  )
  .map(([centre, items]) =>
    items.map(([below, mantissa, negative, zero]) => {
      const exponent = Math.max(0, centre - below);
      // Low mantissa bits cleared half the time, so that ties occur.
      const fraction = below % 2 === 0 ? mantissa & 0x600000 : mantissa;
      return (zero === 0 ? 0 : exponent * 0x800000 + fraction) + (negative ? 0x80000000 : 0);
    }),
  );
const anywhere = fc
  .array(fc.tuple(fc.nat(0x7f7fffff), fc.boolean()), { minLength: 32, maxLength: 32 })
  .map((items) => items.map(([magnitude, negative]) => magnitude + (negative ? 0x80000000 : 0)));

describe('encode', () => {
  test(`random blocks, seed ${SEED}`, () => {
    const blocks = fc.sample(fc.oneof({ weight: 3, arbitrary: near }, { weight: 1, arbitrary: anywhere }), {
      seed: SEED,
      numRuns: 3000,
    });
    const got = probe('mxfp4_encode', Uint32Array.from(blocks.flat()));
    const expected = Buffer.concat(blocks.map(expectedBlock));
    expect(firstDifference('mxfp4', expected, got)).toBeNull();
    // The inputs are interesting: every code and many scales occur.
    const codes = new Set(
      blocks.flatMap((_, b) => [...expected.subarray(b * 17, b * 17 + 16)].flatMap((byte) => [byte & 15, byte >> 4])),
    );
    expect(codes.size).toBe(16);
    expect(new Set(blocks.map((_, b) => expected[b * 17 + 16])).size).toBeGreaterThan(100);
  });

  test('blocks of zeros, of the largest and of the smallest number, with an infinity, with a NaN', () => {
    const block = (first: number) => Uint32Array.from({ length: 32 }, (_, k) => (k === 0 ? first : 0));
    const encode = (first: number) => [...probe('mxfp4_encode', block(first))].filter((_, i) => i === 0 || i === 16);
    expect(encode(0)).toEqual([0, 0]);
    expect(encode(0x80000000)).toEqual([8, 0]);
    expect(encode(0x7f7fffff)).toEqual([7, 127 + 125]);
    expect(encode(0x00000001)).toEqual([0, 0]);
    expect(encode(0x7f800000)).toEqual([7, 127 + 125]);
    expect(encode(0xff800000)).toEqual([15, 127 + 125]);
    expect(encode(0x7fc00000)[1]).toBe(255);
  });

  test('the fast encoder that writes test checkpoints agrees', () => {
    const blocks = fc.sample(near, { seed: SEED + 1, numRuns: 500 });
    const packed = new Uint8Array(16);
    for (const block of blocks) {
      const values = new Float32Array(Uint32Array.from(block).buffer);
      const scale = encodeMxfp4(values, packed);
      expect(firstDifference('fast', expectedBlock(block), [...packed, scale])).toBeNull();
    }
  });
});

/** Binary32 patterns of a decoded block; null where the value exceeds binary32. */
function expectedValues(block: ArrayLike<number>): (number | null)[] {
  return Array.from({ length: 32 }, (_, k) => {
    const code = k % 2 === 0 ? block[k >> 1]! % 16 : block[k >> 1]! >> 4;
    const value = scaled(decode(E2M1, BigInt(code % 8)) as Dyadic, block[16]! - 127);
    const sign = code >= 8 ? 0x80000000 : 0;
    if (value.mantissa !== 0n && floorLog2(value) > 127) return null;
    return toBinary32Bits(value) + sign;
  });
}

describe('decode', () => {
  const everyScale = Array.from({ length: 255 }, (_, scale) => [
    ...Uint8Array.from({ length: 16 }, (_, b) => (b * 37 + scale * 11) & 0xff),
    scale,
  ]);

  function mismatch(sent: readonly (readonly number[])[]): string | null {
    const got = asU32(probe('mxfp4_decode', Uint8Array.from(sent.flat())));
    const expected = everyScale.flatMap(expectedValues);
    // 4 and 6 times 2^127 lie beyond binary32 and come out infinite.
    const filled = expected.map((bits, i) => bits ?? 0x7f800000 + (got[i]! >= 0x80000000 ? 0x80000000 : 0));
    return firstDifference('mxfp4 decode', filled, got);
  }

  test('every scale with blocks that hold every code', () => {
    const codes = new Set(everyScale.flatMap((block) => block.slice(0, 16).flatMap((byte) => [byte & 15, byte >> 4])));
    expect(codes.size).toBe(16);
    expect(mismatch(everyScale)).toBeNull();
  });

  test('a NaN scale makes every value NaN', () => {
    const got = asU32(probe('mxfp4_decode', Uint8Array.from([...new Array(16).fill(0x21), 255])));
    expect([...got].every((bits) => (bits & 0x7fffffff) > 0x7f800000)).toBe(true);
  });

  test('twins: swapped nibbles and a scale bias of 126 fail the same comparison', () => {
    const swapped = everyScale.map((block) =>
      block.map((byte, i) => (i < 16 ? ((byte << 4) | (byte >> 4)) & 0xff : byte)),
    );
    const biased = everyScale.map((block) => block.map((byte, i) => (i < 16 ? byte : Math.min(254, byte + 1))));
    expect(mismatch(swapped)).toMatch(/position/);
    expect(mismatch(biased)).toMatch(/position/);
  });

  test('encoding what was decoded gives the bytes back when the largest code is 4 or 6', () => {
    const blocks = everyScale.slice(3, 250).map((block) => [(block[0]! & 0xf0) | 7, ...block.slice(1)]);
    const values = probe('mxfp4_decode', Uint8Array.from(blocks.flat()));
    expect(firstDifference('round trip', blocks.flat(), probe('mxfp4_encode', values))).toBeNull();
  });
});
