/**
 * How fast the CPU engine decodes coding prompts on this machine: plain and speculative decode, and prefill. Sessions run
 * one at a time, A B B A a prompt, greedy, the same weights; prefill lies outside the decode clock. What is printed is
 * what was measured here and now; nothing is asserted.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { explain } from '../bin/support/exit.ts';
import { machine } from '../bin/support/machine.ts';
import { type Activations, loadModel, modelKind, NANO } from '../bin/support/model.ts';
import { activationsOption, wholeNumber } from '../bin/support/options.ts';
import { note, print, printJson, table } from '../bin/support/output.ts';
import { encodeSuites } from '../bin/support/prompts.ts';
import { ROOT, repositoryState } from '../bin/support/repository.ts';
import type { Arm } from '../harness/bundle/rows.ts';
import type { Engine } from '../harness/engine.ts';
import { type PromptSpeed, pairByPrompt, speedupOf } from '../harness/measure/speed.ts';
import { bcaInterval, type ClusterStatistic, ratioOfSums } from '../harness/stats/bootstrap.ts';
import { loadSuites } from '../harness/suite/suite.ts';
import { loadTokenizer } from '../harness/suite/tokenizer.ts';

interface Options {
  readonly checkpoint: string;
  readonly prompts: number;
  readonly tokens: number;
  readonly activations?: Activations;
  readonly json?: boolean;
  readonly out?: string;
}

interface Figure {
  readonly value: number;
  readonly low: number | null;
  readonly high: number | null;
}

async function bench(options: Options): Promise<void> {
  const model = await loadModel(options.checkpoint, options.activations);
  const tokenizer = await loadTokenizer(options.checkpoint);
  const suites = await loadSuites(join(ROOT, 'suites'), { scenarios: ['coding'], limit: options.prompts });
  const { prompts } = encodeSuites(suites, tokenizer, model.checkpoint.maxContext - options.tokens);
  const engines: Record<Arm, Engine> = {
    plain: model.engine({ blockSize: 1, rule: 'match' }),
    speculative: model.engine({ rule: 'match' }),
  };
  const sums: Record<Arm, PromptSpeed[]> = { plain: [], speculative: [] };
  for (const [i, prompt] of prompts.entries()) {
    const runs: Record<Arm, PromptSpeed[]> = { plain: [], speculative: [] };
    for (const arm of ['plain', 'speculative', 'speculative', 'plain'] as const) {
      runs[arm].push(await timedSession(engines[arm], prompt.id, prompt.ids, options.tokens, tokenizer.stopIds));
    }
    for (const arm of ['plain', 'speculative'] as const) sums[arm].push(added(runs[arm]));
    note(`${i + 1}/${prompts.length} prompts`);
  }
  const { card } = engines.speculative;
  const both = pairByPrompt(sums.plain.filter(decoded), sums.speculative.filter(decoded));
  const prefill = [...sums.plain, ...sums.speculative];
  const result = {
    model: modelKind(options.checkpoint),
    machine: machine(),
    ...repositoryState(),
    engine: card,
    decoding: `greedy, at most ${options.tokens} tokens a session`,
    prompts: prompts.length,
    interval: '95 %, BCa bootstrap by prompt',
    plainTokensPerSecond: figure(both.plain.length, rate(both.plain)),
    speculativeTokensPerSecond: figure(both.plain.length, rate(both.speculative)),
    speedup: figure(both.plain.length, speedupOf(both.plain, both.speculative)),
    tokensPerRound: figure(
      both.speculative.length,
      ratioOfSums(
        both.speculative.map((sum) => sum.tokens),
        both.speculative.map((sum) => sum.rounds),
      ),
    ),
    prefillTokensPerSecond: figure(
      prefill.length,
      ratioOfSums(
        prefill.map((sum) => sum.promptTokens),
        prefill.map((sum) => sum.prefillSeconds),
      ),
    ),
  };
  await model.close();
  if (options.out !== undefined) writeFileSync(options.out, `${JSON.stringify(result, null, 2)}\n`);
  if (options.json) return printJson(result);
  const row = (name: string, { value, low, high }: Figure, digits: number): string[] => [
    name,
    value.toFixed(digits),
    low === null || high === null ? '-' : `${low.toFixed(digits)} to ${high.toFixed(digits)}`,
  ];
  print(
    `${result.machine.cpu}, ${result.machine.cores} cores; ${card.device}; ${result.model.name}, ${card.numerics.id}`,
  );
  print(`${result.prompts} coding prompts, ${result.decoding}, one session at a time`);
  print(
    table(
      [
        ['', 'measured', '95 % interval'],
        row('plain decode, tokens/s', result.plainTokensPerSecond, 0),
        row(`speculative decode (block ${card.blockSize}), tokens/s`, result.speculativeTokensPerSecond, 0),
        row('speed-up', result.speedup, 2),
        row('tokens a round, kept', result.tokensPerRound, 2),
        row('prefill, tokens/s', result.prefillTokensPerSecond, 0),
      ],
      [1],
    ),
  );
}

async function timedSession(
  engine: Engine,
  prompt: string,
  ids: readonly number[],
  maxTokens: number,
  stopIds: readonly number[],
): Promise<PromptSpeed> {
  const session = await engine.open(ids, { seed: '1', temperature: 0, topP: 1, topK: 0, maxTokens, stopIds });
  const sums = { prompt, tokens: 0, rounds: 0, decodeSeconds: 0, promptTokens: ids.length, prefillSeconds: 0 };
  for (;;) {
    const started = process.hrtime.bigint();
    const round = await session.step();
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    if (round.kind === 'prefill') sums.prefillSeconds += seconds;
    else {
      sums.decodeSeconds += seconds;
      sums.tokens += round.committed.length;
      sums.rounds += 1;
    }
    if (round.finish !== null) break;
  }
  await session.close();
  return sums;
}

function added(runs: readonly PromptSpeed[]): PromptSpeed {
  return runs.reduce((a, b) => ({
    prompt: a.prompt,
    tokens: a.tokens + b.tokens,
    rounds: a.rounds + b.rounds,
    decodeSeconds: a.decodeSeconds + b.decodeSeconds,
    promptTokens: a.promptTokens + b.promptTokens,
    prefillSeconds: a.prefillSeconds + b.prefillSeconds,
  }));
}

function decoded(sums: PromptSpeed): boolean {
  return sums.rounds > 0;
}

function rate(sums: readonly PromptSpeed[]): ClusterStatistic {
  return ratioOfSums(
    sums.map((sum) => sum.tokens),
    sums.map((sum) => sum.decodeSeconds),
  );
}

function figure(n: number, statistic: ClusterStatistic): Figure {
  const value = statistic(Uint32Array.from({ length: n }, (_, i) => i));
  const ends = bcaInterval(n, statistic);
  return { value, low: ends?.low ?? null, high: ends?.high ?? null };
}

try {
  await new Command('bench')
    .description('decode and prefill speed of the CPU engine on coding prompts')
    .option('--checkpoint <dir>', 'checkpoint with its dflash/ draft', join(NANO, 'fp4'))
    .option('--prompts <n>', 'coding prompts, evenly spaced over the suite', wholeNumber(1), 16)
    .option('--tokens <n>', 'most tokens of a session', wholeNumber(2), 128)
    .addOption(activationsOption())
    .option('--json', 'print one JSON document instead of the table')
    .option('--out <file>', 'also write the JSON document to a file')
    .action(bench)
    .parseAsync();
} catch (error) {
  const { code, text } = explain(error);
  note(text);
  process.exitCode = code;
}
