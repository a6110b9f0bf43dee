/**
 * The typed mirror of native/addon: what the compiled addon exports, and the one place that loads it. Faults of the addon carry
 * a `code`; `callAddon` turns them into the two error classes of this side.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { AttentionPlan, LayerPlan, TensorRecord } from './checkpoint/index.ts';
import { DeviceError, EnvironmentError, InputError, LogitsError } from './errors.ts';

export type Activations = 'bf16' | 'fp8';

/** A checked checkpoint with its tensor maps as lists. Fields as in native/checkpoint/types.ts. */
export interface NativeCheckpoint {
  readonly hidden: number;
  readonly vocab: number;
  readonly eps: number;
  readonly valueScale: number;
  readonly experts: number;
  readonly topK: number;
  readonly normTopK: boolean;
  readonly routedScale: number;
  readonly maxContext: number;
  readonly layers: readonly LayerPlan[];
  readonly headTensor: string;
  readonly tensors: readonly TensorRecord[];
  readonly draft: NativeDraft | null;
  readonly activations: Activations;
  /** One of instructionSets(); default the first. All give the same bits. */
  readonly instructionSet?: string;
  /** An id of networkDefects(); only a build that has them takes it. */
  readonly defect?: string;
}

export interface NativeDraft extends Omit<AttentionPlan, 'kind' | 'fusedGroups'> {
  readonly layers: number;
  readonly eps: number;
  readonly valueScale: number;
  readonly ffnWidth: number;
  readonly blockSize: number;
  readonly targetLayerIds: readonly number[];
  readonly maskTokenId: number;
  readonly maskEmbedding: Float32Array;
  readonly tensors: readonly TensorRecord[];
}

/** Tables of logits in place of networks; shapes as in ToyTables of native/toy.ts. */
export interface NativeToy {
  readonly vocab: number;
  readonly order: number;
  readonly block: number;
  readonly maxContext: number;
  readonly targetLogits: Float32Array;
  readonly draftLogits: Float32Array;
  readonly allowNan: boolean;
}

export interface NativeSessionOptions {
  readonly seed: string;
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly maxTokens: number;
  readonly stopIds: readonly number[];
  readonly blockSize: number;
  readonly rule: 'match' | 'reject' | 'coupled';
  readonly replay: boolean;
  /** In [0, 1): read in order of use, and then from the first again, in place of uniforms. Default: they are drawn. */
  readonly tape?: Float64Array;
  /** An id of defects(); only a build that has them takes it. */
  readonly defect?: string;
}

export interface NativeRound {
  readonly kind: 'prefill' | 'decode';
  readonly committed: number[];
  readonly drafted: number[];
  readonly accepted: number;
  readonly finish: 'stop' | 'length' | null;
  readonly draftNs: number;
  readonly verifyNs: number;
  readonly totalNs: number;
  readonly distinctExperts: number[];
  readonly replay?: {
    readonly p: Float64Array[];
    readonly q: Float64Array[];
    readonly uniforms: { stream: string; position: number; round: number; draw: number; u: number }[];
    readonly noise?: { of: 'draft' | 'target'; position: number; round: number; u: Float64Array }[];
  };
}

export interface NativeTopRows {
  readonly topIds: number[][];
  readonly topLogprobs: number[][];
}

export interface NativeScored extends NativeTopRows {
  readonly nextLogprobs: number[];
}

export interface NativeSession {
  step(): Promise<NativeRound>;
  fork(): Promise<NativeSession>;
  close(): void;
}

export interface NativeModel {
  open(prompt: readonly number[] | Int32Array, options: NativeSessionOptions): NativeSession;
  /** chunk: rows a step, 1..64; the result does not depend on it. */
  score(ids: readonly number[] | Int32Array, topK: number, chunk: number): Promise<NativeScored>;
  draft(ids: readonly number[] | Int32Array, topK: number): Promise<NativeTopRows>;
  close(): void;
}

/** A slice of pro-synthetic, as core/synthetic.h makes it. */
export interface NativeSynthetic {
  /** Unsigned 64-bit, decimal. */
  readonly seed: string;
  readonly layers: number;
  readonly fp8Experts: boolean;
  readonly rank: number;
  readonly ranks: number;
  readonly maxContext: number;
  readonly activations: Activations;
}

