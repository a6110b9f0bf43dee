/**
 * Writes random checkpoints of the family in the published on-disk layout, at sizes a test can afford: any storage format, fused or
 * separate qkv, ragged shapes, several shards, with or without a draft. The values are random, so they mean nothing; they are
 * scaled so that attention, routing and logits are far from flat and a wrong rule shows.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { encodeMxfp4, roundToBf16, toBf16, toE4m3 } from './formats.ts';
import { type TensorData, writeShards } from './write-safetensors.ts';
import { type MaskDType, writeMaskSidecar } from './write-torch.ts';

export type Storage = 'fp8' | 'mxfp4' | 'bf16' | 'f32';
export type Config = Record<string, unknown>;

export interface SyntheticSpec {
  readonly seed: number;
  /** Laid over BASE_CONFIG. A field set to undefined is left out of config.json. */
  readonly config?: Config;
  readonly experts?: Storage;
  /** qkv and dense FFN. */
  readonly linears?: Storage;
  readonly outputProjection?: Storage;
  readonly routerDType?: 'F32' | 'BF16';
  /** 1 writes a single file without an index. */
  readonly shards?: number;
  /** Overrides of BASE_DRAFT_CONFIG, or false for no draft. */
  readonly draft?: Config | false;
  readonly maskDType?: MaskDType;
}

/** Small and ragged: no width is a multiple of 128; windows and groups are crossed within a few tokens. */
export const BASE_CONFIG: Config = {
  architectures: ['MiMoV2ForCausalLM'],
  model_type: 'mimo_v2',
  hidden_size: 160,
  num_hidden_layers: 4,
  vocab_size: 203,
  tie_word_embeddings: false,
  max_position_embeddings: 96,
  hidden_act: 'silu',
  attention_bias: false,
  layernorm_epsilon: 1e-5,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 48,
  v_head_dim: 32,
  swa_num_attention_heads: 4,
  swa_num_key_value_heads: 2,
  swa_head_dim: 48,
  swa_v_head_dim: 32,
  partial_rotary_factor: 0.334,
  rope_theta: 10000000,
  swa_rope_theta: 10000,
  sliding_window: 5,
  add_swa_attention_sink_bias: true,
  add_full_attention_sink_bias: false,
  attention_value_scale: 0.612,
  attention_projection_layout: 'fused_qkv',
  hybrid_layer_pattern: [0, 1, 1, 0],
  intermediate_size: 224,
  moe_intermediate_size: 96,
  n_routed_experts: 8,
  num_experts_per_tok: 3,
  n_shared_experts: null,
  n_group: 1,
  topk_group: 1,
  scoring_func: 'sigmoid',
  topk_method: 'noaux_tc',
  norm_topk_prob: true,
  routed_scaling_factor: null,
  moe_layer_freq: [0, 1, 1, 1],
  eos_token_id: 200,
  pad_token_id: 199,
  quantization_config: {
    quant_method: 'fp8',
    fmt: 'e4m3',
    activation_scheme: 'dynamic',
    weight_block_size: [128, 128],
  },
};

export const BASE_DRAFT_CONFIG: Config = {
  architectures: ['DFlashDraftModel'],
  model_type: 'qwen3',
  hidden_size: 160,
  intermediate_size: 192,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  v_head_dim: 24,
  partial_rotary_factor: 0.5,
  block_size: 8,
  dflash_config: {
    target_layer_ids: [0, 2, 3],
    mask_token_id: 202,
    block_size: 8,
    use_swa: true,
    swa_window_size: 12,
    attention_value_scale: 0.612,
    attention_sink_bias: true,
  },
  num_target_layers: 4,
  vocab_size: 192,
  max_position_embeddings: 96,
  rope_theta: 10000,
  sliding_window: 12,
  rms_norm_eps: 1e-5,
  hidden_act: 'silu',
  attention_bias: false,
};

/** V2-Flash's shape in small: separate q, k, v; more key/value heads on sliding layers; nothing quantised; single file. */
export const FLASH_STYLE: Omit<SyntheticSpec, 'seed'> = {
  config: {
    architectures: ['MiMoV2FlashForCausalLM'],
    model_type: 'mimo_v2_flash',
    attention_projection_layout: undefined,
    swa_num_key_value_heads: 4,
    attention_value_scale: 0.7,
    rope_theta: 5000000,
    quantization_config: undefined,
  },
  experts: 'bf16',
  linears: 'bf16',
  shards: 1,
  draft: false,
};

