/**
 * Where figures come from: reports judged anew from the raw rows of the record (never the stored ones), each run once; the logs of GPU
 * programs, which are kept as they were printed; tables of defects and calibrations, which are summaries. Paths lead into them;
 * expressions combine what they find.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readBenchKernels } from '../bench/kernels-check.ts';
import { deriveFigures } from '../bench/kernels-figures.ts';
import { buildNodeReport } from '../bench/node/build.ts';
import { isNodeBundle, readNodeRun } from '../bench/node/reader.ts';
import { readRun } from '../bundle/reader.ts';
import { InputError } from '../engine.ts';
import { bytesOf, jsonOf } from '../input.ts';
import { buildReport } from '../report/build.ts';
import type { Expression } from './ledger.ts';
import { numberOf } from './prose.ts';
import { isTable, readTable } from './tables.ts';

/** What a figure of the ledger cannot be computed for: a run that is not there, a path that leads nowhere. */
export class NoFigure extends Error {}

type Runs = Readonly<Record<string, string>>;

export class Sources {
  readonly #record: string;
  readonly #judged = new Map<string, Promise<unknown>>();
  /** What was read although it is not what its manifest names: run, and what differs. */
  readonly differences: { readonly run: string; readonly text: string }[] = [];

  /** `record` holds the published runs. */
  constructor(record: string) {
    this.#record = record;
  }

  /** Throws NoFigure, with why in one line. */
  async value(expression: Expression, runs: Runs): Promise<number> {
    const values = await this.values(expression, runs);
    if (values.length !== 1) throw new NoFigure(`${told(expression, runs)} are ${values.length} values, not one`);
    return values[0]!;
  }

  async values(expression: Expression, runs: Runs): Promise<number[]> {
    if (typeof expression === 'number') return [expression];
    if (typeof expression === 'string')
      return (await this.at(expression, runs)).map((node) => number(node, expression));
    if ('log' in expression) return linesOf(this.#path(expression.log), expression.line);
    const one = (part: Expression): Promise<number> => this.value(part, runs);
    const all = async (parts: readonly Expression[]): Promise<number[]> => {
      const lists: number[] = [];
      for (const part of parts) lists.push(...(await this.values(part, runs)));
      return lists;
    };
    if ('sum' in expression) return [(await all(expression.sum)).reduce((a, b) => a + b, 0)];
    if ('least' in expression) return [Math.min(...(await all(expression.least)))];
    if ('most' in expression) return [Math.max(...(await all(expression.most)))];
    if ('same' in expression) {
      const values = new Set(await all(expression.same));
      if (values.size > 1) throw new NoFigure(`${told(expression, runs)} are ${[...values].join(' and ')}`);
      return [...values];
    }
    if ('count' in expression) return [(await all(expression.count)).length];
    if ('product' in expression) return [(await all(expression.product)).reduce((a, b) => a * b, 1)];
    if ('ratio' in expression) return [(await one(expression.ratio[0])) / (await one(expression.ratio[1]))];
    if ('difference' in expression)
      return [(await one(expression.difference[0])) - (await one(expression.difference[1]))];
    if ('percent' in expression) return [100 * (await one(expression.percent))];
    const [part, step] = expression.nearest;
    return [Math.round((await one(part)) / step) * step];
  }

  /** What a path leads to, at least one thing. Throws NoFigure. */
  async at(path: string, runs: Runs): Promise<unknown[]> {
    const [name, ...steps] = path.split(' > ').map((step) => step.trim());
    const run = runs[name!] ?? name!;
    if (!this.#judged.has(run)) this.#judged.set(run, this.#judge(run));
    let nodes = [await this.#judged.get(run)];
    for (const step of steps) {
      nodes = nodes.flatMap((node) => taken(node, step));
      if (nodes.length === 0) throw new NoFigure(`${run} has no "${step}" where ${path} asks for it`);
    }
    return nodes;
  }

  #path(name: string): string {
    const path = join(this.#record, name);
    if (!existsSync(path)) throw new NoFigure(`the record holds no ${name}`);
    return path;
  }

  /** The report of a run, and beside it as `rows` what it was made from. */
  async #judge(run: string): Promise<unknown> {
    const path = this.#path(run);
    const onDifference = (text: string): void => void this.differences.push({ run, text });
    try {
      if (isTable(run)) return readTable(path, run, onDifference);
      if (run.endsWith('.json')) {
        const { raw } = readBenchKernels(jsonOf(path));
        return { ...deriveFigures(raw), rows: raw };
      }
      if (isNodeBundle(path)) {
        const rows = await readNodeRun(path, onDifference);
        finished(rows.manifest.status, onDifference);
        return { ...buildNodeReport(rows), rows };
      }
      const rows = await readRun(path, { onDifference });
      finished(rows.manifest.status, onDifference);
      return { ...buildReport(rows), rows };
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      throw new NoFigure(error.message);
    }
  }
}

/** Of a run that did not end, files are not held against the manifest. */
function finished(status: string, onDifference: (text: string) => void): void {
  if (status !== 'complete') onDifference(`the run is ${status}`);
}

function taken(node: unknown, step: string): unknown[] {
  if (typeof node !== 'object' || node === null) return [];
  if (step === '*') return Object.values(node);
  const entries: unknown[] = Array.isArray(node) ? node : [node];
  const [, key, wanted] = /^(\w+)=(.*)$/u.exec(step) ?? [];
  if (key !== undefined)
    return entries.filter((entry) => member(entry, key) && String(member(entry, key)![0]) === wanted);
  if (!Array.isArray(node)) return member(node, step) ?? [];
  return entries.filter((entry) => ['id', 'name', 'op'].some((name) => member(entry, name)?.[0] === step));
}

/** Of an object its member in a list; null where there is none. */
function member(node: unknown, key: string): [unknown] | null {
  if (typeof node !== 'object' || node === null || !Object.hasOwn(node, key)) return null;
  return [(node as Record<string, unknown>)[key]];
}

/** A number, or the value of what was measured. */
function number(node: unknown, path: string): number {
  if (typeof node === 'number') return node;
  const figure = (member(node, 'figure')?.[0] ?? node) as { state?: unknown; value?: unknown; reason?: unknown } | null;
  if (figure?.state === 'measured' && typeof figure.value === 'number') return figure.value;
  throw new NoFigure(
    `${path} is ${figure?.state === 'not yet measured' ? `not yet measured: ${figure.reason}` : 'no number'}`,
  );
}

function linesOf(path: string, line: string): number[] {
  const pattern = new RegExp(line, 'u');
  const numbers = bytesOf(path)
    .toString('utf8')
    .split('\n')
    .map((text) => pattern.exec(text))
    .filter((found) => found !== null)
    .map(([, group]) => (group === undefined ? 1 : numberOf(group)));
  if (numbers.length === 0 || numbers.some(Number.isNaN)) throw new NoFigure(`${path} has no number in /${line}/`);
  return numbers;
}

/** An expression in words, runs by their paths within the record. */
export function told(expression: Expression, runs: Runs): string {
  if (typeof expression === 'number') return String(expression);
  if (typeof expression === 'string') {
    const [name, ...steps] = expression.split(' > ');
    return [runs[name!] ?? name!, ...steps].join(' > ');
  }
  if ('log' in expression) return `${expression.log}: /${expression.line}/`;
  const [[operation, parts]] = Object.entries(expression) as [[string, Expression | readonly Expression[]]];
  const list = (Array.isArray(parts) ? parts : [parts]) as readonly Expression[];
  return `${operation}(${list.map((part) => told(part, runs)).join(', ')})`;
}
