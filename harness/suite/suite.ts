/**
 * A suite: the prompts of one scenario, in file order, with the digest a report prints beside every number made from
 * them. The project's own suites lie in `suites/<scenario>/prompts.jsonl`; files of other benchmarks become the same
 * shape in `external.ts`.
 */
import { join } from 'node:path';
import { InputError } from '../engine.ts';
import { canonicalJson, sha256 } from './canonical.ts';
import { parseRow, readJsonLines } from './jsonl.ts';
import { Prompt } from './prompt.ts';

export const SCENARIOS = ['coding', 'math', 'agent', 'chat'] as const;

export interface Suite {
  /** One of SCENARIOS, or the name of the benchmark an external file holds. */
  readonly scenario: string;
  readonly prompts: readonly Prompt[];
  /** `sha256:<hex>` over the canonical JSON of exactly `prompts`, in order. */
  readonly digest: string;
  /** Prompts in the file; more than `prompts.length` when a limit chose some. */
  readonly available: number;
  /** What was done to the rows on the way, to be printed beside results; empty for the project's own suites. */
  readonly notes: readonly string[];
}

export interface SuiteOptions {
  /** Which scenarios, in this order; all by default. */
  readonly scenarios?: readonly string[];
  /** At most this many prompts a suite, evenly spaced over the file, so that a short run still sees every part of it. */
  readonly limit?: number;
}

/** The project's suites below `rootDir` (the folder that holds `coding/`, `math/`, ...). Throws InputError. */
export async function loadSuites(rootDir: string, options: SuiteOptions = {}): Promise<Suite[]> {
  const scenarios = options.scenarios ?? SCENARIOS;
  for (const scenario of scenarios) {
    if (!(SCENARIOS as readonly string[]).includes(scenario)) {
      throw new InputError(`unknown scenario "${scenario}"; the suites are ${SCENARIOS.join(', ')}`);
    }
  }
  return Promise.all(
    scenarios.map(async (scenario) => {
      const path = join(rootDir, scenario, 'prompts.jsonl');
      const rows = await readJsonLines(path);
      const prompts = rows.map((row) => parseRow(Prompt, row, path));
      rows.forEach((row, i) => {
        const earlier = prompts.findIndex((prompt) => prompt.id === prompts[i]!.id);
        if (earlier < i) {
          throw new InputError(`${path}:${row.line}: id "${prompts[i]!.id}" is taken by line ${rows[earlier]!.line}`);
        }
      });
      return makeSuite(scenario, prompts, [], options.limit);
    }),
  );
}

/** Puts checked prompts together. `limit` as in SuiteOptions. */
export function makeSuite(scenario: string, all: readonly Prompt[], notes: readonly string[], limit?: number): Suite {
  const prompts = limit === undefined ? [...all] : evenlySpaced(all, limit);
  return { scenario, prompts, digest: sha256(canonicalJson(prompts)), available: all.length, notes };
}

/** `count` items at even distances, the first included; all of them if there are fewer. */
function evenlySpaced<T>(items: readonly T[], count: number): T[] {
  if (!Number.isInteger(count) || count < 1)
    throw new InputError(`the prompt limit must be a whole number from 1, not ${count}`);
  if (count >= items.length) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.floor((i * items.length) / count)]!);
}
