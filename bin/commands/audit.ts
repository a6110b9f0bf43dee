/** `kilotoken audit`: the main job. Decodes every prompt with and without speculation, judges, writes the run and its page. */
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { type AuditInput, audit } from '../../harness/audit.ts';
import { runId } from '../../harness/bundle/digests.ts';
import { told, untold } from '../../harness/bundle/provenance.ts';
import { type Arm, EngineCardRow, type Rule, type Shard } from '../../harness/bundle/rows.ts';
import { collectProvenance } from '../../harness/bundle/surroundings.ts';
import { type Engine, InputError } from '../../harness/engine.ts';
import { HEADLINE_SECONDS, type SpeedOptions, SUSTAINED_SPEED } from '../../harness/measure/plan.ts';
import { DEFAULT_PLAN, type PlanOptions, QUICK_PLAN } from '../../harness/plan.ts';
import { exitCodeOf } from '../../harness/report/build.ts';
import { loadClaims } from '../../harness/suite/claims.ts';
import { loadTokenizer } from '../../harness/suite/tokenizer.ts';
import { addonFile, cudaAddonFile } from '../../native/addon.ts';
import type { SyntheticChoice } from '../../native/engines.ts';
import { gpuLook } from '../../native/gpus.ts';
import { EXIT } from '../support/exit.ts';
import { onInterrupt } from '../support/interrupt.ts';
import { machine } from '../support/machine.ts';
import {
  type Activations,
  type EngineName,
  engineOption,
  loadModel,
  modelKind,
  modelOption,
  NANO,
  tokenizerDirectory,
} from '../support/model.ts';
import { activationsOption, listOf, realNumber, seed, shard, wholeNumber } from '../support/options.ts';
import { note, print, printJson } from '../support/output.ts';
import { buildPage, hasPageBuilder } from '../support/page.ts';
import { chooseSuites, encodeSuites } from '../support/prompts.ts';
import { ROOT, repositoryState } from '../support/repository.ts';
import { segmentsInChildren } from '../support/segments.ts';
import { printSummary } from '../support/summary.ts';

/** Prompts of each suite in a quick audit. */
const QUICK_PROMPTS = 8;

/** What stands in the manifest of a run on pro-synthetic. */
const SYNTHETIC_NOTES = [
  'synthetic weights: every weight is a function of seed, tensor and place, for target and draft',
  "pro-synthetic has no tokenizer: prompts are token ids of nano's, no stop id ends a session, and no token has a meaning",
];

interface Options {
  readonly checkpoint: string;
  readonly engine: EngineName;
  readonly model?: SyntheticChoice;
  readonly activations?: Activations;
  readonly suite: readonly string[];
  readonly scenario?: readonly string[];
  readonly prompts?: number;
  readonly out?: string;
  readonly seed: string;
  readonly block?: number;
  readonly quick?: boolean;
  readonly json?: boolean;
  readonly page: boolean;
  readonly tokens?: number;
  readonly sampledTokens?: number;
  readonly lawPrompts?: number;
  readonly lawSeeds?: number;
  readonly lawTokens?: number;
  readonly lawPromptTokens?: number;
  readonly speedPrompts?: number;
  readonly speedTokens?: number;
  readonly speedBlocks?: number;
  readonly speedSeconds?: number;
  readonly speedConcurrency?: readonly number[];
  readonly headline?: boolean;
  readonly taskTokens?: readonly number[];
  readonly priceOn?: number;
  readonly priceOff?: number;
  readonly machineHour?: number;
  readonly currency: string;
  readonly shard?: Shard;
  readonly telemetryHz: number;
  readonly concurrency?: number;
  readonly stepTimeout?: number;
}

