/**
 * Numbers as prose writes them: found in a text, read, compared at the precision in which they are written, and written the same way.
 * Digits that follow a letter (H200, FP8) are part of a name; "one" is mostly a pronoun and is a number only where a quote asks for it.
 */

/** Stands in a quote for a figure. */
export const SLOT = '{}';

const WORDS = [
  ...['two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven', 'twelve'],
  ...['thirteen', 'fourteen', 'fifteen', 'sixteen', 'seventeen', 'eighteen', 'nineteen'],
];
const VALUES = new Map<string, number>([
  ['half', 0.5],
  ['one', 1],
  ['twice', 2],
  ...WORDS.map((word, i) => [word, i + 2] as const),
  ...['twenty', 'thirty', 'forty', 'fifty', 'sixty', 'seventy', 'eighty', 'ninety'].map(
    (word, i) => [word, 20 + 10 * i] as const,
  ),
  ['hundred', 1e2],
  ['thousand', 1e3],
  ['million', 1e6],
  ['trillion', 1e12],
]);

const DIGITS = String.raw`\d+(?:,\d{3})*(?:\.\d+)?`;
const BEFORE = String.raw`(?<![\p{L}\p{N}_.])`;
const AFTER = String.raw`(?![\d]|[.,]\d)`;
const worded = (words: readonly string[]): string => {
  const either = words.map((word) => `[${word[0]!.toUpperCase()}${word[0]}]${word.slice(1)}`);
  return `(?:${either.join('|')})(?![\\p{L}\\p{N}_])`;
};
const NUMBER = `${BEFORE}(?:${DIGITS}${AFTER}|${worded([...VALUES.keys()])})`;
const COUNTED = `${BEFORE}(?:${DIGITS}|${worded([...VALUES.keys()].filter((word) => word !== 'one'))})`;

/** A stretch of a text, its end left out. */
export interface Stretch {
  readonly start: number;
  readonly end: number;
}

/** Where the words stand, each with the figures in the places of its slots. White space of any kind is one space. */
export function find(words: string, text: string): (Stretch & { readonly slots: readonly Stretch[] })[] {
  const spaced = (piece: string): string => piece.split(/\s+/u).map(escaped).join(String.raw`\s+`);
  const source = words.split(SLOT).map(spaced).join(`(${NUMBER})`);
  return [...text.matchAll(new RegExp(source, 'dgu'))].map(({ indices }) => {
    const [whole, ...slots] = indices!.map((place) => ({ start: place![0], end: place![1] }));
    return { ...whole!, slots };
  });
}

/** A text as a regular expression for itself. */
export function escaped(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/gu, String.raw`\$&`);
}

/** Every number of a text, in digits or in words. */
export function numbersIn(text: string): Stretch[] {
  return [...text.matchAll(new RegExp(COUNTED, 'gu'))].map(({ 0: found, index }) => ({
    start: index,
    end: index + found.length,
  }));
}

export function numberOf(said: string): number {
  return VALUES.get(said.toLowerCase()) ?? Number(said.replaceAll(',', ''));
}

function decimalsOf(said: string): number {
  return /\.(\d+)$/u.exec(said)?.[1]?.length ?? 0;
}

/** Whether a value, rounded as it is written here, is what is written. A value half-way may be rounded to either side. */
export function agrees(said: string, value: number): boolean {
  return Math.abs(value - numberOf(said)) <= 0.5 * 10 ** -decimalsOf(said) * (1 + 1e-9);
}

/** A value in the way that `said` is written: its decimals, its commas, a word for a word. */
export function written(value: number, said: string): string {
  const decimals = decimalsOf(said);
  const digits = value.toLocaleString('en-US', {
    minimumFractionDigits: decimals,
    maximumFractionDigits: decimals,
    useGrouping: said.includes(',') || Math.abs(value) >= 1e4,
  });
  return VALUES.has(said.toLowerCase()) ? (WORDS[Number(digits) - 2] ?? digits) : digits;
}
