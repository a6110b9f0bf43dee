/**
 * Words and word n-grams, to tell whether two texts share more than a phrase. Scripts that are written without spaces
 * count one character as one word.
 */
const WORD = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[\p{L}\p{N}]+/gu;

export function words(text: string): string[] {
  return text.toLowerCase().match(WORD) ?? [];
}

/** n-grams as text; a text of fewer than n words is one gram. */
export function grams(text: string, n: number): string[] {
  const list = words(text);
  const width = Math.min(n, list.length);
  return width === 0
    ? []
    : Array.from({ length: list.length - width + 1 }, (_, i) => list.slice(i, i + width).join(' '));
}

/** Share of a's n-grams that b has too, 0 .. 1. */
export function overlap(a: string, b: string, n = 8): number {
  const own = grams(a, n);
  if (own.length === 0) return 0;
  const other = new Set(grams(b, n));
  return own.filter((gram) => other.has(gram)).length / own.length;
}
