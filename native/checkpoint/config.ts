/**
 * config.json of the MiMo-V2 family (V2-Flash, V2.5, V2.5-Pro and its FP4 form): parsed, defaults resolved, and everything this
 * engine does not implement refused by name instead of being computed wrongly. The result is one plan per layer.
 * Source: the published configs; per-layer fields as in XiaomiMiMo/MiMo-V2-Flash (swa_* fields fall back to the global ones).
 */
import { z } from 'zod';
import { InputError, quote } from '../errors.ts';
import type { AttentionPlan, LayerPlan } from './types.ts';

const ARCHITECTURES = ['MiMoV2ForCausalLM', 'MiMoV2FlashForCausalLM'];

const size = (max: number) => z.number().int().positive().max(max);
const optional = <T extends z.ZodType>(schema: T) => schema.nullish();
const flags = z.array(z.literal([0, 1]));
const positive = z.number().positive().max(1e30);
const tokenId = z.number().int().nonnegative();
const tokenIds = z.union([tokenId, z.array(tokenId)], { error: 'expected a token id or a list of them' });

const heads = size(65536);
const width = size(1 << 22);

const rope = z.looseObject({
  rope_theta: optional(positive),
  partial_rotary_factor: optional(z.number().positive().max(1)),
  rope_type: optional(z.string()),
  type: optional(z.string()),
});

const schema = z.looseObject({
  architectures: z.array(z.string()).min(1),
  hidden_size: width,
  num_hidden_layers: size(4096),
  vocab_size: size(1 << 24),
  tie_word_embeddings: optional(z.boolean()),
  max_position_embeddings: size(1 << 30),
  hidden_act: optional(z.string()),
  attention_bias: optional(z.boolean()),
  layernorm_epsilon: optional(z.number().nonnegative().max(1)),
  rms_norm_eps: optional(z.number().nonnegative().max(1)),

  num_attention_heads: heads,
  num_key_value_heads: heads,
  head_dim: size(65536),
  v_head_dim: optional(size(65536)),
  swa_num_attention_heads: optional(heads),
  swa_num_key_value_heads: optional(heads),
  swa_head_dim: optional(size(65536)),
  swa_v_head_dim: optional(size(65536)),
  partial_rotary_factor: optional(z.number().positive().max(1)),
  rope_theta: optional(positive),
  swa_rope_theta: optional(positive),
  rope_scaling: optional(rope),
  rope_parameters: optional(z.looseObject({ full_attention: optional(rope), sliding_attention: optional(rope) })),
  sliding_window: optional(size(1 << 30)),
  sliding_window_size: optional(size(1 << 30)),
  add_swa_attention_sink_bias: optional(z.boolean()),
  add_full_attention_sink_bias: optional(z.boolean()),
  attention_value_scale: optional(z.number().max(1e6).min(-1e6)),
  attention_projection_layout: optional(z.string()),
  hybrid_layer_pattern: optional(flags),
  layer_types: optional(z.array(z.enum(['full_attention', 'sliding_attention']))),

  intermediate_size: optional(width),
  moe_intermediate_size: optional(width),
  moe_layer_freq: optional(flags),
  mlp_layer_types: optional(z.array(z.enum(['dense', 'sparse']))),
  n_routed_experts: optional(z.number().int().nonnegative().max(65536)),
  num_experts_per_tok: optional(size(65536)),
  n_shared_experts: optional(z.number().int().nonnegative()),
  n_group: optional(z.number().int()),
  topk_group: optional(z.number().int()),
  scoring_func: optional(z.string()),
  topk_method: optional(z.string()),
  norm_topk_prob: optional(z.boolean()),
  routed_scaling_factor: optional(z.number().positive().max(1e6)),

  eos_token_id: optional(tokenIds),
  quantization_config: optional(
    z.looseObject({
      quant_method: optional(z.string()),
      fmt: optional(z.string()),
      activation_scheme: optional(z.string()),
      weight_block_size: optional(z.array(z.number())),
      store_dtype: optional(z.string()),
      mxfp4_block_size: optional(z.number()),
    }),
  ),
});