/**
 * Nine tokens only: a random draft then agrees with a random target often enough that rounds accept several tokens.
 * Use temperatures above 1.
 */
export const TINY_VOCABULARY: Omit<SyntheticSpec, 'seed'> = {
  config: { vocab_size: 9, eos_token_id: 6, pad_token_id: 7 },
  draft: { dflash_config: { ...(BASE_DRAFT_CONFIG.dflash_config as Config), mask_token_id: 8 } },
};

/** Uniform and normal numbers from a 32-bit seed (Marsaglia's xorshift; enough for weights). */
class Noise {
  private state: number;

  constructor(seed: number) {
    this.state = (Math.imul(seed + 1, 0x9e3779b1) ^ 0x5bd1e995) >>> 0 || 1;
    for (let i = 0; i < 8; i++) this.uniform();
  }

  uniform(): number {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.state = x >>> 0;
    return (this.state - 0.5) / 2 ** 32;
  }

  normal(): number {
    return Math.sqrt(-2 * Math.log(this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  normals(count: number, deviation: number, mean = 0): Float64Array {
    return Float64Array.from({ length: count }, () => mean + deviation * this.normal());
  }
}

class TensorWriter {
  readonly tensors: TensorData[] = [];
  private readonly noise: Noise;

  constructor(seed: number) {
    this.noise = new Noise(seed);
  }

  plain(name: string, shape: readonly number[], values: Float64Array, dtype: 'BF16' | 'F32' = 'BF16'): void {
    const data = Buffer.alloc(values.length * (dtype === 'BF16' ? 2 : 4));
    values.forEach((value, i) => {
      if (dtype === 'BF16') data.writeUInt16LE(toBf16(value), 2 * i);
      else data.writeFloatLE(value, 4 * i);
    });
    this.tensors.push({ name, dtype, shape, data });
  }

  norm(name: string, size: number): void {
    this.plain(name, [size], this.noise.normals(size, 0.1, 1));
  }

  vector(name: string, size: number, deviation: number, dtype: 'BF16' | 'F32' = 'BF16'): void {
    this.plain(name, [size], this.noise.normals(size, deviation), dtype);
  }

  matrix(name: string, rows: number, cols: number, gain: number, dtype: 'BF16' | 'F32' = 'BF16'): void {
    this.plain(name, [rows, cols], this.noise.normals(rows * cols, gain / Math.sqrt(cols)), dtype);
  }

  /** @param groups equal groups of rows, each with its own FP8 scale rows */
  linear(name: string, rows: number, cols: number, storage: Storage, groups = 1): void {
    if (storage === 'bf16' || storage === 'f32') {
      this.matrix(`${name}.weight`, rows, cols, 1.2, storage === 'bf16' ? 'BF16' : 'F32');
      return;
    }
    // Cells of 64x64 differ in size, so that using a neighbour's scale is a visible mistake.
    const values = this.noise.normals(rows * cols, 1.2 / Math.sqrt(cols));
    for (let i = 0; i < values.length; i++) {
      const cell = 3 * Math.floor(i / cols / 64) + Math.floor((i % cols) / 64);
      values[i]! *= 2 ** ((cell % 4) - 2);
    }
    if (storage === 'fp8') this.fp8(name, rows, cols, values, groups);
    else this.mxfp4(name, rows, cols, values);
  }

  private fp8(name: string, rows: number, cols: number, values: Float64Array, groups: number): void {
    const groupRows = rows / groups;
    const scaleCols = Math.ceil(cols / 128);
    const groupScaleRows = Math.ceil(groupRows / 128);
    const scaleOf = (r: number, c: number) =>
      (Math.floor(r / groupRows) * groupScaleRows + Math.floor((r % groupRows) / 128)) * scaleCols +
      Math.floor(c / 128);
    const scales = new Float64Array(groups * groupScaleRows * scaleCols);
    values.forEach((value, i) => {
      const s = scaleOf(Math.floor(i / cols), i % cols);
      scales[s] = Math.max(scales[s]!, Math.abs(value));
    });
    scales.forEach((amax, s) => {
      scales[s] = Math.fround(amax === 0 ? 1 : amax / 448);
    });
    const codes = Uint8Array.from(values, (value, i) =>
      toE4m3(value / scales[scaleOf(Math.floor(i / cols), i % cols)]!),
    );
    this.tensors.push({ name: `${name}.weight`, dtype: 'F8_E4M3', shape: [rows, cols], data: codes });
    this.plain(`${name}.weight_scale_inv`, [groups * groupScaleRows, scaleCols], scales, 'F32');
  }

  private mxfp4(name: string, rows: number, cols: number, values: Float64Array): void {
    const packed = new Uint8Array((rows * cols) / 2);
    const scales = new Uint8Array((rows * cols) / 32);
    for (let b = 0; b < scales.length; b++) {
      scales[b] = encodeMxfp4(values.subarray(b * 32, b * 32 + 32), packed.subarray(b * 16, b * 16 + 16));
    }
    this.tensors.push({ name: `${name}.weight`, dtype: 'U8', shape: [rows, cols / 2], data: packed });
    this.tensors.push({ name: `${name}.weight_scale`, dtype: 'U8', shape: [rows, cols / 32], data: scales });
  }
}

/** config.json as it is written: overrides applied, undefined fields dropped. */
export function mergedConfig(base: Config, overrides: Config = {}): Config {
  return JSON.parse(JSON.stringify({ ...base, ...overrides })) as Config;
}

/** Numbers of a config, with the fallbacks of the published code. */
function reader(config: Config) {
  return (name: string, fallback?: string): number => {
    const value = config[name] ?? (fallback === undefined ? undefined : config[fallback]);
    if (typeof value !== 'number') throw new TypeError(`synthetic config: ${name}`);
    return value;
  };
}

/** Writes config.json, shards and the optional dflash/ folder into `directory`, which is created. */
export async function writeSyntheticCheckpoint(directory: string, spec: SyntheticSpec): Promise<void> {
  const config = mergedConfig(BASE_CONFIG, spec.config);
  await mkdir(directory, { recursive: true });
  await writeFile(path.join(directory, 'config.json'), JSON.stringify(config, null, 2));
  await writeShards(directory, targetTensors(config, spec), spec.shards ?? 3);
  if (spec.draft !== false) await writeDraft(path.join(directory, 'dflash'), config, spec);
}

function targetTensors(config: Config, spec: SyntheticSpec): TensorData[] {
  const out = new TensorWriter(spec.seed);
  const get = reader(config);
  const { experts = 'fp8', linears = 'fp8', outputProjection = 'bf16', routerDType = 'F32' } = spec;
  const hidden = get('hidden_size');
  const layers = get('num_hidden_layers');
  const pattern =
    (config.hybrid_layer_pattern as number[] | undefined) ??
    (config.layer_types as string[] | undefined)?.map((type) => (type === 'sliding_attention' ? 1 : 0)) ??
    new Array<number>(layers).fill(0);
  const sparse =
    (config.moe_layer_freq as number[] | undefined) ?? Array.from({ length: layers }, (_, i) => (i > 0 ? 1 : 0));

  out.matrix('model.embed_tokens.weight', get('vocab_size'), hidden, Math.sqrt(hidden));
  if (config.tie_word_embeddings !== true) out.matrix('lm_head.weight', get('vocab_size'), hidden, 3);
  out.norm('model.norm.weight', hidden);
  for (let i = 0; i < layers; i++) {
    const base = `model.layers.${i}`;
    const swa = pattern[i] === 1 ? 'swa_' : '';
    const qHeads = get(`${swa}num_attention_heads`, 'num_attention_heads');
    const kvHeads = get(`${swa}num_key_value_heads`, 'num_key_value_heads');
    const headDim = get(`${swa}head_dim`, 'head_dim');
    const vHeadDim = get(`${swa}v_head_dim`, 'v_head_dim');
    out.norm(`${base}.input_layernorm.weight`, hidden);
    out.norm(`${base}.post_attention_layernorm.weight`, hidden);
    if (config.attention_projection_layout === 'fused_qkv') {
      const rows = (qHeads + kvHeads) * headDim + kvHeads * vHeadDim;
      out.linear(`${base}.self_attn.qkv_proj`, rows, hidden, linears, get('num_key_value_heads'));
    } else {
      out.linear(`${base}.self_attn.q_proj`, qHeads * headDim, hidden, linears);
      out.linear(`${base}.self_attn.k_proj`, kvHeads * headDim, hidden, linears);
      out.linear(`${base}.self_attn.v_proj`, kvHeads * vHeadDim, hidden, linears);
    }
    out.linear(`${base}.self_attn.o_proj`, hidden, qHeads * vHeadDim, outputProjection);
    const sink = config[pattern[i] === 1 ? 'add_swa_attention_sink_bias' : 'add_full_attention_sink_bias'];
    if (sink === true) out.vector(`${base}.self_attn.attention_sink_bias`, qHeads, 1.5);
    if (sparse[i] === 1) {
      const width = get('moe_intermediate_size');
      out.matrix(`${base}.mlp.gate.weight`, get('n_routed_experts'), hidden, 2, routerDType);
      out.vector(`${base}.mlp.gate.e_score_correction_bias`, get('n_routed_experts'), 0.3, routerDType);
      for (let e = 0; e < get('n_routed_experts'); e++) {
        ffn(out, `${base}.mlp.experts.${e}`, hidden, width, experts);
      }
    } else {
      ffn(out, `${base}.mlp`, hidden, get('intermediate_size'), linears);
    }
  }
  return out.tensors;
}

function ffn(out: TensorWriter, base: string, hidden: number, width: number, storage: Storage): void {
  out.linear(`${base}.gate_proj`, width, hidden, storage);
  out.linear(`${base}.up_proj`, width, hidden, storage);
  out.linear(`${base}.down_proj`, hidden, width, storage);
}

async function writeDraft(directory: string, target: Config, spec: SyntheticSpec): Promise<void> {
  const config = mergedConfig(
    { ...BASE_DRAFT_CONFIG, hidden_size: target.hidden_size },
    spec.draft === false ? {} : spec.draft,
  );
  const get = reader(config);
  const dflash = config.dflash_config as {
    target_layer_ids: number[];
    mask_token_id: number;
    attention_sink_bias?: boolean;
  };
  const hidden = get('hidden_size');
  const [qHeads, kvHeads] = [get('num_attention_heads'), get('num_key_value_heads')];
  const [headDim, vHeadDim] = [get('head_dim'), get('v_head_dim', 'head_dim')];
  const width = get('intermediate_size');

  const out = new TensorWriter(spec.seed + 7919);
  out.matrix('fc.weight', hidden, hidden * dflash.target_layer_ids.length, 1);
  out.norm('hidden_norm.weight', hidden);
  out.norm('norm.weight', hidden);
  for (let i = 0; i < get('num_hidden_layers'); i++) {
    const base = `layers.${i}`;
    out.norm(`${base}.input_layernorm.weight`, hidden);
    out.norm(`${base}.post_attention_layernorm.weight`, hidden);
    out.matrix(`${base}.self_attn.q_proj.weight`, qHeads * headDim, hidden, 1);
    out.matrix(`${base}.self_attn.k_proj.weight`, kvHeads * headDim, hidden, 1);
    out.matrix(`${base}.self_attn.v_proj.weight`, kvHeads * vHeadDim, hidden, 1);
    out.matrix(`${base}.self_attn.o_proj.weight`, hidden, qHeads * vHeadDim, 1);
    out.norm(`${base}.self_attn.q_norm.weight`, headDim);
    out.norm(`${base}.self_attn.k_norm.weight`, headDim);
    if (dflash.attention_sink_bias === true) out.vector(`${base}.self_attn.attention_sink_bias`, qHeads, 1.5);
    out.matrix(`${base}.mlp.gate_proj.weight`, width, hidden, 1.2);
    out.matrix(`${base}.mlp.up_proj.weight`, width, hidden, 1.2);
    out.matrix(`${base}.mlp.down_proj.weight`, hidden, width, 1.2);
  }
  await mkdir(directory, { recursive: true });
  await writeFile(path.join(directory, 'config.json'), JSON.stringify(config, null, 2));
  await writeShards(directory, out.tensors, 2, 'dflash_draft_model');
  const embedding = new Noise(spec.seed + 104729).normals(hidden, 1).map(roundToBf16);
  await writeMaskSidecar(
    path.join(directory, 'mask_embedding.pt'),
    dflash.mask_token_id,
    embedding,
    spec.maskDType ?? 'BF16',
  );
}
