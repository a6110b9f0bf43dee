/**
 * A document whose figures are checked: where words of it stand, which of its numbers the ledger accounts for, and what is found about its
 * places, each with its line.
 */
import { basename } from 'node:path';
import { FIGURES_LEDGER, type Range, RECORD } from './ledger.ts';
import { escaped, find, numbersIn, type Stretch } from './prose.ts';
import { NoFigure } from './sources.ts';

/** Characters that are shown before and behind a figure. */
const NEAR = 28;

/** What does not hold beside figures that are other figures. `line` is null where there is no such line. */
export interface FigureFinding {
  readonly document: string;
  readonly line: number | null;
  readonly text: string;
}

export class Document {
  readonly name: string;
  readonly text: string;
  readonly #findings: FigureFinding[];
  readonly #covered: Stretch[] = [];

  constructor(name: string, text: string, findings: FigureFinding[]) {
    this.name = name;
    this.text = text;
    this.#findings = findings;
  }

  cover(stretches: readonly Stretch[]): void {
    this.#covered.push(...stretches);
  }

  lineOf(at: number): number {
    return this.text.slice(0, at).split('\n').length;
  }

  /** A finding about a place, which it quotes. */
  differ({ start, end }: Stretch, text: string): void {
    const words = this.text.slice(start, end).replace(/\s+/gu, ' ');
    this.#findings.push({ document: this.name, line: this.lineOf(start), text: `"${words}": ${text}` });
  }

  /** What `compute` gives; null, and a finding about the place, where the record does not give it. */
  async attempt<T>(place: Stretch, compute: () => Promise<T>): Promise<T | null> {
    try {
      return await compute();
    } catch (error) {
      if (!(error instanceof NoFigure)) throw error;
      this.differ(place, error.message);
      return null;
    }
  }

  /** The stretch between the words of a range; null, and a finding, where they are not there. */
  range(range: Range | undefined): Stretch | null {
    if (range === undefined) return { start: 0, end: this.text.length };
    const [begin] = find(range.from, this.text);
    if (begin === undefined) return this.#missing(range.from);
    if (range.to === undefined) return { start: begin.start, end: this.text.length };
    const end = find(range.to, this.text).find(({ start }) => start >= begin.end);
    return end === undefined ? this.#missing(range.to) : { start: begin.start, end: end.start };
  }

  /** Every place of words; a finding where there is none. */
  places(words: string, within: Stretch): Place[] {
    const places = find(words, this.text).filter(inside(within));
    if (places.length === 0) this.#missing(words);
    return places;
  }

  /** The one place of a quote; null, and a finding, where there is none or are several. */
  only(quote: string, within: Stretch): Place | null {
    const places = this.places(quote, within);
    if (places.length <= 1) return places[0] ?? null;
    this.differ(places[0]!, `stands in lines ${places.map(({ start }) => this.lineOf(start)).join(', ')}, not in one`);
    return null;
  }

  /** Tells how far the words are there, since prose is often changed in the middle of a quote. */
  #missing(words: string): null {
    const all = words.split(' ');
    const kept = all.findLastIndex(
      (_, i) => i < all.length - 1 && find(all.slice(0, i + 1).join(' '), this.text).length > 0,
    );
    const begin = all.slice(0, kept + 1).join(' ');
    const places = begin === '' ? [] : find(begin, this.text);
    const line = places.length === 1 ? this.lineOf(places[0]!.start) : null;
    const far = line === null ? '' : `, but for "${begin}"`;
    this.#findings.push({ document: this.name, line, text: `the words "${words}" are not in it${far}` });
    return null;
  }

  /** A number in brackets with a few words around it. */
  around({ start, end }: Stretch): string {
    const before = this.text.slice(Math.max(0, start - NEAR), start);
    const after = this.text.slice(end, end + NEAR);
    return `${before}[${this.text.slice(start, end)}]${after}`.replace(/\s+/gu, ' ').trim();
  }

  /** Covers code spans that name something of the record; a finding for each that should and names nothing there. */
  coverNames(names: readonly string[]): void {
    for (const { 0: span, 1: name, index } of this.text.matchAll(/`([^`\n]+)`/gu)) {
      const place = { start: index, end: index + span.length };
      const named = name!.startsWith(`${RECORD}/`) ? name!.slice(RECORD.length + 1) : name!;
      if (named === '' || names.some((known) => fits(named, known))) this.cover([place]);
      else if (named !== name || /^\d{8}T\d{6}Z-/u.test(named))
        this.differ(place, 'the record holds nothing of that name');
    }
  }

  /** A finding for each number of a range that nothing covers. */
  findUncovered(range: Range): void {
    const within = this.range(range);
    if (within === null) return;
    for (const number of numbersIn(this.text).filter(inside(within))) {
      if (this.#covered.some((stretch) => inside(stretch)(number))) continue;
      const text = `no entry of ${FIGURES_LEDGER} covers the number in "${this.around(number)}"`;
      this.#findings.push({ document: this.name, line: this.lineOf(number.start), text });
    }
  }
}

export type Place = ReturnType<typeof find>[number];

function inside(outer: Stretch): (inner: Stretch) => boolean {
  return ({ start, end }) => start >= outer.start && end <= outer.end;
}

/** Whether a name, in which * stands for anything but a slash, is that of a file or folder, in full or without folder or `.json`. */
function fits(name: string, known: string): boolean {
  const pieces = name.replace(/\/$/u, '').split('*').map(escaped);
  const pattern = new RegExp(`^${pieces.join('[^/]*')}(\\.json)?$`, 'u');
  return pattern.test(known) || pattern.test(basename(known));
}
