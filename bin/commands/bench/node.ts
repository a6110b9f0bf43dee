/**
 * `kilotoken bench node`: speed of the 1.02 T shape on the GPUs of this machine, with the ablation, the sweeps, the plain reference and
 * the proof that speculation changed no token, in one bundle.
 */
import { basename, resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { benchNode, type NodeBenchOptions, planNodeBench, shapeOf } from '../../../harness/bench/node/bench.ts';
import type { NodeMachine } from '../../../harness/bench/node/machine.ts';
import { checkNodeUsage, GROUPS, type Group, NODE_DEFAULTS } from '../../../harness/bench/node/plan.ts';
import { PROFILES, type Profile, profileFromJson } from '../../../harness/bench/node/profile.ts';
import { PRO } from '../../../harness/bench/node/shape.ts';
import { runId } from '../../../harness/bundle/digests.ts';
import { told, untold } from '../../../harness/bundle/provenance.ts';
import { collectProvenance } from '../../../harness/bundle/surroundings.ts';
import { InputError } from '../../../harness/engine.ts';
import { jsonOf } from '../../../harness/input.ts';
import { cudaAddonFile } from '../../../native/addon.ts';
import { nodeMachine } from '../../../native/node.ts';
import { EXIT } from '../../support/exit.ts';
import { onInterrupt } from '../../support/interrupt.ts';
import { machine as hostMachine } from '../../support/machine.ts';
import { listOf, realNumber, seed, wholeNumber } from '../../support/options.ts';
import { note, print, printJson } from '../../support/output.ts';
import { repositoryState } from '../../support/repository.ts';
import { printNodePlan, printNodeReport } from './node-summary.ts';

interface Options {
  readonly shape: string;
  readonly gpus?: number;
  readonly layers?: number;
  readonly seed: string;
  readonly budget: number;
  readonly only?: readonly Group[];
  readonly losslessTokens: number;
  readonly repeats: number;
  readonly tokens?: number;
  readonly profile?: readonly string[];
  readonly out?: string;
  readonly telemetryHz: number;
  readonly plan?: boolean;
  readonly json?: boolean;
}

/** Beyond what a budget of a day holds: a slip of the key is told before it is planned. */
const MOST_TOKENS = 1_000_000;
const MOST_REPEATS = 1000;

/** What a test replaces: the machine, the files of the engines that provenance lists, the monotonic clock in nanoseconds. */
export interface NodeCommandParts {
  readonly machine: () => NodeMachine;
  readonly binaries: () => readonly string[];
  readonly now: () => bigint;
}

const NATIVE: NodeCommandParts = {
  machine: nodeMachine,
  binaries: () => [cudaAddonFile()],
  now: () => process.hrtime.bigint(),
};

export function benchNodeCommand(bench: Command, parts: NodeCommandParts = NATIVE): void {
  const count = wholeNumber(1);
  bench
    .command('node')
    .description('speed of the 1.02 T shape on the GPUs of this machine: weights synthetic, acceptance assumed')
    .option('--shape <name>', 'what is decoded', 'pro')
    .addOption(new Option('--gpus <n>', 'GPUs to use: 1, 2, 4 or 8 (default: as many as there are)').argParser(count))
    .option(
      '--layers <n>',
      `at most so many of the ${PRO.layers} layers (default: as many as fit)`,
      wholeNumber(2, PRO.layers),
    )
    .option('--seed <n>', 'seed of weights, prompt, corruption and order', seed, '1')
    .option(
      '--budget <minutes>',
      'what does not fit is left out and named',
      realNumber(0, 1440, true),
      NODE_DEFAULTS.budgetSeconds / 60,
    )
    .addOption(new Option('--only <group...>', 'only these groups of cells').choices([...GROUPS]).argParser(groupsOf))
    .option(
      '--lossless-tokens <n>',
      'tokens of the losslessness test; fewer are labelled',
      wholeNumber(16, MOST_TOKENS),
      NODE_DEFAULTS.losslessTokens,
    )
    .option(
      '--repeats <n>',
      'timed generations of a headline or ablation cell',
      wholeNumber(1, MOST_REPEATS),
      NODE_DEFAULTS.repeats,
    )
    .option('--tokens <n>', 'tokens of a headline generation; sweeps have half as many', wholeNumber(64, MOST_TOKENS))
    .option(
      '--profile <file...>',
      'acceptance profiles besides the built-in ones: JSON, 7 conditional chances',
      listOf(String),
    )
    .option('--out <dir>', 'bundle to create (default: runs/<time>-<hash>)')
    .option('--telemetry-hz <n>', 'readings of the sensors a second', realNumber(1, 1000), 10)
    .option('--plan', 'print what would be run and stop')
    .option('--json', 'print the report as one JSON document')
    .action((options: Options) => run(options, parts));
}

async function run(options: Options, parts: NodeCommandParts): Promise<void> {
  const startedAt = new Date();
  const bench = benchOptions(options);
  // Wrong usage is named on a machine without GPUs too.
  checkNodeUsage(bench);
  const machine = parts.machine();
  if (options.plan) {
    const { plan } = await planNodeBench(machine, bench);
    if (options.json) printJson(plan);
    else printNodePlan(plan);
    return;
  }
  const state = repositoryState();
  const command = `kilotoken ${process.argv.slice(2).join(' ')}`.trim();
  const id = runId(startedAt, { command, bench, ...state });
  const directory = resolve(options.out ?? `runs/${id}`);
  const { signal, restore } = onInterrupt();
  try {
    const { report, status, exitCode } = await benchNode({
      machine,
      options: bench,
      about: { id, startedAt: startedAt.toISOString(), command, ...state, machine: hostMachine() },
      provenance: (plan) =>
        collectProvenance({
          cards: [],
          binaries: parts.binaries(),
          kernels: [],
          also: (provenance) => ({
            ...provenance,
            model: {
              ...provenance.model,
              revision: told(
                `pro-synthetic, seed ${plan.input.seed}: every weight a function of seed, tensor and place`,
              ),
              formats: told(
                'experts MXFP4 or FP8 128x128 as each cell says; QKV and dense FFN FP8 128x128; the rest BF16, router F32',
              ),
              kvFormat: told('BF16'),
            },
            decoding: {
              ...provenance.decoding,
              echoed: untold('greedy decoding with a fixed length: there is nothing to echo'),
              randomNumbers: told('none in decoding; Philox4x32-10 for weights, prompt, corruption and order'),
              nonce: untold('no nonce: every generation has its own cache and nothing is cached between them'),
            },
            telemetryHz: told(options.telemetryHz),
          }),
        }),
      directory,
      telemetryHz: options.telemetryHz,
      signal,
      now: parts.now,
      progress: note,
    });
    if (options.json) printJson(report);
    else printNodeReport(report);
    (options.json ? note : print)(`Bundle: ${directory}`);
    process.exitCode = status === 'interrupted' ? EXIT.interrupted : exitCode;
  } catch (error) {
    const written = (error as Error).name === 'DeviceError';
    if (written) note(`What was recorded before the fault: ${directory}`);
    throw error;
  } finally {
    restore();
  }
}

function benchOptions(options: Options): NodeBenchOptions {
  const { tokens } = NODE_DEFAULTS;
  return {
    shape: shapeOf(options.shape),
    seed: options.seed,
    gpus: options.gpus ?? null,
    layers: options.layers ?? null,
    groups: options.only === undefined ? [...GROUPS] : [...options.only],
    budgetSeconds: options.budget * 60,
    losslessTokens: options.losslessTokens,
    repeats: options.repeats,
    tokens:
      options.tokens === undefined
        ? { ...tokens }
        : {
            ...tokens,
            headline: options.tokens,
            sweep: Math.ceil(options.tokens / 2),
            plain: Math.min(tokens.plain, options.tokens),
          },
    profiles: [...PROFILES, ...(options.profile ?? []).map(profileOf)],
  };
}

/** Groups by name, with blanks or commas between them. Throws InvalidArgumentError. */
function groupsOf(text: string, before: readonly Group[] = []): Group[] {
  const groups = text.split(',').map((name) => {
    const group = GROUPS.find((known) => known === name);
    if (group === undefined)
      throw new InvalidArgumentError(`There is no group "${name}"; there are ${GROUPS.join(', ')}.`);
    return group;
  });
  return [...new Set([...before, ...groups])];
}

function profileOf(path: string): Profile {
  try {
    return profileFromJson(jsonOf(path), basename(path, '.json'));
  } catch (error) {
    throw new InputError(`--profile ${(error as Error).message}`);
  }
}
