/**
 * The addon with known mistakes compiled in (build/defects, `npm run build:defects`) as the table of defects takes it: its decode
 * loop over toys, and the shipped nano weights with its golden rows.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { VerificationRule } from '../../harness/engine.ts';
import { readFloor } from '../../harness/gate/acceptance.ts';
import type { GatePrompt } from '../../harness/gate/observer.ts';
import { readReference } from '../../harness/gate/reference.ts';
import type { DefectBuild, GoldenRows, TrainedModel } from '../../harness/mutants/build.ts';
import { loadTokenizer } from '../../harness/suite/tokenizer.ts';
import type { CpuModel } from '../../native/engines.ts';
import { NANO } from './model.ts';
import { chooseSuites, encodeSuites } from './prompts.ts';
import { ROOT } from './repository.ts';

const CHECKPOINT = join(NANO, 'fp4');
/** What `kilotoken verify` takes for these weights where the caller states nothing. */
const ACCEPTANCE = join(ROOT, 'results/calibration/acceptance.json');
const SCORES = join(ROOT, 'results/calibration/scores-2.json');
const PROMPTS_A_SUITE = 10;
/** Longer prompts cost time and show nothing more. */
const LONGEST_PROMPT = 256;
/** As in the golden test: binary32 sums of up to 1,024 terms through some forty products stay well below. */
const GOLDEN_BOUND = 2 ** -10;

/** null if the build is absent. @throws EnvironmentError if it is there and does not load */
export async function openDefectBuild(): Promise<DefectBuild | null> {
  const { addon, defectsAddonFile } = await import('../../native/addon.ts');
  const { ToyModel, tablesOf } = await import('../../native/engines.ts');
  let file: string;
  try {
    file = defectsAddonFile();
  } catch {
    return null;
  }
  const { defects, networkDefects } = addon(file);
  return {
    name: 'toy-cpu',
    loop: defects?.() ?? [],
    networks: networkDefects?.() ?? [],
    openToy: async (toy, { rule, defect, blockSize, tape }) => {
      const model = await ToyModel.load(tablesOf(toy), file);
      const options = {
        rule,
        replay: true,
        ...(blockSize === undefined ? {} : { blockSize }),
        ...(defect === null ? {} : { defect }),
      };
      return model.engine(options, tape);
    },
    trained: existsSync(join(CHECKPOINT, 'config.json')) ? await nano(file) : null,
  };
}

async function nano(file: string): Promise<TrainedModel> {
  const { CpuModel } = await import('../../native/engines.ts');
  const load = (network: string | null, activations?: 'bf16'): Promise<CpuModel> =>
    CpuModel.load(CHECKPOINT, {
      addonFile: file,
      ...(activations === undefined ? {} : { activations }),
      ...(network === null ? {} : { defect: network }),
    });
  return {
    name: 'nano-cpu',
    prompts: await prompts(),
    open: async (rule: VerificationRule, network, loop) => {
      const model = await load(network);
      return {
        name: 'nano-cpu',
        open: async ({ blockSize }) =>
          model.engine({
            rule,
            replay: true,
            ...(blockSize === undefined ? {} : { blockSize }),
            ...(loop === null ? {} : { defect: loop }),
          }),
        close: () => model.close(),
      };
    },
    stated: {
      acceptance: (card) => (existsSync(ACCEPTANCE) ? readFloor(ACCEPTANCE, card.rule, card) : null),
      reference: (card) => (existsSync(SCORES) ? readReference(SCORES, card) : null),
    },
    golden: async (network) => {
      const model = await load(network, 'bf16');
      try {
        return await goldenRows(model);
      } finally {
        await model.close();
      }
    },
  };
}

async function prompts(): Promise<GatePrompt[]> {
  const tokenizer = await loadTokenizer(CHECKPOINT);
  const suites = await chooseSuites({ paths: [join(ROOT, 'suites')], limit: PROMPTS_A_SUITE });
  const encoded = encodeSuites(suites, tokenizer, LONGEST_PROMPT);
  return encoded.prompts.map(({ id, ids }) => ({ name: id, ids }));
}

/** The engine's rows of target and draft against those of golden/, made by code this project did not write. */
async function goldenRows(model: CpuModel): Promise<GoldenRows> {
  const { vocab } = model.checkpoint;
  let rows = 0;
  let largest = 0;
  const compare = (ids: readonly number[], logprobs: readonly number[], logits: Float64Array): void => {
    const top = logits.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
    const mass = top + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - top), 0));
    rows += 1;
    for (const [k, id] of ids.entries()) largest = Math.max(largest, Math.abs(logprobs[k]! - (logits[id]! - mass)));
  };
  const target = readGolden('fp4');
  const scored = await model.scoreCases(target.ids, vocab);
  for (const [c, at] of target.positions.entries()) {
    for (const [i, position] of at.entries()) {
      compare(scored[c]!.topIds[position]!, scored[c]!.topLogprobs[position]!, target.logits[c]![i]!);
    }
  }
  const draft = readGolden('draft');
  const drafted = await model.draftCases(draft.ids, vocab);
  for (const [c, block] of draft.logits.entries()) {
    for (const [i, row] of block.entries()) compare(drafted[c]!.topIds[i]!, drafted[c]!.topLogprobs[i]!, row);
  }
  return { rows, largest, bound: GOLDEN_BOUND };
}

interface Golden {
  readonly ids: readonly (readonly number[])[];
  /** Empty in the draft's file: its rows are those of the block behind the last id. */
  readonly positions: readonly (readonly number[])[];
  readonly logits: readonly (readonly Float64Array[])[];
}

/** Tensors `ids.<case>`, `positions.<case>` (I64) and `logits.<case>` (F32 [rows][vocab]) of a safetensors file. */
function readGolden(name: string): Golden {
  const file = readFileSync(join(NANO, 'golden', `${name}.safetensors`));
  const start = 8 + Number(file.readBigUInt64LE(0));
  type Entry = { readonly shape: readonly number[]; readonly data_offsets: readonly [number, number] };
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<string, Entry>;
  const cases = Object.keys(header).filter((key) => key.startsWith('ids.')).length;
  const integers = ({ data_offsets: [from, to] }: Entry): number[] =>
    Array.from({ length: (to - from) / 8 }, (_, i) => Number(file.readBigInt64LE(start + from + 8 * i)));
  const rows = ({ data_offsets: [from], shape: [count, width] }: Entry): Float64Array[] =>
    Array.from({ length: count! }, (_, r) =>
      Float64Array.from({ length: width! }, (_, c) => file.readFloatLE(start + from + 4 * (r * width! + c))),
    );
  const each = <T>(kind: string, read: (entry: Entry) => T): T[] =>
    Array.from({ length: cases }, (_, i) => header[`${kind}.${i}`]).flatMap((entry) => (entry ? [read(entry)] : []));
  return { ids: each('ids', integers), positions: each('positions', integers), logits: each('logits', rows) };
}
