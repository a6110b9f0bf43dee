/**
 * The engines on one GPU, over a checkpoint or a pro-synthetic slice. Under `reference-cuda` a checkpoint's draft stays on the CPU, so that
 * speculation can be looked at with a target whose rows come from the GPU; under `stack-cuda` draft, verification and acceptance run there.
 */
import { createHash } from 'node:crypto';
import type { Numerics } from '../harness/engine.ts';
import {
  type Activations,
  addon,
  addonDigest,
  type CudaAddon,
  callAddon,
  cudaAddonFile,
  type GpuReport,
} from './addon.ts';
import { describeNumerics, openCheckpoint } from './checkpoint/index.ts';
import { EnvironmentError, InputError } from './errors.ts';
import { LoadedModel } from './loaded.ts';
import { processorName } from './sessions.ts';
import type { ToyPlace } from './toy.ts';

/** A slice of the 1.02 T shape with weights that are a function of the seed. */
export interface SyntheticChoice {
  readonly layers: number;
  /** Rank `rank` of `ranks`: that part of heads, expert columns and vocabulary as a network of its own. */
  readonly rank: number;
  readonly ranks: number;
  /** Unsigned 64-bit, decimal. */
  readonly seed: string;
  readonly experts: 'mxfp4' | 'fp8';
  readonly maxContext: number;
}

/** Vocabulary of the whole pro-synthetic model. */
const SYNTHETIC_VOCAB = 152_576;

/** @throws EnvironmentError if the CUDA engines are not built */
export function gpuReport(): GpuReport {
  return (addon(cudaAddonFile()) as CudaAddon).gpu();
}

/**
 * `reference-cuda`: the plain FP8 target under the decode loop of the CPU reference. `stack-cuda`: kernels and decisions on the GPU, experts in
 * MXFP4 or FP8, its own DFlash draft.
 */
export type CudaEngine = 'reference-cuda' | 'stack-cuda';

export interface CudaOptions {
  readonly engine: CudaEngine;
  /** Default: as the checkpoint's config says; `fp8` for pro-synthetic. The stack has `fp8` only. */
  readonly activations?: Activations;
}

/** Block of the synthetic draft. */
const SYNTHETIC_BLOCK = 8;

export class CudaModel extends LoadedModel {
  /** @throws InputError for a broken or unfit checkpoint; EnvironmentError without a build, a Hopper GPU, its driver or enough of its memory */
  static async load(directory: string, options: CudaOptions): Promise<CudaModel> {
    const { build, gpu } = readyGpu();
    const { engine } = options;
    const checkpoint = await openCheckpoint(directory);
    const activations = options.activations ?? checkpoint.activationsDefault;
    checkStack(engine, checkpoint.formats.experts, activations);
    const given = {
      ...checkpoint,
      tensors: [...checkpoint.tensors.values()],
      draft: checkpoint.draft && { ...checkpoint.draft, tensors: [...checkpoint.draft.tensors.values()] },
      activations,
    };
    const model = await callAddon(() =>
      engine === 'stack-cuda' ? build.loadStack(given) : build.loadReference(given),
    );
    const [weightsDigest, draftDigest] = await Promise.all([checkpoint.weightsDigest(), checkpoint.draftDigest()]);
    const draftPlace =
      checkpoint.draft === null || engine === 'stack-cuda' ? '' : `; the draft on the CPU, ${processorName()}`;
    const described = describeNumerics(checkpoint, activations);
    const facts = {
      ...(await commonFacts(engine, gpu)),
      weightsDigest,
      draftDigest,
      numerics: engine === 'stack-cuda' ? stackNumerics(described) : described,
      topology: `one GPU${draftPlace}`,
    };
    return new CudaModel(checkpoint, model, facts, cudaAddonFile(), loopOf(engine));
  }