export function auditCommand(program: Command): void {
  const count = wholeNumber(1);
  program
    .command('audit')
    .description(
      'compare decoding with and without speculation on every prompt; measure acceptance and speed; build the page',
    )
    .option('--checkpoint <dir>', 'checkpoint with its dflash/ draft', join(NANO, 'fp4'))
    .addOption(modelOption())
    .addOption(engineOption())
    .addOption(activationsOption())
    .option('--suite <path...>', 'folders of suites, or files of known benchmarks', [join(ROOT, 'suites')])
    .option('--scenario <name...>', 'only these scenarios')
    .option('--prompts <n>', 'at most so many prompts of each suite', count)
    .option('--out <dir>', 'run directory to create (default: runs/<time>-<hash>)')
    .option('--seed <n>', 'seed of everything that is drawn', seed, '1')
    .option('--block <n>', "tokens of a verify step, anchor included (default: the draft's)", wholeNumber(2))
    .option('--quick', `${QUICK_PROMPTS} prompts of each suite and short outputs; such a run is not published`)
    .option('--tokens <n>', 'greedy tokens a prompt', count)
    .option('--sampled-tokens <n>', 'tokens a prompt at temperature 1, rules match and coupled', count)
    .option('--law-prompts <n>', 'prompts of the law test of rule reject', count)
    .option('--law-seeds <n>', 'sessions a law prompt and arm', count)
    .option('--law-tokens <n>', 'first tokens the law test looks at', count)
    .option('--law-prompt-tokens <n>', 'how much of a prompt the law test keeps', count)
    .option('--speed-prompts <n>', 'timed prompts of each scenario', count)
    .option('--speed-tokens <n>', 'tokens of a timed session', count)
    .option('--speed-blocks <n>', 'turns of four fresh processes: off, on, on, off', count)
    .option('--speed-seconds <s>', 'least time a process spends on each scenario', realNumber(0, 86_400))
    .option('--speed-concurrency <n...>', 'sessions at once, a cell each (default: 1)', listOf(count))
    .option('--headline', `sustained timing: ${HEADLINE_SECONDS} s a scenario and arm, warm by the stricter criterion`)
    .option('--task-tokens <n...>', 'lengths of the tasks whose time is printed (default: 1000)', listOf(count))
    .option('--price-on <x>', 'your price a token with speculation, with --price-off', realNumber(0, 1e12, true))
    .option('--price-off <x>', 'your price a token without', realNumber(0, 1e12, true))
    .option('--machine-hour <x>', 'what an hour of your machine costs', realNumber(0, 1e12, true))
    .option('--currency <name>', 'in what', 'currency units')
    .option('--shard <i/n>', 'run part i of n of the plan; join the parts with: kilotoken merge', shard)
    .option('--telemetry-hz <n>', 'readings of the sensors a second', realNumber(1, 1000), 10)
    .option('--concurrency <n>', 'sessions in flight outside the timed part', count)
    .option('--step-timeout <seconds>', 'longest wait for one engine step', realNumber(0, 3600, true))
    .option('--json', 'print the report as one JSON document')
    .option('--no-page', 'do not build the page')
    .action(run);
}

