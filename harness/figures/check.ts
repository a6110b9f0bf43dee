/**
 * `kilotoken check --figures`: every figure that the documents of a checkout quote, recomputed from the raw rows of its record and compared
 * at the precision of the prose. What stale words there are is told in one go, so that prose can be brought up to a new run from one list.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { InputError } from '../engine.ts';
import { FIGURES_LEDGER, type Part, type Quote, type Range, readLedger } from './ledger.ts';
import { agrees, escaped, find, numbersIn, type Stretch, written } from './prose.ts';
import { NoFigure, Sources, told } from './sources.ts';

/** Where a record lies in a checkout. */
const RECORD = 'results';

/** Characters that are shown before and behind a figure. */
const NEAR = 28;

/** One figure of a document. */
export interface FigureRow {
  readonly document: string;
  readonly line: number;
  /** A few words around it, the figure itself in brackets. */
  readonly words: string;
  readonly said: string;
  /** As the prose would write it, and in full; null where nothing gives it. */
  readonly recomputed: string | null;
  readonly value: number | null;
  readonly holds: boolean;
  /** How it follows, runs by their paths within the record. */
  readonly source: string;
}

/** What does not hold beside figures that are other figures. `line` is null where there is no such line. */
export interface FigureFinding {
  readonly document: string;
  readonly line: number | null;
  readonly text: string;
}

export interface FigureCheck {
  readonly outcome: 'intact' | 'different';
  readonly figures: readonly FigureRow[];
  readonly findings: readonly FigureFinding[];
}

/** `root` is a checkout with documents, ledger and record. Throws InputError for a ledger that is not there or malformed. */
export async function checkFigures(root: string): Promise<FigureCheck> {
  const { parts } = readLedger(join(root, FIGURES_LEDGER));
  const record = join(root, RECORD);
  const sources = new Sources(record);
  const names = namesOf(record);
  const figures: FigureRow[] = [];
  const findings: FigureFinding[] = [];
  const documents = new Map<string, Document>();
  for (const { document: name } of parts) {
    const path = join(root, name);
    if (documents.has(name)) continue;
    if (!existsSync(path)) throw new InputError(`${FIGURES_LEDGER}: there is no ${name}`);
    const document = new Document(name, readFileSync(path, 'utf8'), findings);
    document.coverNames(names);
    documents.set(name, document);
  }
  for (const part of parts) {
    const document = documents.get(part.document)!;
    const within = document.range(part.within);
    if (within === null) continue;
    for (const quote of part.figures) await quoted(document, within, quote, part.runs, sources, figures);
    for (const { words } of part.noMeasurement) document.cover(document.places(words, within));
  }
  // Behind all parts, since several may speak of one document.
  for (const part of parts) for (const range of part.complete) documents.get(part.document)!.findUncovered(range);
  for (const { run, text } of sources.differences)
    findings.push({
      document: join(RECORD, run),
      line: null,
      text: `its rows are not those that were recorded: ${text}`,
    });
  const holds = findings.length === 0 && figures.every((row) => row.holds);
  return { outcome: holds ? 'intact' : 'different', figures, findings };
}

/** Compares what a quote says with what the record gives. */
async function quoted(
  document: Document,
  within: Stretch,
  { quote, from = [], consistent = [] }: Quote,
  runs: Part['runs'],
  sources: Sources,
  figures: FigureRow[],
): Promise<void> {
  const place = document.only(quote, within);
  if (place === null) return;
  document.cover(place.slots);
  for (const [i, expression] of from.entries()) {
    const slot = place.slots[i]!;
    const said = document.text.slice(slot.start, slot.end);
    const value = await document.attempt(slot, () => sources.value(expression, runs));
    figures.push({
      document: document.name,
      line: document.lineOf(slot.start),
      words: document.around(slot),
      said,
      recomputed: value === null ? null : written(value, said),
      value,
      holds: value !== null && agrees(said, value),
      source: told(expression, runs),
    });
  }
  for (const path of consistent) {
    for (const node of (await document.attempt(place, () => sources.at(path, runs))) ?? []) {
      const { outcome, evidence } = node as { outcome?: unknown; evidence?: unknown };
      if (outcome !== 'consistent') document.differ(place, `${told(path, runs)} is ${outcome}: ${evidence}`);
    }
  }
}

/** A document: its words, what of its numbers is covered, and findings about its places. */
class Document {
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

  #missing(words: string): null {
    this.#findings.push({ document: this.name, line: null, text: `the words "${words}" are not in it` });
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

type Place = ReturnType<typeof find>[number];

function inside(outer: Stretch): (inner: Stretch) => boolean {
  return ({ start, end }) => start >= outer.start && end <= outer.end;
}

/** Whether a name, in which * stands for anything but a slash, is that of a file or folder, in full or without folder or `.json`. */
function fits(name: string, known: string): boolean {
  const pieces = name.replace(/\/$/u, '').split('*').map(escaped);
  const pattern = new RegExp(`^${pieces.join('[^/]*')}(\\.json)?$`, 'u');
  return pattern.test(known) || pattern.test(basename(known));
}

/** Files and folders of the record by their paths within it, two levels deep. */
function namesOf(record: string): string[] {
  const names = (folder: string, depth: number): string[] =>
    readdirSync(join(record, folder), { withFileTypes: true }).flatMap((entry) => {
      const name = join(folder, entry.name);
      return [name, ...(entry.isDirectory() && depth > 1 ? names(name, depth - 1) : [])];
    });
  return existsSync(record) ? names('', 2) : [];
}