type RawConfig = z.infer<typeof schema>;

export interface ModelConfig {
  readonly architecture: string;
  readonly hidden: number;
  readonly vocab: number;
  readonly tied: boolean;
  readonly eps: number;
  readonly valueScale: number;
  readonly experts: number;
  readonly topK: number;
  readonly normTopK: boolean;
  readonly routedScale: number;
  readonly maxContext: number;
  readonly activationsDefault: 'fp8' | 'bf16';
  readonly eosIds: readonly number[];
  readonly layers: readonly LayerPlan[];
}

/** Parses with a zod schema; the first problem becomes one line, `config.json: field: what was expected`. */
export function parseWith<T extends z.ZodType>(schema: T, json: unknown, label: string): z.infer<T> {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const field = issue.path.length > 0 ? `${issue.path.join('.')}: ` : '';
  throw new InputError(`${label}: ${field}${issue.message.replaceAll(/\s+/g, ' ')}`);
}

/** Checks that `value` is absent or one of the implemented ones. */
export function only<T>(label: string, field: string, value: T | null | undefined, ...implemented: readonly T[]): void {
  if (value === null || value === undefined || implemented.includes(value)) return;
  const names = implemented.map((item) => JSON.stringify(item)).join(' or ');
  throw new InputError(`${label}: ${field} is ${quote(String(value))}; only ${names} is supported`);
}

/** int(headDim * factor), as the published code has it; must be even to be rotated in halves. */
export function rotaryDimOf(headDim: number, factor: number, label: string): number {
  const dim = Math.trunc(headDim * factor);
  if (dim % 2 !== 0)
    throw new InputError(
      `${label}: partial_rotary_factor ${factor} of head_dim ${headDim} rotates ${dim} dimensions, an odd number`,
    );
  return dim;
}

export function parseConfig(json: unknown, label = 'config.json'): ModelConfig {
  refuseOtherArchitectures(json, label);
  const raw = parseWith(schema, json, label);
  refuseUnsupported(raw, label);

  const sliding = slidingPattern(raw, label);
  const sparse = sparsePattern(raw, label);
  const experts = raw.n_routed_experts ?? 0;
  if (sparse.includes(true)) checkExperts(raw, label);
  const usesExperts = sparse.includes(true);

  const kinds = {
    global: attentionPlan(raw, 'global', label),
    sliding: sliding.includes(true) ? attentionPlan(raw, 'sliding', label) : null,
  };
  const layers = sliding.map((isSliding, i): LayerPlan => {
    const kind = sparse[i] ? 'moe' : 'dense';
    const ffnWidth = sparse[i] ? raw.moe_intermediate_size : raw.intermediate_size;
    if (!ffnWidth)
      throw new InputError(`${label}: ${sparse[i] ? 'moe_intermediate_size' : 'intermediate_size'} is missing`);
    return { attention: isSliding ? kinds.sliding! : kinds.global, ffn: { kind, width: ffnWidth } };
  });

  return {
    architecture: raw.architectures[0]!,
    hidden: raw.hidden_size,
    vocab: raw.vocab_size,
    tied: raw.tie_word_embeddings ?? false,
    eps: epsilon(raw, label),
    valueScale: raw.attention_value_scale ?? 1,
    experts: usesExperts ? experts : 0,
    topK: usesExperts ? raw.num_experts_per_tok! : 0,
    normTopK: raw.norm_topk_prob ?? true,
    routedScale: raw.routed_scaling_factor ?? 1,
    maxContext: raw.max_position_embeddings,
    activationsDefault: raw.quantization_config?.activation_scheme === 'dynamic' ? 'fp8' : 'bf16',
    eosIds: eosIdsOf(raw.eos_token_id, raw.vocab_size, label),
    layers,
  };
}

