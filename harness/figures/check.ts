/**
 * `kilotoken check --figures`: every figure that the documents of a checkout quote, recomputed from the raw rows of its record and compared
 * at the precision of the prose. What stale words there are is told in one go, so that prose can be brought up to a new run from one list.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../engine.ts';
import { Document, type FigureFinding } from './document.ts';
import { FIGURES_LEDGER, type Part, type Quote, RECORD, readLedger } from './ledger.ts';
import { agrees, type Stretch, written } from './prose.ts';
import { Sources, told } from './sources.ts';

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

export interface FigureCheck {
  readonly outcome: 'intact' | 'different';
  readonly figures: readonly FigureRow[];
  readonly findings: readonly FigureFinding[];
}

/**
 * `root` is a checkout with documents, ledger and record; `judged` what was judged of that record before. Throws InputError for a ledger or a
 * document that is not there, or a ledger that is malformed.
 */
export async function checkFigures(root: string, judged?: Sources): Promise<FigureCheck> {
  const { parts } = readLedger(join(root, FIGURES_LEDGER));
  const record = join(root, RECORD);
  const sources = judged ?? new Sources(record);
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
  { quote, from = [], consistent = [], below }: Quote,
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
  if (below === undefined) return;
  const [less, more] = await Promise.all(
    below.map((expression) => document.attempt(place, () => sources.value(expression, runs))),
  );
  if (less != null && more != null && less >= more)
    document.differ(place, `${told(below[0], runs)} is ${less}, no less than ${told(below[1], runs)}, ${more}`);
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
