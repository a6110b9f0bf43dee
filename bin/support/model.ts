/** Loads a checkpoint behind the seam. The addon is loaded only when a command needs it: `doctor` must run without it. */
import { join, resolve, sep } from 'node:path';
import { InvalidArgumentError, Option } from 'commander';
import type { Manifest } from '../../harness/bundle/rows.ts';
import { InputError } from '../../harness/engine.ts';
import { requireCheckpoint } from '../../native/checkpoint/index.ts';
import type { LoadedModel, SyntheticChoice } from '../../native/engines.ts';
import { note } from './output.ts';
import { ROOT } from './repository.ts';

export type Activations = 'bf16' | 'fp8';

/** Loading that takes longer than this is announced on stderr. */
const QUIET_MS = 1_000;

/** Engines of this repository, by the name they are asked for. */
const ENGINES = ['cpu', 'reference-cuda', 'stack-cuda'] as const;
export type EngineName = (typeof ENGINES)[number];

export const engineOption = (): Option =>
  new Option('--engine <engine>', 'where the target runs (docs/gpu.md)')
    .choices(ENGINES)
    .default('cpu')
    .argParser(engineNamed);

/** Throws InvalidArgumentError. */
function engineNamed(text: string): EngineName {
  const known = ENGINES.find((name) => name === text);
  if (known !== undefined) return known;
  throw new InvalidArgumentError(
    /^cmd:|\.m?js$/.test(text)
      ? 'An engine that is a module or a process is judged by: kilotoken verify --engine (docs/engines.md).'
      : `Allowed choices are ${ENGINES.join(', ')}.`,
  );
}

/** In the place of --checkpoint. */
export const modelOption = (): Option =>
  new Option(
    '--model <model>',
    'pro-synthetic:layers=N[,rank=R/N][,experts=fp8][,seed=S][,context=C]: a slice with made-up weights; needs a GPU engine',
  ).argParser(syntheticChoice);

export async function loadModel(
  directory: string,
  activations: Activations | undefined,
  engine: EngineName = 'cpu',
  synthetic?: SyntheticChoice,
): Promise<LoadedModel> {
  if (synthetic !== undefined && engine === 'cpu') {
    throw new InputError('--model pro-synthetic is made on a GPU: choose --engine reference-cuda or stack-cuda');
  }
  if (synthetic === undefined) await requireCheckpoint(directory);
  const what = synthetic === undefined ? directory : syntheticName(synthetic);
  const announced = setTimeout(() => note(`Loading ${what} ...`), QUIET_MS);
  const options = activations === undefined ? {} : { activations };
  try {
    const { CpuModel, CudaModel } = await import('../../native/engines.ts');
    if (engine === 'cpu') return await CpuModel.load(directory, options);
    if (synthetic !== undefined) return await CudaModel.synthetic(synthetic, { ...options, engine });
    return await CudaModel.load(directory, { ...options, engine });
  } finally {
    clearTimeout(announced);
  }
}

/** Throws InvalidArgumentError. */
function syntheticChoice(text: string): SyntheticChoice {
  const [name, list = ''] = text.split(':', 2);
  if (name !== 'pro-synthetic') throw new InvalidArgumentError('The only such model is pro-synthetic.');
  const given = new Map(list.split(',').map((part): [string, string] => splitOnce(part)));
  const take = (key: string, pattern: RegExp, fallback: string): string => {
    const value = given.get(key) ?? fallback;
    given.delete(key);
    if (!pattern.test(value)) throw new InvalidArgumentError(`${key}=${value} is not understood.`);
    return value;
  };
  if (!given.has('layers')) throw new InvalidArgumentError('It must say layers=N.');
  const layers = take('layers', /^[1-9]\d{0,3}$/, '');
  const [rank = 0, ranks = 1] = take('rank', /^\d{1,3}\/[1-9]\d{0,2}$/, '0/1')
    .split('/')
    .map(Number);
  const experts = take('experts', /^(mxfp4|fp8)$/, 'mxfp4') as SyntheticChoice['experts'];
  const seed = take('seed', /^\d{1,19}$/, '1');
  const maxContext = take('context', /^[1-9]\d{0,6}$/, '32768');
  const [unknown] = given.keys();
  if (unknown !== undefined)
    throw new InvalidArgumentError(`${unknown} is none of layers, rank, experts, seed, context.`);
  return { layers: Number(layers), rank, ranks, seed, experts, maxContext: Number(maxContext) };
}

function splitOnce(part: string): [string, string] {
  const at = part.indexOf('=');
  return at < 0 ? [part, ''] : [part.slice(0, at), part.slice(at + 1)];
}

/** A slice as it is asked for. */
export function syntheticName({ layers, rank, ranks, experts, seed }: SyntheticChoice): string {
  const parts = [`layers=${layers}`, ...(ranks > 1 ? [`rank=${rank}/${ranks}`] : [])];
  if (experts === 'fp8') parts.push('experts=fp8');
  if (seed !== '1') parts.push(`seed=${seed}`);
  return `pro-synthetic:${parts.join(',')}`;
}

export const NANO = join(ROOT, 'checkpoints/nano');

/** Whose tokenizer makes ids of prompts: the checkpoint's own; pro-synthetic has none and takes nano's ids as they are. */
export function tokenizerDirectory(directory: string, synthetic?: SyntheticChoice): string {
  return synthetic === undefined ? directory : join(NANO, 'fp4');
}

/** What to say of the model beside every number. */
export function modelKind(directory: string, synthetic?: SyntheticChoice): Manifest['model'] {
  if (synthetic !== undefined) {
    return {
      kind: 'pro-synthetic',
      name: syntheticName(synthetic),
      note: "Synthetic weights: a function of a seed, in the shape of the 1.02 T model. What depends on size is measured on it; its tokens mean nothing, and its draft was never trained, so its acceptance is no model's.",
    };
  }
  const inside = resolve(directory);
  if (inside.startsWith(NANO + sep)) {
    return {
      kind: 'nano',
      name: `nano ${inside.slice(NANO.length + 1)}`,
      note: 'A small trained model of the same architecture: what depends on meaning is measured on it, what depends on size is not.',
    };
  }
  return {
    kind: 'real',
    name: directory,
    note: 'A checkpoint the caller named; kilotoken knows its weights by their digest only.',
  };
}
