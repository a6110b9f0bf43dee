/** `kilotoken generate`: one prompt, its text streamed to stdout, the figures of the run on stderr. */
import { join } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { InputError, type Round, type VerificationRule } from '../../harness/engine.ts';
import { jsonOf } from '../../harness/input.ts';
import { Prompt } from '../../harness/suite/prompt.ts';
import { loadTokenizer, type Tokenizer } from '../../harness/suite/tokenizer.ts';
import { requireCheckpoint } from '../../native/checkpoint/index.ts';
import type { SyntheticChoice } from '../../native/engines.ts';
import { EXIT } from '../support/exit.ts';
import { onInterrupt } from '../support/interrupt.ts';
import { type Activations, type EngineName, engineOption, loadModel, modelOption, NANO } from '../support/model.ts';
import { activationsOption, realNumber, ruleOption, seed, wholeNumber } from '../support/options.ts';
import { note } from '../support/output.ts';

interface Options {
  readonly checkpoint: string;
  readonly engine: EngineName;
  readonly model?: SyntheticChoice;
  readonly ids?: readonly number[];
  readonly prompt?: string;
  readonly messages?: string;
  readonly raw?: boolean;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly seed: string;
  readonly rule: VerificationRule;
  readonly block?: number;
  readonly stats?: boolean;
  readonly activations?: Activations;
}

interface TokenStream {
  next(ids: readonly number[]): string;
  end(): string;
}

/** Throws InvalidArgumentError. */
function tokenIds(text: string): number[] {
  if (!/^\d{1,9}(,\d{1,9})*$/.test(text)) throw new InvalidArgumentError('It must be whole numbers with commas.');
  return text.split(',').map(Number);
}

export function generateCommand(program: Command): void {
  program
    .command('generate')
    .description('decode one prompt and print its text')
    .option('--checkpoint <dir>', 'checkpoint directory', join(NANO, 'fp4'))
    .addOption(modelOption())
    .addOption(engineOption())
    .option('--prompt <text>', 'a user message')
    .option(
      '--ids <list>',
      'the prompt as token ids, with commas; prints ids. The only prompt pro-synthetic takes',
      tokenIds,
    )
    .option('--messages <file>', 'JSON: an array of messages, or {"messages":[...],"tools":[...]}')
    .option('--raw', 'take --prompt as plain text, without the chat template')
    .option('--max-tokens <n>', 'most tokens to generate', wholeNumber(1), 256)
    .option('--temperature <t>', '0 is greedy', realNumber(0, 100), 0)
    .option('--top-p <p>', 'nucleus mass; 1 keeps all', realNumber(0, 1, true), 1)
    .option('--top-k <k>', 'keep the k most likely; 0 keeps all', wholeNumber(0), 0)
    .option('--seed <n>', 'seed of the sampler', seed, '1')
    .addOption(ruleOption())
    .option(
      '--block <n>',
      "tokens of a verify step; 1 decodes plainly (default: the draft's block, or 1)",
      wholeNumber(1),
    )
    .addOption(activationsOption())
    .option('--stats', 'print acceptance and speed on stderr')
    .action(run);
}