/** Named first, so that a config of another family gets the one message that helps. */
function refuseOtherArchitectures(json: unknown, label: string): void {
  const listed = z.looseObject({ architectures: z.array(z.string()).min(1) }).safeParse(json);
  if (!listed.success) throw new InputError(`${label}: no list of architectures`);
  const [name] = listed.data.architectures;
  if (!ARCHITECTURES.includes(name!)) {
    if (name === 'DFlashDraftModel')
      throw new InputError(`${label}: this is a draft; name the folder of its target, which holds it as dflash/`);
    throw new InputError(
      `${label}: architecture ${quote(name!)} is not supported; this engine reads ${ARCHITECTURES.join(' and ')}`,
    );
  }
}

function refuseUnsupported(raw: RawConfig, label: string): void {
  only(label, 'hidden_act', raw.hidden_act, 'silu');
  only(label, 'attention_bias', raw.attention_bias, false);
  only(label, 'n_group', raw.n_group, 1);
  only(label, 'topk_group', raw.topk_group, 1);
  only(label, 'n_shared_experts', raw.n_shared_experts, 0);
  only(label, 'scoring_func', raw.scoring_func, 'sigmoid');
  only(label, 'topk_method', raw.topk_method, 'noaux_tc');
  only(label, 'attention_projection_layout', raw.attention_projection_layout, 'fused_qkv', 'split');
  const scaling = raw.rope_scaling;
  only(label, 'rope_scaling', scaling && (scaling.rope_type ?? scaling.type ?? 'unnamed'), 'default');
  for (const kind of ['full_attention', 'sliding_attention'] as const) {
    only(label, `rope_parameters.${kind}`, raw.rope_parameters?.[kind]?.rope_type, 'default');
  }
  const quantization = raw.quantization_config;
  only(label, 'quantization_config.quant_method', quantization?.quant_method, 'fp8');
  only(label, 'quantization_config.fmt', quantization?.fmt, 'e4m3');
  only(label, 'quantization_config.activation_scheme', quantization?.activation_scheme, 'dynamic');
  only(label, 'quantization_config.weight_block_size', quantization?.weight_block_size?.join('x'), '128x128');
  only(label, 'quantization_config.store_dtype', quantization?.store_dtype, 'mxfp4');
  only(label, 'quantization_config.mxfp4_block_size', quantization?.mxfp4_block_size, 32);
}

function perLayer(list: readonly unknown[], field: string, raw: RawConfig, label: string): void {
  if (list.length !== raw.num_hidden_layers) {
    throw new InputError(`${label}: ${field} has ${list.length} entries for ${raw.num_hidden_layers} layers`);
  }
}

function slidingPattern(raw: RawConfig, label: string): boolean[] {
  const { hybrid_layer_pattern: pattern, layer_types: types, num_hidden_layers: count } = raw;
  if (pattern) perLayer(pattern, 'hybrid_layer_pattern', raw, label);
  if (types) perLayer(types, 'layer_types', raw, label);
  const fromPattern = pattern?.map((flag) => flag === 1);
  const fromTypes = types?.map((type) => type === 'sliding_attention');
  if (fromPattern && fromTypes && fromPattern.some((flag, i) => flag !== fromTypes[i])) {
    throw new InputError(`${label}: hybrid_layer_pattern and layer_types disagree`);
  }
  return fromPattern ?? fromTypes ?? new Array<boolean>(count).fill(false);
}

/** True where the layer is a mixture of experts; without a list, all but the first layer. */
function sparsePattern(raw: RawConfig, label: string): boolean[] {
  if (raw.moe_layer_freq) {
    perLayer(raw.moe_layer_freq, 'moe_layer_freq', raw, label);
    return raw.moe_layer_freq.map((flag) => flag === 1);
  }
  if (raw.mlp_layer_types) {
    perLayer(raw.mlp_layer_types, 'mlp_layer_types', raw, label);
    return raw.mlp_layer_types.map((type) => type === 'sparse');
  }
  return Array.from({ length: raw.num_hidden_layers }, (_, layer) => layer > 0);
}

