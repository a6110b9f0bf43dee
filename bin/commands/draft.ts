/** `kilotoken draft`: what the draft proposes after a context, a window for outside checks. */
import type { Command } from 'commander';
import { InputError } from '../../harness/engine.ts';
import { checkTopK, readCases } from '../support/cases.ts';
import { type Activations, loadModel } from '../support/model.ts';
import { activationsOption, wholeNumber } from '../support/options.ts';
import { print, table } from '../support/output.ts';

interface Options {
  readonly checkpoint: string;
  readonly tokens: string;
  readonly topK: number;
  readonly json?: boolean;
  readonly activations?: Activations;
}

export function draftCommand(program: Command): void {
  program
    .command('draft')
    .description("the draft's rows after a context: the anchor is the last id, the context all before it")
    .requiredOption('--checkpoint <dir>', 'checkpoint directory with a dflash/ draft')
    .requiredOption('--tokens <file>', '{"cases":[{"ids":[...]},...]}, or - for stdin')
    .option('--top-k <n>', 'candidates to list at each drafted position', wholeNumber(1), 5)
    .addOption(activationsOption())
    .option('--json', 'print one JSON document: anchor, top_ids and top_logprobs of each case')
    .action(run);
}

async function run(options: Options): Promise<void> {
  const model = await loadModel(options.checkpoint, options.activations);
  try {
    const { vocab, maxContext, draft } = model.checkpoint;
    if (draft === null) throw new InputError(`${options.checkpoint} has no dflash/ draft`);
    const cases = readCases(options.tokens, { vocab, maxContext, leastIds: 1 });
    const drafted = await model.draftCases(cases, checkTopK(options.topK, vocab));
    if (options.json) {
      const documents = drafted.map(({ anchor, topIds, topLogprobs }) => ({
        anchor,
        top_ids: topIds,
        top_logprobs: topLogprobs,
      }));
      return print(JSON.stringify({ cases: documents }));
    }
    drafted.forEach(({ anchor, topIds, topLogprobs }, i) => {
      print(`case ${i}: anchor at ${anchor}, token ${cases[i]!.at(-1)}`);
      const rows = topIds.map((ids, row) => [
        String(anchor + 1 + row),
        ids.map((id, k) => `${id} (${topLogprobs[row]![k]!.toFixed(3)})`).join(' '),
      ]);
      print(table([['position', 'most likely'], ...rows], [0]));
    });
  } finally {
    await model.close();
  }
}