async function run(options: Options): Promise<void> {
  const given = [options.prompt, options.messages, options.ids].filter((prompt) => prompt !== undefined);
  if (given.length !== 1) throw new InputError('give one of --prompt, --messages and --ids');
  if (options.raw && options.prompt === undefined) throw new InputError('--raw goes with --prompt');
  if (options.model !== undefined && options.ids === undefined) {
    throw new InputError('pro-synthetic has no tokenizer: give its prompt with --ids');
  }
  if (options.model === undefined) await requireCheckpoint(options.checkpoint);
  const tokenizer = options.model === undefined ? await loadTokenizer(options.checkpoint) : null;
  const ids = options.ids ?? encodePrompt(options, tokenizer!);
  const model = await loadModel(options.checkpoint, options.activations, options.engine, options.model);
  try {
    const drafted = model.checkpoint.draft?.blockSize ?? 1;
    const block = options.block ?? drafted;
    if (block > drafted) {
      const why = drafted === 1 ? 'there is no dflash/ draft' : `the draft's block is ${drafted}`;
      throw new InputError(`--block ${block}: ${why}`);
    }
    const engine = model.engine({ rule: options.rule, blockSize: block });
    const session = await engine.open(ids, {
      seed: options.seed,
      temperature: options.temperature,
      topP: options.topP,
      topK: options.topK,
      maxTokens: options.maxTokens,
      stopIds: tokenizer?.stopIds ?? [],
    });
    const { signal, restore } = onInterrupt();
    const stream = options.ids === undefined ? textStream(tokenizer!) : idStream();
    const rounds: Round[] = [];
    for (;;) {
      const round = await session.step();
      rounds.push(round);
      process.stdout.write(stream.next(round.committed));
      if (round.finish !== null || signal.aborted) break;
    }
    restore();
    process.stdout.write(`${stream.end()}\n`);
    if (options.stats) printStats(ids.length, rounds);
    if (signal.aborted) process.exitCode = EXIT.interrupted;
    await session.close();
  } finally {
    await model.close();
  }
}

function encodePrompt(options: Options, tokenizer: Tokenizer): number[] {
  if (options.raw) return tokenizer.encode(options.prompt!);
  const given = options.messages === undefined ? promptMessages(options.prompt!) : readMessages(options.messages);
  const result = Prompt.safeParse({ id: 'prompt', tags: [], ...given });
  if (!result.success) {
    const issue = result.error.issues[0]!;
    throw new InputError(`${options.messages ?? '--prompt'}: ${issue.path.join('.')}: ${issue.message}`);
  }
  return tokenizer.encodeChat(result.data.messages, result.data.tools);
}

function promptMessages(text: string): object {
  return { messages: [{ role: 'user', content: text }] };
}

function readMessages(path: string): object {
  const value = jsonOf(path);
  if (Array.isArray(value)) return { messages: value };
  if (value !== null && typeof value === 'object') return value;
  throw new InputError(`${path}: expected an array of messages or an object with messages and tools`);
}

/** Ids of a growing token sequence, with commas. */
function idStream(): TokenStream {
  let first = true;
  return {
    next(ids) {
      const text = ids.map((id, i) => `${first && i === 0 ? '' : ','}${id}`).join('');
      first &&= ids.length === 0;
      return text;
    },
    end: () => '',
  };
}

/** Text of a growing token sequence. What may still change, an unfinished character, is held back. */
function textStream(tokenizer: Tokenizer): TokenStream {
  const all: number[] = [];
  let printed = '';
  const upTo = (text: string): string => {
    const fresh = text.startsWith(printed) ? text.slice(printed.length) : '';
    printed += fresh;
    return fresh;
  };
  const decode = (): string => tokenizer.decode(all, { skipMarkers: true });
  return {
    next(ids) {
      all.push(...ids);
      return upTo(decode().replace(/\uFFFD+$/, ''));
    },
    end: () => upTo(decode()),
  };
}

function printStats(promptTokens: number, rounds: readonly Round[]): void {
  const decode = rounds.filter((round) => round.kind === 'decode');
  const tokens = decode.reduce((sum, round) => sum + round.committed.length, 0);
  const seconds = decode.reduce((sum, round) => sum + round.hostNs.total, 0) / 1e9;
  const prefill = (rounds[0]?.hostNs.total ?? 0) / 1e9;
  note(`prompt      ${promptTokens} tokens in ${(1000 * prefill).toFixed(0)} ms`);
  note(
    `output      ${tokens + (rounds[0]?.committed.length ?? 0)} tokens, ended by ${rounds.at(-1)?.finish ?? 'interruption'}`,
  );
  if (decode.length === 0) return;
  const accepted = decode.reduce((sum, round) => sum + round.accepted + 1, 0) / decode.length;
  const speculative = decode.some((round) => round.drafted.length > 0);
  note(
    `decode      ${(tokens / seconds).toFixed(0)} tokens/s, ${((1000 * seconds) / decode.length).toFixed(2)} ms a round`,
  );
  if (speculative) note(`acceptance  ${accepted.toFixed(2)} tokens a round, bonus counted, ${decode.length} rounds`);
}
