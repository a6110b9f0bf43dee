/**
 * The engines of this repository behind the harness's seam: the CPU reference here, those on a GPU in cuda.ts.
 */
import { type Activations, addon, addonDigest, callAddon } from './addon.ts';
import { type Checkpoint, describeNumerics, openCheckpoint } from './checkpoint/index.ts';
import { EnvironmentError } from './errors.ts';
import { LoadedModel, type ModelFacts } from './loaded.ts';
import { defectsOnCard, processorName } from './sessions.ts';

export { type CudaEngine, CudaModel, gpuReport, type SyntheticChoice } from './cuda.ts';
export type { DraftedCase, LoadedModel, ModelShape, ScoredCase } from './loaded.ts';
export type { EngineOptions } from './sessions.ts';
export { ToyModel, type ToyTables, tablesOf } from './toy.ts';

export interface LoadOptions {
  /** Default: as the checkpoint's config says. */
  readonly activations?: Activations;
  /** One of the addon's instruction sets, for tests; default the widest this machine has. All give the same bits. */
  readonly instructionSet?: string;
  /** Another build of the addon, for tests. */
  readonly addonFile?: string;
  /** A known mistake of the networks by its id, in a build that has them compiled in; every card names it. Default: none. */
  readonly defect?: string;
}

export class CpuModel extends LoadedModel<Checkpoint> {
  /**
   * Reads a checkpoint of the family and decodes its weights.
   * @throws InputError for a broken checkpoint, EnvironmentError without a built addon or a fitting processor
   */
  static async load(directory: string, options: LoadOptions = {}): Promise<CpuModel> {
    const checkpoint = await openCheckpoint(directory);
    const activations = options.activations ?? checkpoint.activationsDefault;
    const native = addon(options.addonFile);
    const instructionSet = options.instructionSet ?? native.instructionSets()[0];
    if (instructionSet === undefined) {
      throw new EnvironmentError('this processor lacks AVX2 and FMA, which the CPU engine needs on x86-64');
    }
    const networkDefects = defectsOnCard(native.networkDefects?.() ?? null, options.defect).slice(1);
    const model = await callAddon(() =>
      native.load({
        ...checkpoint,
        tensors: [...checkpoint.tensors.values()],
        draft: checkpoint.draft && { ...checkpoint.draft, tensors: [...checkpoint.draft.tensors.values()] },
        activations,
        instructionSet,
        ...(options.defect === undefined ? {} : { defect: options.defect }),
      }),
    );
    const [weightsDigest, draftDigest, buildDigest] = await Promise.all([
      checkpoint.weightsDigest(),
      checkpoint.draftDigest(),
      addonDigest(options.addonFile),
    ]);
    const facts: ModelFacts = {
      name: 'cpu',
      weightsDigest,
      draftDigest,
      buildDigest,
      numerics: describeNumerics(checkpoint, activations),
      device: `${processorName()} (${instructionSet})`,
      topology: 'one thread a session',
      defects: native.defects?.() ?? null,
      networkDefects,
    };
    return new CpuModel(checkpoint, model, facts, options.addonFile);
  }
}
