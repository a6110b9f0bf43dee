/**
 * Who is on the GPUs, as the addon finds it (native/cuda/gpu_look.h): processes by the driver's management library, and what could not be
 * seen. The harness's GpuLook (harness/measure/gpus.ts) has the same shape.
 */
import { addon, callAddon, cudaAddonFile } from './addon.ts';
import { EnvironmentError } from './errors.ts';

/** What the addon exports for it. */
export interface GpuLookExports {
  gpuLook(): Promise<NativeGpuLook[]>;
}

export interface NativeGpuLook {
  readonly gpu: number;
  readonly processes:
    | {
        readonly pid: number;
        readonly name: string | null;
        readonly bytes: number | null;
        readonly own: boolean;
      }[]
    | null;
  readonly usedBytes: number | null;
  readonly held: boolean;
  readonly unseen: string[];
}

/** One entry a GPU that CUDA shows. @throws EnvironmentError if the CUDA engines are not built, or without this export */
export async function gpuLook(): Promise<NativeGpuLook[]> {
  const build = addon(cudaAddonFile()) as unknown as Partial<GpuLookExports>;
  const look = build.gpuLook;
  if (look === undefined)
    throw new EnvironmentError('the CUDA engines were built without a look at the GPUs; run `npm run setup`');
  return callAddon(look);
}