  /** @throws InputError for a slice that does not divide; EnvironmentError as `load` */
  static async synthetic(choice: SyntheticChoice, options: CudaOptions): Promise<CudaModel> {
    const { build, gpu } = readyGpu();
    const { engine } = options;
    const { experts, ...slice } = choice;
    const activations = options.activations ?? 'fp8';
    checkStack(engine, expertsText(experts), activations);
    const given = { ...slice, fp8Experts: experts === 'fp8', activations };
    const onStack = engine === 'stack-cuda';
    const model = await callAddon(() =>
      onStack ? build.loadSyntheticStack(given) : build.loadSyntheticReference(given),
    );
    const shape = {
      vocab: SYNTHETIC_VOCAB / choice.ranks,
      maxContext: choice.maxContext,
      draft: onStack ? { blockSize: SYNTHETIC_BLOCK } : null,
    };
    const described = syntheticNumerics(experts, activations);
    const facts = {
      ...(await commonFacts(engine, gpu)),
      weightsDigest: syntheticDigest(choice),
      draftDigest: onStack ? syntheticDigest(choice, ' draft') : 'none',
      numerics: onStack ? stackNumerics(described) : described,
      topology:
        choice.ranks === 1 ? 'one GPU' : `one GPU as rank ${choice.rank} of ${choice.ranks}, without the others`,
    };
    return new CudaModel(shape, model, facts, cudaAddonFile(), loopOf(engine));
  }
}

function loopOf(engine: CudaEngine): ToyPlace {
  return engine === 'stack-cuda' ? 'stack-cuda' : 'cpu';
}

/** Formats of experts that the stack holds, as a checkpoint's `formats` and the numerics id spell them. */
const STACK_EXPERTS: readonly string[] = ['mxfp4', 'fp8-128x128'];

/**
 * @param experts formats met in the model, joined by `+`; layers may differ
 * @throws InputError for what the stack has no pages for
 */
export function checkStack(engine: CudaEngine, experts: string, activations: Activations): void {
  if (engine !== 'stack-cuda') return;
  const foreign = experts.split('+').find((format) => !STACK_EXPERTS.includes(format));
  if (foreign !== undefined) throw new InputError(`the stack holds MXFP4 and FP8 experts, these are ${experts}`);
  if (activations !== 'fp8') throw new InputError('the stack rounds activations to FP8; it has no --activations bf16');
}

/** The stack's own rounding: what it quantises, and what it splits. Sums have an order of its own. */
function stackNumerics({ experts, linears }: Numerics): Numerics {
  const activations = 'fp8-1x128,h-fp8-1x32,bf16-pair';
  return {
    id: `experts=${experts};linears=${linears};act=${activations};kv=bf16;rest=bf16;sum=stack`,
    experts,
    linears,
    activations,
    kv: 'bf16',
  };
}

function readyGpu(): { readonly build: CudaAddon; readonly gpu: GpuReport } {
  const build = addon(cudaAddonFile()) as CudaAddon;
  const gpu = build.gpu();
  if (gpu.lack !== '') throw new EnvironmentError(gpu.lack);
  return { build, gpu };
}

async function commonFacts(engine: CudaEngine, gpu: GpuReport) {
  return {
    name: engine,
    buildDigest: await addonDigest(cudaAddonFile()),
    device: `${gpu.name}, driver for CUDA ${versionText(gpu.driverCuda)}`,
    defects: null,
    networkDefects: [],
  };
}

export function versionText(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

/** Weights are a function of the text, so its digest stands for theirs. */
function syntheticDigest({ seed, layers, rank, ranks, experts }: SyntheticChoice, part = ''): string {
  const text = `pro-synthetic v1 seed=${seed} layers=${layers} rank=${rank}/${ranks} experts=${experts}${part}`;
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}

function expertsText(format: 'mxfp4' | 'fp8'): string {
  return format === 'fp8' ? 'fp8-128x128' : 'mxfp4';
}

function syntheticNumerics(format: 'mxfp4' | 'fp8', activations: Activations): Numerics {
  const experts = expertsText(format);
  const act = activations === 'fp8' ? 'fp8-1x128' : 'unquantised';
  const kv = activations === 'fp8' ? 'bf16' : 'fp32';
  const linears = 'fp8-128x128';
  return {
    id: `experts=${experts};linears=${linears};act=${act};kv=${kv};rest=bf16;sum=fp32`,
    experts,
    linears,
    activations: act,
    kv,
  };
}
