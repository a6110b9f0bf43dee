/** The one comparison the format tests use, so that a mutation twin can show that it fails when the table is wrong. */

/** Null when equal, else `label: position i: expected 0x.., got 0x..` for the first difference. */
export function firstDifference(label: string, expected: ArrayLike<number>, got: ArrayLike<number>): string | null {
  if (expected.length !== got.length) return `${label}: expected ${expected.length} results, got ${got.length}`;
  for (let i = 0; i < expected.length; i++) {
    if (expected[i] !== got[i]) {
      return `${label}: position ${i}: expected 0x${expected[i]!.toString(16)}, got 0x${got[i]!.toString(16)}`;
    }
  }
  return null;
}