async function run(options: Options): Promise<void> {
  const startedAt = new Date();
  const synthetic = options.model;
  if (synthetic !== undefined && options.engine === 'reference-cuda') {
    throw new InputError('reference-cuda decodes slices plainly; an audit compares speculation on with off');
  }
  const model = await loadModel(options.checkpoint, options.activations, options.engine, synthetic);
  try {
    const { draft } = model.checkpoint;
    if (draft === null) {
      throw new InputError(`${options.checkpoint} has no dflash/ draft; an audit compares speculation on with off`);
    }
    const kind = modelKind(options.checkpoint, synthetic);
    const block = options.block ?? draft.blockSize;
    if (block > draft.blockSize)
      throw new InputError(`--block ${block} exceeds the draft's block of ${draft.blockSize}`);
    const tokenizer = await loadTokenizer(tokenizerDirectory(options.checkpoint, synthetic));
    // Nothing ends a text that means nothing.
    const plan = planOptions(options, synthetic === undefined ? tokenizer.stopIds : []);
    const suites = await chooseSuites({
      paths: options.suite,
      scenarios: options.scenario,
      limit: options.prompts ?? (options.quick ? QUICK_PROMPTS : undefined),
    });
    const longest = Math.max(plan.tokens, plan.sampledTokens, plan.speed.tokens);
    const encoded = encodeSuites(suites, tokenizer, model.checkpoint.maxContext - longest);
    for (const id of encoded.tooLong) note(`Prompt ${id} is left out: with the output it exceeds the context.`);

    const engine = (rule: Rule, arm: Arm): Engine => model.engine({ rule, blockSize: arm === 'plain' ? 1 : block });
    const both = (rule: Rule): Record<Arm, Engine> => ({
      plain: engine(rule, 'plain'),
      speculative: engine(rule, 'speculative'),
    });
    const engines = { match: both('match'), coupled: both('coupled'), reject: both('reject') };
    const state = repositoryState();
    const command = `kilotoken ${process.argv.slice(2).join(' ')}`.trim();
    const id = runId(startedAt, { command, plan, ...state });
    const directory = resolve(options.out ?? join('runs', id));
    const input: Omit<AuditInput, 'signal'> = {
      engines,
      prompts: encoded.prompts,
      suites: encoded.suites,
      ledger: await loadClaims(join(ROOT, 'suites/claims.json')),
      plan,
      about: {
        id,
        title: `Speculation on against off, ${kind.name}, block ${block}${synthetic === undefined ? '' : ', synthetic weights'}`,
        command,
        ...state,
        machine: machine(),
        model: kind,
        tokenizer: { digest: tokenizer.digest, templateDigest: tokenizer.templateDigest },
        provenance: collectProvenance({
          cards: Object.values(engines).flatMap((arms) =>
            Object.values(arms).map(({ card }) => EngineCardRow.parse(card)),
          ),
          binaries: [options.engine === 'cpu' ? addonFile() : cudaAddonFile()],
          kernels: [],
          also: (provenance) => ({
            ...provenance,
            decoding: {
              ...provenance.decoding,
              randomNumbers: told('Philox4x32-10, key: the seed, counter: position, stream, draw, round'),
              nonce: untold('no nonce: every session prefills its own prompt and nothing is cached between sessions'),
            },
            telemetryHz: told(options.telemetryHz),
            notes: [...provenance.notes, ...(synthetic === undefined ? [] : SYNTHETIC_NOTES)],
          }),
        }),
      },
      startedAt,
      directory,
      segments: segmentsInChildren(
        {
          checkpoint: resolve(options.checkpoint),
          activations: options.activations ?? null,
          engine: options.engine,
          model: synthetic ?? null,
        },
        block,
        // The processes that are timed load the model themselves, and a GPU may hold it once only. Nothing decodes here any more.
        async () => (options.engine === 'cpu' ? undefined : model.close()),
      ),
      shard: options.shard ?? null,
      telemetryHz: options.telemetryHz,
      overhead: true,
      progress: note,
      ...(options.engine === 'cpu' ? {} : { look: gpuLook }),
    };
    const { signal, restore } = onInterrupt();
    note(
      `Auditing ${synthetic === undefined ? options.checkpoint : kind.name} with ${encoded.prompts.length} prompts into ${directory}`,
    );
    const { report, interrupted } = await audit({ ...input, signal });
    restore();

    if (options.json) printJson(report);
    else printSummary(report);
    const closing = options.json ? note : print;
    if (interrupted) {
      closing(`Interrupted. Partial run: ${directory}`);
      process.exitCode = EXIT.interrupted;
      return;
    }
    const code = exitCodeOf(report.verdicts);
    // A shard alone lacks the sessions of the others: that is for the merged run to judge.
    process.exitCode = options.shard !== undefined && code === EXIT.inconclusive ? EXIT.pass : code;
    if (!options.page || !hasPageBuilder()) closing(`Run: ${directory}`);
    else {
      note('Building the page ...');
      closing(`Page: ${await buildPage(directory)}`);
    }
  } finally {
    await model.close();
  }
}

function planOptions(options: Options, stopIds: readonly number[]): PlanOptions {
  const base = options.quick ? QUICK_PLAN : DEFAULT_PLAN;
  return {
    seed: options.seed,
    stopIds,
    tokens: options.tokens ?? base.tokens,
    sampledTokens: options.sampledTokens ?? base.sampledTokens,
    lawPrompts: options.lawPrompts ?? base.lawPrompts,
    lawSeeds: options.lawSeeds ?? base.lawSeeds,
    lawTokens: options.lawTokens ?? base.lawTokens,
    lawPromptTokens: options.lawPromptTokens ?? base.lawPromptTokens,
    speed: speedOptions(options, base.speed),
    concurrency: options.concurrency ?? base.concurrency,
    stepTimeoutSeconds: options.stepTimeout ?? base.stepTimeoutSeconds,
    ...(base.quick ? { quick: true } : {}),
  };
}

function speedOptions(options: Options, short: SpeedOptions): SpeedOptions {
  const base = options.headline ? SUSTAINED_SPEED : short;
  if ((options.priceOn === undefined) !== (options.priceOff === undefined)) {
    throw new InputError('--price-on and --price-off belong together');
  }
  const blocks = options.speedBlocks ?? base.blocks;
  return {
    ...base,
    promptsPerScenario: options.speedPrompts ?? base.promptsPerScenario,
    tokens: options.speedTokens ?? base.tokens,
    blocks,
    segmentSeconds:
      options.speedSeconds ?? (options.headline ? Math.ceil(HEADLINE_SECONDS / (2 * blocks)) : base.segmentSeconds),
    concurrency: options.speedConcurrency ?? base.concurrency,
    economics: {
      taskTokens: [...(options.taskTokens ?? base.economics.taskTokens)],
      price:
        options.priceOn === undefined || options.priceOff === undefined
          ? null
          : { speculative: options.priceOn, plain: options.priceOff },
      machineHour:
        options.machineHour === undefined ? null : { value: options.machineHour, currency: options.currency },
    },
  };
}
