/**
 * Where a run's numbers come from: code, binaries, weights, software, hardware and their settings. Every field is there in every
 * manifest; one that could not be told is null with the reason, so that nothing is left out in silence. Commit, cards (rule, block,
 * numerics), seed, tokenizer and template stand in the manifest and its plan.
 * Field list: MLPerf Inference system descriptions, InferenceX result records, and what this project adds to them.
 */
import { z } from 'zod';

const Digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);
const Text = z.string().min(1);

/** A value, or null and why there is none. */
function known<T extends z.ZodType>(value: T) {
  return z.union([z.strictObject({ value }), z.strictObject({ value: z.null(), reason: Text })]);
}

export type Known<T> = { value: T } | { value: null; reason: string };

export function told<T>(value: T): { value: T } {
  return { value };
}

export function untold(reason: string): { value: null; reason: string } {
  return { value: null, reason };
}

/** `value`, or the reason when it is null. */
export function knownOr<T>(value: T | null, reason: string): Known<T> {
  return value === null ? untold(reason) : told(value);
}

export const FileDigest = z.strictObject({ name: Text, sha256: Digest, bytes: z.int().nonnegative() });

export const GpuState = z.strictObject({
  index: z.int().nonnegative(),
  name: Text,
  /** sha256 of the UUID: the same card can be recognised, its number is not published. */
  uuidDigest: known(Digest),
  memoryMiB: known(z.number().positive()),
  vbios: known(Text),
  /** Current mode. */
  ecc: known(z.boolean()),
  mig: known(z.boolean()),
  persistence: known(z.boolean()),
  powerCapW: known(z.number().positive()),
  defaultPowerCapW: known(z.number().positive()),
  /** Set by `nvidia-smi -ac`; what a lock holds. */
  applicationClocksMhz: known(z.strictObject({ sm: z.number(), memory: z.number() })),
  maxClocksMhz: known(z.strictObject({ sm: z.number(), memory: z.number() })),
  pcie: known(Text),
});

export const Provenance = z.strictObject({
  /** Who ran it, in which category, and whether the system can be had. */
  submitter: known(Text),
  category: known(Text),
  availability: known(Text),

  code: z.strictObject({
    container: known(Digest),
    /** Executables and libraries of the engines as loaded. */
    binaries: known(z.array(FileDigest).min(1)),
    /** Device code of the engines. */
    kernels: known(z.array(FileDigest).min(1)),
  }),

  model: z.strictObject({
    /** Repository and revision the weights came from. */
    revision: known(Text),
    weightsDigest: known(Digest),
    draftDigest: known(Digest),
    /** Of the two digests together, in canonical form: a target refreshed without its draft has another. */
    pairDigest: known(Digest),
    /** Bytes of weights a plain decode step reads at least (the active ones), for the ceiling that memory bandwidth sets. */
    activeWeightBytes: known(z.number().positive()),
    /** Which modules are held in which format. */
    formats: known(Text),
    kvFormat: known(Text),
    thinking: known(Text),
    language: known(Text),
  }),

  decoding: z.strictObject({
    randomNumbers: known(Text),
    /** Where the parameters stand as the engines echoed them. */
    echoed: known(Text),
    /** How prompts are made unique against caches. */
    nonce: known(Text),
  }),

  system: z.strictObject({
    name: known(Text),
    nodes: known(z.int().positive()),
    cpu: known(Text),
    sockets: known(z.int().positive()),
    cores: known(z.int().positive()),
    caches: known(Text),
    /** As the system has it while the run goes on: governor and current frequency. */
    cpuClocks: known(Text),
    memoryGiB: known(z.number().positive()),
    memoryConfiguration: known(Text),
    storage: known(Text),
    network: known(Text),
    cooling: known(Text),
    gpus: known(z.array(GpuState).min(1)),
    /** How the GPUs are joined, as the driver's matrix says. */
    topology: known(Text),
    /** Rate of a GPU's memory in bytes per second, where the model is known. */
    gpuMemoryBandwidth: known(z.number().positive()),
  }),

  software: z.strictObject({
    os: known(Text),
    node: known(Text),
    compiler: known(Text),
    driver: known(Text),
    cuda: known(Text),
    nccl: known(Text),
    cublas: known(Text),
    cudnn: known(Text),
    framework: known(Text),
  }),

  /** Variables of the allow-list; null where one is not set. */
  environment: z.record(z.string(), z.string().nullable()),
  /** Readings per second and sensor that were asked for. */
  telemetryHz: known(z.number().positive()),
  notes: z.array(z.string()),
});

export type FileDigest = z.infer<typeof FileDigest>;
export type GpuState = z.infer<typeof GpuState>;
export type Provenance = z.infer<typeof Provenance>;

/** Variables that change what is measured. No other variable is read or written down. */
export const ENVIRONMENT_ALLOWED = [
  'CUDA_VISIBLE_DEVICES',
  'CUDA_LAUNCH_BLOCKING',
  'CUDA_DEVICE_MAX_CONNECTIONS',
  'GOMP_CPU_AFFINITY',
  'KILOTOKEN_DEFECT',
  'KILOTOKEN_THREADS',
  'MALLOC_ARENA_MAX',
  'NCCL_ALGO',
  'NCCL_NVLS_ENABLE',
  'NCCL_P2P_DISABLE',
  'NCCL_PROTO',
  'NODE_OPTIONS',
  'NVIDIA_TF32_OVERRIDE',
  'OMP_NUM_THREADS',
  'OMP_PROC_BIND',
  'SGLANG_SIMULATE_ACC_LEN',
  'SGLANG_SIMULATE_ACC_METHOD',
  'SGLANG_SIMULATE_ACC_TOKEN_MODE',
  'TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS',
  'UV_THREADPOOL_SIZE',
  'VLLM_BATCH_INVARIANT',
] as const;

/** A provenance in which nothing but the digests of the engines is told: for scripted engines and for plug-ins. */
export function untoldProvenance(reason: string): Provenance {
  const no = untold(reason);
  return {
    submitter: no,
    category: no,
    availability: no,
    code: { container: no, binaries: no, kernels: no },
    model: {
      revision: no,
      weightsDigest: no,
      draftDigest: no,
      pairDigest: no,
      activeWeightBytes: no,
      formats: no,
      kvFormat: no,
      thinking: no,
      language: no,
    },
    decoding: {
      randomNumbers: no,
      echoed: no,
      nonce: no,
    },
    system: {
      name: no,
      nodes: no,
      cpu: no,
      sockets: no,
      cores: no,
      caches: no,
      cpuClocks: no,
      memoryGiB: no,
      memoryConfiguration: no,
      storage: no,
      network: no,
      cooling: no,
      gpus: no,
      topology: no,
      gpuMemoryBandwidth: no,
    },
    software: {
      os: no,
      node: no,
      compiler: no,
      driver: no,
      cuda: no,
      nccl: no,
      cublas: no,
      cudnn: no,
      framework: no,
    },
    environment: {},
    telemetryHz: no,
    notes: [],
  };
}
