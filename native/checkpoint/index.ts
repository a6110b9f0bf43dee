/**
 * The door of this folder: a directory in, a checked plan out. Reads configs, shard headers and the mask sidecar; every fault of
 * the files is an InputError with one line that names the file or the tensor. The data itself is not read here: values that are not
 * numbers (NaN codes and scales) are refused by the engine that decodes them.
 */
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { InputError, quote } from '../errors.ts';
import { parseConfig, parseGenerationConfig } from './config.ts';
import { digestFiles } from './digest.ts';
import { readDraft } from './draft.ts';
import { fileExists, parseJson, readWhole } from './files.ts';
import { checkTargetLayout } from './layout.ts';
import { readShards } from './shards.ts';
import type { Checkpoint } from './types.ts';

export type {
  AttentionPlan,
  Checkpoint,
  DraftPlan,
  DType,
  LayerPlan,
  LinearFormat,
  TensorMap,
  TensorRecord,
} from './types.ts';

const MAX_CONFIG_BYTES = 16_000_000;

/** Opens a checkpoint of the family in the published layout. Throws InputError. */
export async function openCheckpoint(directory: string): Promise<Checkpoint> {
  await requireCheckpoint(directory);
  const configFile = path.join(directory, 'config.json');
  const config = parseConfig(await readJson(configFile), configFile);
  const { tensors, files } = await readShards(directory);
  const formats = checkTargetLayout(config, tensors, directory);
  const draft = await readDraft(directory, config);
  return {
    directory,
    architecture: config.architecture,
    hidden: config.hidden,
    vocab: config.vocab,
    eps: config.eps,
    valueScale: config.valueScale,
    experts: config.experts,
    topK: config.topK,
    normTopK: config.normTopK,
    routedScale: config.routedScale,
    maxContext: config.maxContext,
    layers: config.layers,
    headTensor: config.tied ? 'model.embed_tokens.weight' : 'lm_head.weight',
    activationsDefault: config.activationsDefault,
    eosIds: await readEosIds(directory, config.vocab, config.eosIds),
    formats,
    tensors,
    draft: draft?.plan ?? null,
    weightsDigest: () => digestFiles(files),
    draftDigest: async () => (draft === null ? 'none' : digestFiles(draft.files)),
  };
}

/** The stored formats and the activation format of a run; equal `id`s mean the same arithmetic. */
export interface NumericsText {
  readonly id: string;
  readonly experts: string;
  readonly linears: string;
  readonly activations: string;
  readonly kv: string;
}

export function describeNumerics(checkpoint: Checkpoint, activations: 'fp8' | 'bf16'): NumericsText {
  const { experts, linears, rest } = checkpoint.formats;
  const act = activations === 'fp8' ? 'fp8-1x128' : 'unquantised';
  const kv = activations === 'fp8' ? 'bf16' : 'fp32';
  return {
    id: `experts=${experts};linears=${linears};act=${act};kv=${kv};rest=${rest};sum=fp32`,
    experts,
    linears,
    activations: act,
    kv,
  };
}

/** Refuses a folder that cannot be a checkpoint, before anything is read or any engine asked for. Throws InputError. */
export async function requireCheckpoint(directory: string): Promise<void> {
  const expected = 'a checkpoint is a folder with config.json and safetensors files';
  const status = await stat(directory).catch(() => null);
  if (status === null) throw new InputError(`checkpoint ${quote(directory)}: not found; ${expected}`);
  if (!status.isDirectory()) throw new InputError(`checkpoint ${quote(directory)}: not a directory; ${expected}`);
  const config = path.join(directory, 'config.json');
  if ((await stat(config).catch(() => null)) !== null) return;
  const inside = await checkpointsIn(directory);
  const hint = inside.length === 0 ? '' : `, for instance ${inside[0]!}`;
  throw new InputError(`${config}: not found; ${expected}${hint}`);
}

/** Folders one level below that hold a config.json: whoever named the one above them meant one of these. */
async function checkpointsIn(directory: string): Promise<string[]> {
  const names = await readdir(directory).catch(() => []);
  const folders = names.sort().map((name) => path.join(directory, name));
  const has = await Promise.all(folders.map((folder) => fileExists(path.join(folder, 'config.json'))));
  return folders.filter((_, i) => has[i]);
}

async function readJson(file: string): Promise<unknown> {
  return parseJson(await readWhole(file, MAX_CONFIG_BYTES), file);
}

/** generation_config.json decides where it names any, as in the published serving stacks; else config.json. */
async function readEosIds(directory: string, vocab: number, fromConfig: readonly number[]): Promise<readonly number[]> {
  const file = path.join(directory, 'generation_config.json');
  if (!(await fileExists(file))) return fromConfig;
  return parseGenerationConfig(await readJson(file), vocab, file) ?? fromConfig;
}
