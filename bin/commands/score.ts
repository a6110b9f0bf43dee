/** `kilotoken score`: teacher-forced log-probabilities, a window for outside checks. */
import type { Command } from 'commander';
import { InputError } from '../../harness/engine.ts';
import type { SyntheticChoice } from '../../native/engines.ts';
import { checkTopK, readCases } from '../support/cases.ts';
import { type Activations, type EngineName, engineOption, loadModel, modelOption } from '../support/model.ts';
import { activationsOption, wholeNumber } from '../support/options.ts';
import { print, table } from '../support/output.ts';

interface Options {
  readonly checkpoint?: string;
  readonly engine: EngineName;
  readonly model?: SyntheticChoice;
  readonly tokens: string;
  readonly topK: number;
  readonly json?: boolean;
  readonly activations?: Activations;
}

export function scoreCommand(program: Command): void {
  program
    .command('score')
    .description('teacher-forced log-probabilities (natural logarithm) of token sequences')
    .option('--checkpoint <dir>', 'checkpoint directory')
    .addOption(modelOption())
    .addOption(engineOption())
    .requiredOption('--tokens <file>', '{"cases":[{"ids":[...]},...]}, or - for stdin')
    .option('--top-k <n>', 'candidates to list at each position', wholeNumber(1), 10)
    .addOption(activationsOption())
    .option('--json', 'print one JSON document: next_logprobs, top_ids and top_logprobs of each case')
    .action(run);
}

async function run(options: Options): Promise<void> {
  if ((options.checkpoint === undefined) === (options.model === undefined)) {
    throw new InputError('give either --checkpoint or --model');
  }
  const model = await loadModel(options.checkpoint ?? '', options.activations, options.engine, options.model);
  try {
    const { vocab, maxContext } = model.checkpoint;
    const cases = readCases(options.tokens, { vocab, maxContext, leastIds: 1 });
    const scored = await model.scoreCases(cases, checkTopK(options.topK, vocab));
    if (options.json) {
      const documents = scored.map(({ nextLogprobs, topIds, topLogprobs }) => ({
        next_logprobs: nextLogprobs,
        top_ids: topIds,
        top_logprobs: topLogprobs,
      }));
      return print(JSON.stringify({ cases: documents }));
    }
    scored.forEach(({ nextLogprobs, topIds, topLogprobs }, i) => {
      const total = nextLogprobs.reduce((sum, logprob) => sum + logprob, 0);
      print(`case ${i}: ${cases[i]!.length} tokens, log-probability ${total.toFixed(4)}`);
      const rows = topIds.map((ids, at) => [
        String(at),
        String(cases[i]![at]),
        nextLogprobs[at]?.toFixed(4) ?? '-',
        ids.map((id, k) => `${id} (${topLogprobs[at]![k]!.toFixed(3)})`).join(' '),
      ]);
      print(table([['position', 'token', 'log p(next)', 'most likely next'], ...rows], [0, 1, 2]));
    });
  } finally {
    await model.close();
  }
}
