/**
 * A checkpoint with as many tensors and shards as the published one (160,000 in 34) opens from headers alone. Its files are sparse:
 * a true header, then a hole of the right length, so opening them must not read the data.
 */
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openCheckpoint } from '../../../native/checkpoint/index.ts';
import { BASE_CONFIG, type Config, mergedConfig } from '../../support/synthetic-checkpoint.ts';
import { shardBytes } from '../../support/write-safetensors.ts';

const LAYERS = 70;
const EXPERTS = 384;
const SHARDS = 34;
const HIDDEN = 6144;
const WIDTH = 2048;

let root: string;
beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'kilotoken-large-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const BYTES: Record<string, number> = { BF16: 2, F32: 4, U8: 1, F8_E4M3: 1 };

type Shape = readonly [name: string, dtype: string, shape: readonly number[]];

/** Tensor list of MiMo-V2.5-Pro-FP4 as published: FP8 fused qkv with 216 scale rows, MXFP4 experts. */
function tensorList(pattern: readonly number[]): Shape[] {
  const list: Shape[] = [
    ['lm_head.weight', 'BF16', [152576, HIDDEN]],
    ['model.embed_tokens.weight', 'BF16', [152576, HIDDEN]],
    ['model.norm.weight', 'BF16', [HIDDEN]],
    ['model.mtp.layers.0.eh_proj.weight', 'BF16', [HIDDEN, 2 * HIDDEN]],
  ];
  for (let i = 0; i < LAYERS; i++) {
    const base = `model.layers.${i}`;
    list.push([`${base}.input_layernorm.weight`, 'BF16', [HIDDEN]]);
    list.push([`${base}.post_attention_layernorm.weight`, 'BF16', [HIDDEN]]);
    list.push([`${base}.self_attn.qkv_proj.weight`, 'F8_E4M3', [27136, HIDDEN]]);
    list.push([`${base}.self_attn.qkv_proj.weight_scale_inv`, 'F32', [216, 48]]);
    list.push([`${base}.self_attn.o_proj.weight`, 'BF16', [HIDDEN, 16384]]);
    if (pattern[i] === 1) list.push([`${base}.self_attn.attention_sink_bias`, 'BF16', [128]]);
    if (i === 0) {
      for (const [name, rows, cols] of [
        ['gate', 16384, HIDDEN],
        ['up', 16384, HIDDEN],
        ['down', HIDDEN, 16384],
      ] as const) {
        list.push([`${base}.mlp.${name}_proj.weight`, 'F8_E4M3', [rows, cols]]);
        list.push([`${base}.mlp.${name}_proj.weight_scale_inv`, 'F32', [rows / 128, cols / 128]]);
      }
      continue;
    }
    list.push([`${base}.mlp.gate.weight`, 'F32', [EXPERTS, HIDDEN]]);
    list.push([`${base}.mlp.gate.e_score_correction_bias`, 'F32', [EXPERTS]]);
    for (let e = 0; e < EXPERTS; e++) {
      for (const [name, rows, cols] of [
        ['gate', WIDTH, HIDDEN],
        ['up', WIDTH, HIDDEN],
        ['down', HIDDEN, WIDTH],
      ] as const) {
        list.push([`${base}.mlp.experts.${e}.${name}_proj.weight`, 'U8', [rows, cols / 2]]);
        list.push([`${base}.mlp.experts.${e}.${name}_proj.weight_scale`, 'U8', [rows, cols / 32]]);
      }
    }
  }
  return list;
}

async function writeSparse(directory: string, config: Config): Promise<number> {
  await mkdir(directory, { recursive: true });
  await writeFile(path.join(directory, 'config.json'), JSON.stringify(config));
  const list = tensorList(config.hybrid_layer_pattern as number[]);
  const perShard = Math.ceil(list.length / SHARDS);
  const weightMap: Record<string, string> = {};
  for (let s = 0; s < SHARDS; s++) {
    const file = `model-${s}.safetensors`;
    const header: Record<string, unknown> = {};
    let offset = 0;
    for (const [name, dtype, shape] of list.slice(s * perShard, (s + 1) * perShard)) {
      const end = offset + shape.reduce((product, size) => product * size, 1) * BYTES[dtype]!;
      header[name] = { dtype, shape, data_offsets: [offset, end] };
      weightMap[name] = file;
      offset = end;
    }
    const bytes = shardBytes(JSON.stringify(header), []);
    const handle = await open(path.join(directory, file), 'w');
    await handle.write(bytes);
    await handle.truncate(bytes.length + offset);
    await handle.close();
  }
  await writeFile(path.join(directory, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }));
  return list.length;
}

test('the published shapes: 70 layers, 384 experts, 34 shards', async () => {
  const global = [0, 7, 15, 23, 31, 39, 47, 55, 62, 69];
  const config = mergedConfig(BASE_CONFIG, {
    hidden_size: HIDDEN,
    num_hidden_layers: LAYERS,
    vocab_size: 152576,
    max_position_embeddings: 1048576,
    num_attention_heads: 128,
    num_key_value_heads: 8,
    head_dim: 192,
    v_head_dim: 128,
    swa_num_attention_heads: 128,
    swa_num_key_value_heads: 8,
    swa_head_dim: 192,
    swa_v_head_dim: 128,
    sliding_window: 128,
    hybrid_layer_pattern: Array.from({ length: LAYERS }, (_, i) => (global.includes(i) ? 0 : 1)),
    moe_layer_freq: Array.from({ length: LAYERS }, (_, i) => (i === 0 ? 0 : 1)),
    intermediate_size: 16384,
    moe_intermediate_size: WIDTH,
    n_routed_experts: EXPERTS,
    num_experts_per_tok: 8,
    eos_token_id: 151645,
  });
  const count = await writeSparse(root, config);
  const checkpoint = await openCheckpoint(root);
  expect(checkpoint.tensors.size).toBe(count);
  expect(count).toBeGreaterThan(159_000);
  expect(checkpoint.layers[1]!.attention).toMatchObject({ rotaryDim: 64, fusedGroups: 8, window: 128, sink: true });
  expect(checkpoint.layers.filter((layer) => layer.attention.kind === 'global')).toHaveLength(10);
  // The census of U8 bytes (codes and scales of all experts) published for this family's MXFP4 checkpoints.
  const u8 = [...checkpoint.tensors.values()].filter((tensor) => tensor.dtype === 'U8');
  expect(u8.reduce((sum, tensor) => sum + tensor.bytes, 0)).toBe(531_351_207_936);
}, 600_000);
