/** `kilotoken verify`: the gate for an engine, this repository's own or a plug-in (docs/engines.md). */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { type EngineCard, InputError, type VerificationRule } from '../../harness/engine.ts';
import { type EngineSource, isPlugin, openPlugin } from '../../harness/engines/plugin.ts';
import { DEFAULT_LIMITS } from '../../harness/engines/transport.ts';
import { type AcceptanceFloor, readFloor } from '../../harness/gate/acceptance.ts';
import type { Budget, GateName } from '../../harness/gate/budget.ts';
import { EvidenceRecord } from '../../harness/gate/evidence.ts';
import { runGate } from '../../harness/gate/gate.ts';
import type { GatePrompt } from '../../harness/gate/observer.ts';
import { type ReferenceScores, readReference } from '../../harness/gate/reference.ts';
import { annotations, junit, markdown, plainLines } from '../../harness/gate/report.ts';
import { exitCodeOf, type GateResult } from '../../harness/gate/result.ts';
import { jsonOf } from '../../harness/input.ts';
import type { LoadedModel, SyntheticChoice } from '../../native/engines.ts';
import { onInterrupt } from '../support/interrupt.ts';
import { type Activations, type EngineName, loadModel, modelOption, NANO, syntheticName } from '../support/model.ts';
import { activationsOption, outputFile, realNumber, seed, wholeNumber } from '../support/options.ts';
import { note, print, printJson, writeOutput } from '../support/output.ts';
import { ROOT } from '../support/repository.ts';

/** Built-in engines, by name, and where each runs its target. */
const NANO_CPU = 'nano-cpu';
const BUILT_IN: Readonly<Record<string, EngineName>> = {
  [NANO_CPU]: 'cpu',
  'reference-cuda': 'reference-cuda',
  'stack-cuda': 'stack-cuda',
};
const BUILT_IN_NAMES = Object.keys(BUILT_IN).join(', ');
/** The gate's own results on the nano checkpoints, kept as what later builds must hold. */
const NANO_ACCEPTANCE = join(ROOT, 'results/calibration/acceptance.json');
/** Scores of a build that agrees with the golden rows of another implementation (test/cpu/engine/golden.test.ts). */
const NANO_SCORES = join(ROOT, 'results/calibration/scores-2.json');
const RULES: readonly VerificationRule[] = ['match', 'coupled', 'reject'];

/** Rules share the minute of a gate: equality and replay decide most, toys show what nano's rows are too alike for. */
const SHARED_BUDGETS: Readonly<Record<VerificationRule, Partial<Budget>>> = {
  match: { wideLawTokens: 2_400 },
  coupled: { wideLawTokens: 2_400 },
  reject: { wideLawTokens: 8_000 },
};

interface Options {
  readonly engine: string;
  readonly baseline?: string;
  readonly gate: GateName;
  readonly rule: VerificationRule | 'all';
  readonly checkpoint: string;
  readonly activations?: Activations;
  readonly model?: SyntheticChoice;
  readonly prompts?: string;
  readonly seed: string;
  readonly tokens?: number;
  readonly acceptance?: string;
  readonly reference?: string;
  readonly fidelityMargin?: number;
  readonly evidence?: string;
  readonly evidenceHead?: string;
  readonly junit?: string;
  readonly summary?: string;
  readonly json?: boolean;
  readonly stepTimeout: number;
  readonly rowTolerance: number;
}

