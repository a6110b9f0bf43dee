/**
 * Other people's benchmarks as suites: a file the user has, in the form its publisher gives it, told apart by its shape
 * or named. What is added to a row on the way (a sentence, a code fence) is said in the suite's notes.
 */
import { InputError } from '../engine.ts';
import { bfcl } from './formats/bfcl.ts';
import { mtbench, specbench } from './formats/fastchat.ts';
import type { Format } from './formats/format.ts';
import { tag } from './formats/format.ts';
import { gsm8k } from './formats/gsm8k.ts';
import { humaneval } from './formats/humaneval.ts';
import { math500 } from './formats/math500.ts';
import { speedbench } from './formats/speedbench.ts';
import { parseRow, readJsonLines } from './jsonl.ts';
import { Prompt } from './prompt.ts';
import { makeSuite, type Suite } from './suite.ts';

/** The first whose shape fits is taken, so a shape that another one contains comes after it. */
const FORMATS: readonly Format[] = [humaneval, math500, speedbench, specbench, mtbench, bfcl, gsm8k];

export const FORMAT_NAMES: readonly string[] = FORMATS.map((format) => format.name);

export interface ExternalOptions {
  /** One of FORMAT_NAMES; told from the rows' shape when absent. */
  readonly format?: string;
  /** Only rows of this category, for benchmarks that have them (`coding` of SPEED-Bench, say). */
  readonly category?: string;
  /** As in SuiteOptions: at most this many, evenly spaced. */
  readonly limit?: number;
}

/** The suite in `path`. Its scenario is the format's name, with `/category` if one was chosen. Throws InputError. */
export async function loadExternal(path: string, options: ExternalOptions = {}): Promise<Suite> {
  const rows = await readJsonLines(path);
  const format = FORMATS.find((candidate) =>
    options.format === undefined ? candidate.matches(rows) : candidate.name === options.format,
  );
  if (format === undefined) {
    const known = FORMAT_NAMES.join(', ');
    throw new InputError(
      options.format === undefined
        ? `${path}: the rows have no known shape; name the format (one of ${known})`
        : `unknown format "${options.format}"; known are ${known}`,
    );
  }
  const output = await format.read(rows, path);
  const prompts = output.prompts.map((value, i) => parseRow(Prompt, { line: rows[i]!.line, value }, path));
  const lines = new Map<string, number>();
  prompts.forEach((prompt, i) => {
    const earlier = lines.get(prompt.id);
    if (earlier !== undefined)
      throw new InputError(`${path}:${rows[i]!.line}: id "${prompt.id}" is taken by line ${earlier}`);
    lines.set(prompt.id, rows[i]!.line);
  });

  if (options.category === undefined) return makeSuite(format.name, prompts, output.notes, options.limit);
  const wanted = tag('category', options.category);
  const chosen = prompts.filter((prompt) => prompt.tags.includes(wanted));
  if (chosen.length === 0) {
    const categories = [...new Set(prompts.flatMap((prompt) => prompt.tags))].filter((name) =>
      name.startsWith('category:'),
    );
    throw new InputError(
      `${path}: no row of category "${options.category}"; there are ${categories.join(', ') || 'no categories'}`,
    );
  }
  return makeSuite(`${format.name}/${options.category}`, chosen, output.notes, options.limit);
}
