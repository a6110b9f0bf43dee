/** Suites as an audit takes them: token ids by the checkpoint's own tokenizer and template. */
import { statSync } from 'node:fs';
import type { Manifest } from '../../harness/bundle/rows.ts';
import { InputError } from '../../harness/engine.ts';
import type { AuditPrompt } from '../../harness/plan.ts';
import { loadExternal } from '../../harness/suite/external.ts';
import { loadSuites, type Suite } from '../../harness/suite/suite.ts';
import type { Tokenizer } from '../../harness/suite/tokenizer.ts';

export interface SuiteChoice {
  /** Folders with `<scenario>/prompts.jsonl`, or files of known benchmarks. */
  readonly paths: readonly string[];
  readonly scenarios?: readonly string[] | undefined;
  /** At most this many prompts of each suite. */
  readonly limit?: number | undefined;
}

export async function chooseSuites(choice: SuiteChoice): Promise<Suite[]> {
  const limit = choice.limit === undefined ? {} : { limit: choice.limit };
  const scenarios = choice.scenarios === undefined ? {} : { scenarios: choice.scenarios };
  const suites: Suite[] = [];
  for (const path of choice.paths) {
    const entry = statSync(path, { throwIfNoEntry: false });
    if (entry === undefined) throw new InputError(`${path}: no such suite`);
    if (entry.isDirectory()) suites.push(...(await loadSuites(path, { ...limit, ...scenarios })));
    else suites.push(await loadExternal(path, limit));
  }
  return suites;
}

export interface EncodedSuites {
  readonly prompts: AuditPrompt[];
  readonly suites: Manifest['suites'];
  /** Prompts left out because they and the output do not fit the context. */
  readonly tooLong: readonly string[];
}

export function encodeSuites(suites: readonly Suite[], tokenizer: Tokenizer, room: number): EncodedSuites {
  const tooLong: string[] = [];
  const all: AuditPrompt[] = [];
  const rows = suites.map((suite) => {
    const own: AuditPrompt[] = [];
    for (const { id, messages, tools, tags } of suite.prompts) {
      const ids = tokenizer.encodeChat(messages, tools);
      if (ids.length > room) tooLong.push(id);
      else own.push({ id, scenario: suite.scenario, ids, tags });
    }
    all.push(...own);
    const promptTokens = own.reduce((sum, prompt) => sum + prompt.ids.length, 0);
    return { scenario: suite.scenario, prompts: own.length, promptTokens, digest: suite.digest };
  });
  const names = new Set(all.map((prompt) => prompt.id));
  if (names.size < all.length) throw new InputError('two suites share a prompt id');
  return { prompts: all, suites: rows, tooLong };
}