export function verifyCommand(program: Command): void {
  program
    .command('verify')
    .description('gate for an engine: is its interface kept, does speculation change what it emits?')
    .requiredOption('--engine <engine>', `${BUILT_IN_NAMES}, a module ./my-engine.mjs, or 'cmd:python3 my_engine.py'`)
    .option('--baseline <engine>', "compare with this engine instead of the engine's own plain mode")
    .addOption(new Option('--gate <gate>', 'how much to look at').choices(['pr', 'nightly']).default('pr'))
    .addOption(new Option('--rule <rule>', 'rule of a built-in engine').choices([...RULES, 'all']).default('all'))
    .option('--checkpoint <dir>', 'checkpoint of a built-in engine', join(NANO, 'fp4'))
    .addOption(modelOption())
    .addOption(activationsOption())
    .option('--prompts <file>', 'token ids: {"cases":[{"ids":[...]},...]} (default: random ids)')
    .option('--seed <n>', 'seed of everything that is drawn', seed, '1')
    .option('--tokens <n>', "tokens of the law test (default: the gate's)", wholeNumber(1))
    .option('--evidence <dir>', 'append-only record: runs of one build add up, and a refutation stays')
    .option('--evidence-head <digest>', 'state that the record must hold: the head that an earlier run printed')
    .option('--junit <file>', 'write JUnit XML', outputFile)
    .option('--summary <file>', 'append a Markdown summary', outputFile)
    .option('--acceptance <file>', 'earlier --json of this command: the acceptance must not have fallen below it')
    .option(
      '--reference <file>',
      'scores of texts that the engine must give: [{"texts":[{"ids":[...],"nextLogprobs":[...]}]}]',
    )
    .option(
      '--fidelity-margin <nats>',
      'a baseline of other numerics must be equivalent within this, a token',
      realNumber(0, 10, true),
    )
    .option('--json', 'print one JSON document')
    .option('--step-timeout <seconds>', 'longest wait for one answer', realNumber(0, 3600, true), 30)
    .option('--row-tolerance <distance>', 'total variation distance allowed between rows', realNumber(0, 1), 1e-6)
    .action(run);
}

async function run(options: Options): Promise<void> {
  const stepMs = options.stepTimeout * 1000;
  const prompts = options.prompts === undefined ? null : readPrompts(options.prompts);
  // What is wrong with the files is said before anything runs.
  if (options.acceptance !== undefined) readFloor(options.acceptance, 'reject', null);
  if (options.reference !== undefined) readReference(options.reference, { weightsDigest: '', numerics: { id: '' } });
  if (options.rule !== 'all' && isPlugin(options.engine))
    throw new InputError(`--rule ${options.rule}: the rule of a module or a process is the one that its card states`);
  const record = recordOf(options);
  const rules = Object.hasOwn(BUILT_IN, options.engine) && options.rule === 'all' ? RULES : [options.rule];
  const { signal, restore } = onInterrupt();
  const results: GateResult[] = [];
  const sources: EngineSource[] = [];
  // One for all rules: a GPU may hold a slice once only.
  const models = new Map<string, LoadedModel>();
  const open = async (text: string, rule: VerificationRule): Promise<EngineSource> => {
    const source = await sourceOf(text, rule, options, models);
    sources.push(source);
    return source;
  };
  try {
    for (const rule of rules) {
      if (signal.aborted) break;
      const named = rule === 'all' ? 'reject' : rule;
      results.push(
        await runGate({
          source: await open(options.engine, named),
          baseline: options.baseline === undefined ? null : await open(options.baseline, named),
          gate: options.gate,
          prompts,
          seed: options.seed,
          stepMs,
          rowTolerance: options.rowTolerance,
          ...(options.fidelityMargin === undefined ? {} : { fidelityMargin: options.fidelityMargin }),
          record,
          reference: (card) => referenceOf(card, options),
          acceptance: (card) => floorOf(card, named, options),
          signal,
          progress: note,
          ...(rules.length > 1 && options.gate === 'pr' ? { share: SHARED_BUDGETS[named] } : {}),
          ...(options.tokens === undefined
            ? {}
            : {
                budget: {
                  lawTokens: options.tokens,
                  wideLawTokens: options.tokens,
                  scoredTokens: options.tokens,
                },
              }),
        }),
      );
    }
  } finally {
    restore();
    await Promise.all([...sources, ...models.values()].map((opened) => opened.close()));
  }
  report(results, options);
  if (record !== null) note(`Evidence head: ${record.head}`);
  process.exitCode = Math.max(...results.map((result) => exitCodeOf(result.verdict)), 0);
  if (results.some((result) => result.verdict === 'refuted')) process.exitCode = exitCodeOf('refuted');
}

