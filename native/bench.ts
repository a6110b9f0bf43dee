/** The addon's measurements of this machine's GPU: raw samples, as they come. What they amount to is said elsewhere. */
import { addon, addonDigest, type CudaAddon, callAddon, cudaAddonFile, type GpuReport } from './addon.ts';
import { gpuReport } from './cuda.ts';
import { EnvironmentError } from './errors.ts';

interface BenchAddon extends CudaAddon {
  /** JSON; shapes as in kernels/bench. */
  benchFloors(): Promise<string>;
  benchOperations(): Promise<string>;
  benchLayers(): Promise<string>;
}

export interface KernelSamples {
  readonly gpu: GpuReport;
  /** sha256 of the addon. */
  readonly build: string;
  readonly floors: unknown;
  readonly operations: unknown;
  readonly layers: unknown;
}

/**
 * Measures the floors, then every operation, then layers; `stage` is told before each. Nothing else must run on the GPU meanwhile.
 * @throws EnvironmentError without a fitting GPU or a built addon, DeviceError for a kernel that fails or computes something else
 */
export async function measureKernels(stage: (name: string) => void): Promise<KernelSamples> {
  const gpu = gpuReport();
  if (gpu.lack !== '') throw new EnvironmentError(gpu.lack);
  const build = addon(cudaAddonFile()) as BenchAddon;
  const measured = async (name: string, measure: () => Promise<string>): Promise<unknown> => {
    stage(name);
    return JSON.parse(await callAddon(measure));
  };
  return {
    gpu,
    build: await addonDigest(cudaAddonFile()),
    floors: await measured('floors', () => build.benchFloors()),
    operations: await measured('operations', () => build.benchOperations()),
    layers: await measured('layers', () => build.benchLayers()),
  };
}
