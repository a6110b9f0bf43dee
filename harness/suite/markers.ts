/**
 * Keeps markers out of reach of text. A chat template writes markers such as `<|im_end|>` between pieces of text that
 * anyone may have written; a message that spells a marker must stay text.
 *
 * Before the template runs, the first and last character of every added token is swapped, wherever it stands in
 * untrusted text, for a private-use character that occurs nowhere else. A marker in the rendered string then has its
 * first and last character from the template. The string is cut at markers, and the characters are swapped back in the
 * pieces between them, which are encoded as plain text.
 *
 * LIMIT: a template that looks for a marker inside a message (to strip `<think>` from history, say) does not find it.
 */
import { InputError } from '../engine.ts';

export type Piece = { readonly marker: string } | { readonly text: string };

export class MarkerGuard {
  readonly #markers: readonly string[];
  readonly #edges: readonly string[];

  /** `markers`: every added token of the tokenizer. */
  constructor(markers: readonly string[]) {
    // Longest first: of two markers that start at the same place, the longer is meant.
    this.#markers = [...markers].sort((a, b) => b.length - a.length);
    this.#edges = [
      ...new Set(markers.flatMap((marker) => [...marker].filter((_, i, all) => i === 0 || i === all.length - 1))),
    ];
  }

  /**
   * Runs `render` on a copy of `untrusted` (any JSON value) in which no text can form a marker, and cuts what it returns
   * into markers and text as it was written.
   */
  render<T>(untrusted: T, render: (guarded: T) => string): Piece[] {
    const swaps = this.#swaps(JSON.stringify(untrusted));
    const rendered = render(mapStrings(untrusted, (text) => swap(text, swaps)) as T);
    const back = new Map<string, string>();
    for (const [edge, stand] of swaps) {
      back.set(stand, edge);
      // A template may print JSON with every non-ASCII character escaped.
      back.set(escaped(stand), edge);
    }
    return this.#cut(rendered).map((piece) => ('text' in piece ? { text: swap(piece.text, back) } : piece));
  }

  /** A private-use character for each edge that does not occur in `json`, neither as itself nor escaped. */
  #swaps(json: string): Map<string, string> {
    const swaps = new Map<string, string>();
    let code = 0xe000;
    for (const edge of this.#edges) {
      while (json.includes(String.fromCharCode(code)) || json.includes(escaped(String.fromCharCode(code)))) code += 1;
      if (code > 0xf8ff) throw new InputError('the prompt uses every private-use character of Unicode');
      swaps.set(edge, String.fromCharCode(code));
      code += 1;
    }
    return swaps;
  }

  #cut(rendered: string): Piece[] {
    const pieces: Piece[] = [];
    let start = 0;
    for (let at = 0; at < rendered.length; ) {
      const marker = this.#markers.find((candidate) => rendered.startsWith(candidate, at));
      if (marker === undefined) {
        at += 1;
        continue;
      }
      if (at > start) pieces.push({ text: rendered.slice(start, at) });
      pieces.push({ marker });
      at += marker.length;
      start = at;
    }
    if (start < rendered.length) pieces.push({ text: rendered.slice(start) });
    return pieces;
  }
}

/** A private-use character as JSON escapes it. */
function escaped(stand: string): string {
  return `\\u${stand.charCodeAt(0).toString(16)}`;
}

function swap(text: string, swaps: ReadonlyMap<string, string>): string {
  let result = text;
  for (const [from, to] of swaps) result = result.replaceAll(from, () => to);
  return result;
}

/** A copy of a JSON value with `change` applied to every string, keys included. */
function mapStrings(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === 'string') return change(value);
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change));
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, member]) => [change(key), mapStrings(member, change)]));
  }
  return value;
}
