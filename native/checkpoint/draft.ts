/**
 * The dflash/ folder of a checkpoint: the draft's own config, its tensors and the mask sidecar. The draft shares the target's
 * embedding and head, so its hidden size must be the target's; its vocab_size field is not used by anyone and not checked.
 * Source: config.json and tensor names of the published MiMo-V2.5 DFlash drafts.
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { InputError, quote } from '../errors.ts';
import { type ModelConfig, only, parseWith, rotaryDimOf } from './config.ts';
import { parseJson, readWhole } from './files.ts';
import { LayoutCheck } from './layout.ts';
import { readShards } from './shards.ts';
import { readMaskSidecar } from './torch_pt.ts';
import type { DraftPlan } from './types.ts';

const MAX_CONFIG_BYTES = 16_000_000;

const count = (max: number) => z.number().int().positive().max(max);
const optional = <T extends z.ZodType>(schema: T) => schema.nullish();

const schema = z.looseObject({
  architectures: z.array(z.string()).min(1),
  hidden_size: count(1 << 22),
  intermediate_size: count(1 << 22),
  num_hidden_layers: count(4096),
  num_attention_heads: count(65536),
  num_key_value_heads: count(65536),
  head_dim: count(65536),
  v_head_dim: optional(count(65536)),
  partial_rotary_factor: optional(z.number().positive().max(1)),
  rope_theta: z.number().positive().max(1e30),
  rms_norm_eps: z.number().nonnegative().max(1),
  sliding_window: optional(count(1 << 30)),
  hidden_act: optional(z.string()),
  attention_bias: optional(z.boolean()),
  num_target_layers: optional(count(4096)),
  block_size: optional(count(1024)),
  dflash_config: z.looseObject({
    target_layer_ids: z.array(z.number().int().nonnegative()).min(1),
    mask_token_id: z.number().int().nonnegative(),
    block_size: optional(count(1024)),
    use_swa: optional(z.boolean()),
    swa_window_size: optional(count(1 << 30)),
    attention_value_scale: optional(z.number().max(1e6).min(-1e6)),
    attention_sink_bias: optional(z.boolean()),
  }),
});

export interface Draft {
  readonly plan: DraftPlan;
  /** Shards in index order, then the sidecar. */
  readonly files: readonly string[];
}

/** Reads `directory`/dflash, or null if there is no such folder. Throws InputError. */
export async function readDraft(directory: string, target: ModelConfig): Promise<Draft | null> {
  const folder = path.join(directory, 'dflash');
  const status = await stat(folder).catch(() => null);
  if (status === null) return null;
  if (!status.isDirectory()) throw new InputError(`${folder}: not a folder`);
  const configFile = path.join(folder, 'config.json');
  const json = parseJson(await readWhole(configFile, MAX_CONFIG_BYTES), configFile);
  const plan = parseDraftConfig(json, target, configFile);
  const shards = await readShards(folder);
  checkDraftLayout(plan, target.hidden, new LayoutCheck(shards.tensors, folder));

  const sidecarFile = path.join(folder, 'mask_embedding.pt');
  const sidecar = await readMaskSidecar(sidecarFile, target.hidden);
  if (sidecar.maskTokenId !== plan.maskTokenId) {
    throw new InputError(
      `${sidecarFile}: mask_token_id ${sidecar.maskTokenId}, but ${configFile} says ${plan.maskTokenId}`,
    );
  }
  return {
    plan: { ...plan, maskEmbedding: sidecar.embedding, tensors: shards.tensors },
    files: [...shards.files, sidecarFile],
  };
}

type DraftShape = Omit<DraftPlan, 'maskEmbedding' | 'tensors'>;