/** The GPU as the CUDA runtime finds it; versions are 1000 * major + 10 * minor, memory in bytes. */
export interface GpuReport {
  /** Why nothing can run here; empty when something can. */
  readonly lack: string;
  readonly name: string;
  readonly capability: string;
  readonly driverCuda: number;
  readonly runtimeCuda: number;
  readonly memory: number;
  readonly freeMemory: number;
}

/** What the addon with the CUDA engines has besides. */
export interface CudaAddon extends Addon {
  gpu(): GpuReport;
  loadReference(checkpoint: NativeCheckpoint): Promise<NativeModel>;
  loadSyntheticReference(synthetic: NativeSynthetic): Promise<NativeModel>;
  /** The stack: rounds are decided on the GPU. Experts in MXFP4 or FP8. */
  loadStack(checkpoint: NativeCheckpoint): Promise<NativeModel>;
  loadSyntheticStack(synthetic: NativeSynthetic): Promise<NativeModel>;
  loadStackToy(toy: NativeToy): Promise<NativeModel>;
}

export interface Addon {
  load(checkpoint: NativeCheckpoint): Promise<NativeModel>;
  loadToy(toy: NativeToy): Promise<NativeModel>;
  instructionSets(): string[];
  /** Only in a build with KILOTOKEN_DEFECTS: the mistakes a session can be opened with. */
  defects?(): { id: string; title: string }[];
  /** Likewise: the mistakes a checkpoint can be loaded with. `target`: in the target, which plain decoding shares; else in the draft. */
  networkDefects?(): { id: string; title: string; target: boolean }[];
}

const loaded = new Map<string, Addon>();
const digests = new Map<string, Promise<string>>();

function built(places: readonly string[], make: string, lack = 'the native addon is not built'): string {
  const found = places
    .flatMap((place) => [`../${place}`, `../../${place}`])
    .map((place) => fileURLToPath(new URL(place, import.meta.url)))
    .find(existsSync);
  if (found === undefined) throw new EnvironmentError(`${lack}; run \`${make}\``);
  return found;
}

/** Path of the compiled addon, whether this file runs from native/ or from dist/native/. Throws EnvironmentError. */
export function addonFile(): string {
  return built(['build/Release/kilotoken.node'], 'npm run setup');
}

/** Path of the addon with the CUDA engines. Throws EnvironmentError. */
export function cudaAddonFile(): string {
  return built(
    ['build/Release/kilotoken_cuda.node'],
    'npm run setup',
    'the CUDA engines are not built (that needs nvcc)',
  );
}

/** Path of the addon with known mistakes compiled in, for testing tests. Throws EnvironmentError. */
export function defectsAddonFile(): string {
  const make = 'cmake -S . -B build/defects -DKILOTOKEN_DEFECTS=ON && cmake --build build/defects';
  return built(['build/defects/Release/kilotoken.node'], make);
}

/** Throws EnvironmentError if the addon is missing or does not load. */
export function addon(file: string = addonFile()): Addon {
  const known = loaded.get(file);
  if (known !== undefined) return known;
  try {
    const made = createRequire(import.meta.url)(file) as Addon;
    loaded.set(file, made);
    return made;
  } catch (error) {
    const reason = (error as Error).message.split('\n')[0];
    throw new EnvironmentError(`the native addon does not load (${reason}); run \`npm run setup\``);
  }
}

/** `sha256:<hex>` of the compiled addon. */
export function addonDigest(file: string = addonFile()): Promise<string> {
  const known = digests.get(file);
  if (known !== undefined) return known;
  const made = readFile(file).then((build) => `sha256:${createHash('sha256').update(build).digest('hex')}`);
  digests.set(file, made);
  return made;
}

/** Runs `call`; a fault of the addon leaves as InputError, EnvironmentError, LogitsError or DeviceError. */
export async function callAddon<T>(call: () => T | Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    if (code === 'KILOTOKEN_INPUT') throw new InputError(message);
    if (code === 'KILOTOKEN_ENVIRONMENT') throw new EnvironmentError(message);
    if (code === 'KILOTOKEN_LOGITS') throw new LogitsError(message);
    if (code === 'KILOTOKEN_DEVICE') throw new DeviceError(message);
    throw error;
  }
}