function checkExperts(raw: RawConfig, label: string): void {
  const experts = raw.n_routed_experts ?? 0;
  const topK = raw.num_experts_per_tok ?? 0;
  if (experts === 0) throw new InputError(`${label}: n_routed_experts is missing`);
  if (topK === 0) throw new InputError(`${label}: num_experts_per_tok is missing`);
  if (topK > experts) throw new InputError(`${label}: num_experts_per_tok ${topK} exceeds n_routed_experts ${experts}`);
}

function attentionPlan(raw: RawConfig, kind: 'global' | 'sliding', label: string): AttentionPlan {
  const isSliding = kind === 'sliding';
  const pick = <T>(own: T | null | undefined, global: T): T => (isSliding ? (own ?? global) : global);
  const qHeads = pick(raw.swa_num_attention_heads, raw.num_attention_heads);
  const kvHeads = pick(raw.swa_num_key_value_heads, raw.num_key_value_heads);
  const headDim = pick(raw.swa_head_dim, raw.head_dim);
  const vHeadDim = pick(raw.swa_v_head_dim, raw.v_head_dim ?? headDim);
  if (qHeads % kvHeads !== 0) {
    throw new InputError(`${label}: ${qHeads} query heads cannot share ${kvHeads} key/value heads (${kind} layers)`);
  }
  const fusedGroups = raw.attention_projection_layout === 'fused_qkv' ? raw.num_key_value_heads : 0;
  if (fusedGroups > 0 && kvHeads % fusedGroups !== 0) {
    throw new InputError(
      `${label}: ${kvHeads} key/value heads of the ${kind} layers do not divide into ${fusedGroups} fused groups`,
    );
  }
  const perKind = raw.rope_parameters?.[isSliding ? 'sliding_attention' : 'full_attention'];
  const globalTheta = raw.rope_theta ?? raw.rope_parameters?.full_attention?.rope_theta;
  const theta = (isSliding ? (raw.swa_rope_theta ?? perKind?.rope_theta) : undefined) ?? globalTheta;
  if (!theta) throw new InputError(`${label}: rope_theta is missing`);
  const factor = raw.partial_rotary_factor ?? perKind?.partial_rotary_factor ?? 1;
  const window = isSliding ? (raw.sliding_window ?? raw.sliding_window_size) : 0;
  if (window === undefined || window === null) throw new InputError(`${label}: sliding_window is missing`);
  return {
    kind,
    qHeads,
    kvHeads,
    headDim,
    vHeadDim,
    rotaryDim: rotaryDimOf(headDim, factor, label),
    ropeTheta: theta,
    window,
    sink: (isSliding ? raw.add_swa_attention_sink_bias : raw.add_full_attention_sink_bias) ?? false,
    fusedGroups,
  };
}

function epsilon(raw: RawConfig, label: string): number {
  const { layernorm_epsilon: a, rms_norm_eps: b } = raw;
  if (a != null && b != null && a !== b)
    throw new InputError(`${label}: layernorm_epsilon ${a} and rms_norm_eps ${b} disagree`);
  const eps = a ?? b;
  if (eps == null) throw new InputError(`${label}: layernorm_epsilon is missing`);
  return eps;
}

export function eosIdsOf(value: number | number[] | null | undefined, vocab: number, label: string): number[] {
  const ids = value == null ? [] : Array.isArray(value) ? value : [value];
  for (const id of ids) {
    if (id >= vocab) throw new InputError(`${label}: eos_token_id ${id} is not below vocab_size ${vocab}`);
  }
  return [...new Set(ids)];
}

const generationSchema = z.looseObject({ eos_token_id: optional(tokenIds) });

/** eos ids of generation_config.json, or null if it names none. */
export function parseGenerationConfig(json: unknown, vocab: number, label: string): number[] | null {
  const { eos_token_id: value } = parseWith(generationSchema, json, label);
  return value == null ? null : eosIdsOf(value, vocab, label);
}
