/**
 * The engine `reference-cuda`: the plain FP8 target of reference/fp8 on one GPU, a checkpoint's or a pro-synthetic slice's. A
 * checkpoint's draft stays on the CPU, so that speculation can be looked at with a target whose rows come from the GPU.
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
import { EnvironmentError } from './errors.ts';
import { LoadedModel } from './loaded.ts';
import { processorName } from './sessions.ts';

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

export class CudaModel extends LoadedModel {
  /** @throws InputError for a broken checkpoint; EnvironmentError without a build, a Hopper GPU, its driver or enough of its memory */
  static async load(directory: string, options: { readonly activations?: Activations } = {}): Promise<CudaModel> {
    const { build, gpu } = readyGpu();
    const checkpoint = await openCheckpoint(directory);
    const activations = options.activations ?? checkpoint.activationsDefault;
    const model = await callAddon(() =>
      build.loadReference({
        ...checkpoint,
        tensors: [...checkpoint.tensors.values()],
        draft: checkpoint.draft && { ...checkpoint.draft, tensors: [...checkpoint.draft.tensors.values()] },
        activations,
      }),
    );
    const [weightsDigest, draftDigest] = await Promise.all([checkpoint.weightsDigest(), checkpoint.draftDigest()]);
    const facts = {
      ...(await referenceFacts(gpu)),
      weightsDigest,
      draftDigest,
      numerics: describeNumerics(checkpoint, activations),
      topology: checkpoint.draft === null ? 'one GPU' : `one GPU; the draft on the CPU, ${processorName()}`,
    };
    return new CudaModel(checkpoint, model, facts, cudaAddonFile());
  }

  /** @throws InputError for a slice that does not divide; EnvironmentError as `load` */
  static async synthetic(
    choice: SyntheticChoice,
    options: { readonly activations?: Activations } = {},
  ): Promise<CudaModel> {
    const { build, gpu } = readyGpu();
    const { experts, ...slice } = choice;
    const activations = options.activations ?? 'fp8';
    const model = await callAddon(() =>
      build.loadSyntheticReference({ ...slice, fp8Experts: experts === 'fp8', activations }),
    );
    const shape = { vocab: SYNTHETIC_VOCAB / choice.ranks, maxContext: choice.maxContext, draft: null };
    const facts = {
      ...(await referenceFacts(gpu)),
      weightsDigest: syntheticDigest(choice),
      draftDigest: 'none',
      numerics: syntheticNumerics(experts, activations),
      topology:
        choice.ranks === 1 ? 'one GPU' : `one GPU as rank ${choice.rank} of ${choice.ranks}, without the others`,
    };
    return new CudaModel(shape, model, facts, cudaAddonFile());
  }
}

function readyGpu(): { readonly build: CudaAddon; readonly gpu: GpuReport } {
  const build = addon(cudaAddonFile()) as CudaAddon;
  const gpu = build.gpu();
  if (gpu.lack !== '') throw new EnvironmentError(gpu.lack);
  return { build, gpu };
}

async function referenceFacts(gpu: GpuReport) {
  return {
    name: 'reference-cuda',
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
function syntheticDigest({ seed, layers, rank, ranks, experts }: SyntheticChoice): string {
  const text = `pro-synthetic v1 seed=${seed} layers=${layers} rank=${rank}/${ranks} experts=${experts}`;
  return `sha256:${createHash('sha256').update(text).digest('hex')}`;
}

function syntheticNumerics(format: 'mxfp4' | 'fp8', activations: Activations): Numerics {
  const experts = format === 'fp8' ? 'fp8-128x128' : 'mxfp4';
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