function report(results: readonly GateResult[], options: Options): void {
  // First what nothing can keep from being said.
  if (options.json) printJson(results.length === 1 ? results[0] : results);
  else for (const result of results) for (const line of plainLines(result)) print(line);
  if (options.junit !== undefined) writeOutput(options.junit, junit(results));
  const summary = options.summary ?? process.env.GITHUB_STEP_SUMMARY;
  if (summary !== undefined && summary !== '') writeOutput(summary, results.map(markdown).join(''), 'append');
  // Workflow commands are read from stdout and stderr alike; stdout belongs to the result.
  if (process.env.GITHUB_ACTIONS) for (const result of results) for (const line of annotations(result)) note(line);
}

async function sourceOf(
  text: string,
  rule: VerificationRule,
  options: Options,
  models: Map<string, LoadedModel>,
): Promise<EngineSource> {
  if (isPlugin(text) && options.model !== undefined) {
    throw new InputError(`${text}: --model is made by stack-cuda and reference-cuda, and no plug-in has it`);
  }
  if (isPlugin(text)) return openPlugin(text, { ...DEFAULT_LIMITS, answerMs: options.stepTimeout * 1000 });
  const engine = Object.hasOwn(BUILT_IN, text) ? BUILT_IN[text] : undefined;
  if (engine === undefined) {
    throw new InputError(`${text}: neither ${BUILT_IN_NAMES}, nor a .mjs module, nor cmd: with a command`);
  }
  const model = models.get(text) ?? (await loadModel(options.checkpoint, options.activations, engine, options.model));
  models.set(text, model);
  return {
    // Whatever prints a number of this gate prints the name beside it.
    name: options.model === undefined ? text : `${text} over ${syntheticName(options.model)} (synthetic weights)`,
    open: async ({ blockSize }) =>
      model.engine({ rule, replay: true, ...(blockSize === undefined ? {} : { blockSize }) }),
    close: async () => {},
  };
}

function recordOf({ evidence, evidenceHead }: Options): EvidenceRecord | null {
  if (evidence !== undefined) return new EvidenceRecord(evidence, evidenceHead ?? null);
  if (evidenceHead !== undefined) throw new InputError('--evidence-head needs --evidence');
  return null;
}

/** As the acceptance: what the caller states, or what a checked build of this repository gave. */
function referenceOf(card: EngineCard, { reference, engine }: Options): ReferenceScores | null {
  if (reference !== undefined) return readReference(reference, card);
  return engine === NANO_CPU && existsSync(NANO_SCORES) ? readReference(NANO_SCORES, card) : null;
}

/** What the caller states, or for the engine of this repository what was measured on the same weights. */
function floorOf(
  card: EngineCard,
  rule: VerificationRule,
  { acceptance, engine, prompts }: Options,
): AcceptanceFloor | null {
  if (acceptance !== undefined) {
    const floor = readFloor(acceptance, card.rule, null);
    if (floor === null) throw new InputError(`${acceptance}: states no acceptance of rule ${card.rule}`);
    return floor;
  }
  // Measured on the built-in prompts; it says nothing of others.
  const stated = engine === NANO_CPU && prompts === undefined && existsSync(NANO_ACCEPTANCE);
  return stated ? readFloor(NANO_ACCEPTANCE, rule, card) : null;
}

function readPrompts(path: string): GatePrompt[] {
  const value = jsonOf(path);
  const cases = (value as { cases?: unknown } | null)?.cases;
  if (!Array.isArray(cases) || cases.length === 0) {
    throw new InputError(`${path}: expected {"cases":[{"ids":[...]},...]}`);
  }
  return cases.map((entry: unknown, i) => {
    const ids = (entry as { ids?: unknown } | null)?.ids;
    if (!Array.isArray(ids) || ids.length === 0 || !ids.every((id) => Number.isInteger(id) && id >= 0)) {
      throw new InputError(`${path}: case ${i} has no list of token ids`);
    }
    return { name: `case ${i}`, ids: ids as number[] };
  });
}