export function parseDraftConfig(json: unknown, target: ModelConfig, label: string): DraftShape {
  const raw = parseWith(schema, json, label);
  const dflash = raw.dflash_config;
  const [architecture] = raw.architectures;
  if (architecture !== 'DFlashDraftModel') {
    throw new InputError(
      `${label}: architecture ${quote(architecture!)} is not supported; this engine reads DFlashDraftModel`,
    );
  }
  only(label, 'hidden_act', raw.hidden_act, 'silu');
  only(label, 'attention_bias', raw.attention_bias, false);
  if (raw.hidden_size !== target.hidden) {
    throw new InputError(`${label}: hidden_size ${raw.hidden_size}, but the target has ${target.hidden}`);
  }
  if (raw.num_target_layers != null && raw.num_target_layers !== target.layers.length) {
    throw new InputError(
      `${label}: num_target_layers ${raw.num_target_layers}, but the target has ${target.layers.length}`,
    );
  }
  for (const id of dflash.target_layer_ids) {
    if (id >= target.layers.length) {
      throw new InputError(
        `${label}: target_layer_ids names layer ${id}, but the target has ${target.layers.length} layers`,
      );
    }
  }
  if (dflash.mask_token_id >= target.vocab) {
    throw new InputError(
      `${label}: mask_token_id ${dflash.mask_token_id} is not below the target's vocab_size ${target.vocab}`,
    );
  }
  if (raw.num_attention_heads % raw.num_key_value_heads !== 0) {
    throw new InputError(
      `${label}: ${raw.num_attention_heads} query heads cannot share ${raw.num_key_value_heads} key/value heads`,
    );
  }
  const blockSize = dflash.block_size ?? raw.block_size;
  if (blockSize == null || blockSize < 2) throw new InputError(`${label}: block_size must be at least 2`);
  if (raw.block_size != null && raw.block_size !== blockSize) {
    throw new InputError(`${label}: block_size ${raw.block_size} and dflash_config.block_size ${blockSize} disagree`);
  }
  const window = (dflash.use_swa ?? false) ? (dflash.swa_window_size ?? raw.sliding_window) : 0;
  if (window == null) throw new InputError(`${label}: dflash_config.swa_window_size is missing`);
  return {
    layers: raw.num_hidden_layers,
    qHeads: raw.num_attention_heads,
    kvHeads: raw.num_key_value_heads,
    headDim: raw.head_dim,
    vHeadDim: raw.v_head_dim ?? raw.head_dim,
    rotaryDim: rotaryDimOf(raw.head_dim, raw.partial_rotary_factor ?? 1, label),
    ropeTheta: raw.rope_theta,
    window,
    sink: dflash.attention_sink_bias ?? false,
    eps: raw.rms_norm_eps,
    valueScale: dflash.attention_value_scale ?? 1,
    ffnWidth: raw.intermediate_size,
    blockSize,
    targetLayerIds: dflash.target_layer_ids,
    maskTokenId: dflash.mask_token_id,
  };
}

function checkDraftLayout(plan: DraftShape, hidden: number, check: LayoutCheck): void {
  check.plain('fc.weight', [hidden, hidden * plan.targetLayerIds.length]);
  check.plain('hidden_norm.weight', [hidden]);
  check.plain('norm.weight', [hidden]);
  for (let i = 0; i < plan.layers; i++) {
    const base = `layers.${i}`;
    const attention = `${base}.self_attn`;
    check.plain(`${base}.input_layernorm.weight`, [hidden]);
    check.plain(`${base}.post_attention_layernorm.weight`, [hidden]);
    check.plain(`${attention}.q_proj.weight`, [plan.qHeads * plan.headDim, hidden]);
    check.plain(`${attention}.k_proj.weight`, [plan.kvHeads * plan.headDim, hidden]);
    check.plain(`${attention}.v_proj.weight`, [plan.kvHeads * plan.vHeadDim, hidden]);
    check.plain(`${attention}.o_proj.weight`, [hidden, plan.qHeads * plan.vHeadDim]);
    check.plain(`${attention}.q_norm.weight`, [plan.headDim]);
    check.plain(`${attention}.k_norm.weight`, [plan.headDim]);
    if (plan.sink) check.plain(`${attention}.attention_sink_bias`, [plan.qHeads]);
    check.plain(`${base}.mlp.gate_proj.weight`, [plan.ffnWidth, hidden]);
    check.plain(`${base}.mlp.up_proj.weight`, [plan.ffnWidth, hidden]);
    check.plain(`${base}.mlp.down_proj.weight`, [hidden, plan.ffnWidth]);
  }
  check.refuseUnexpected((name) => !name.endsWith('.rotary_emb.inv_freq'));
}
