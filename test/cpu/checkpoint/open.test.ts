/**
 * What a good checkpoint of each kind becomes: the plan per layer, where every tensor lies, the numerics text and the digests.
 */
import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { describeNumerics, openCheckpoint } from '../../../native/checkpoint/index.ts';
import { FLASH_STYLE, type SyntheticSpec, writeSyntheticCheckpoint } from '../../support/synthetic-checkpoint.ts';

let root: string;

beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'kilotoken-open-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

async function written(name: string, spec: SyntheticSpec): Promise<string> {
  const directory = path.join(root, name);
  await writeSyntheticCheckpoint(directory, spec);
  return directory;
}

describe('plans', () => {
  test('fused qkv, FP8, several shards, draft (V2.5-Pro in small)', async () => {
    const checkpoint = await openCheckpoint(await written('pro', { seed: 1 }));
    const attention = {
      qHeads: 4,
      kvHeads: 2,
      headDim: 48,
      vHeadDim: 32,
      rotaryDim: 16,
      fusedGroups: 2,
    };
    const global = { ...attention, kind: 'global', ropeTheta: 1e7, window: 0, sink: false };
    const sliding = { ...attention, kind: 'sliding', ropeTheta: 1e4, window: 5, sink: true };
    const dense = { kind: 'dense', width: 224 };
    const moe = { kind: 'moe', width: 96 };
    expect(checkpoint.layers).toEqual([
      { attention: global, ffn: dense },
      { attention: sliding, ffn: moe },
      { attention: sliding, ffn: moe },
      { attention: global, ffn: moe },
    ]);
    expect(checkpoint).toMatchObject({
      architecture: 'MiMoV2ForCausalLM',
      hidden: 160,
      vocab: 203,
      eps: 1e-5,
      valueScale: 0.612,
      experts: 8,
      topK: 3,
      normTopK: true,
      routedScale: 1,
      maxContext: 96,
      headTensor: 'lm_head.weight',
      activationsDefault: 'fp8',
      eosIds: [200],
    });
    expect(checkpoint.draft).toMatchObject({
      layers: 2,
      rotaryDim: 16,
      window: 12,
      sink: true,
      valueScale: 0.612,
      blockSize: 8,
      targetLayerIds: [0, 2, 3],
      maskTokenId: 202,
    });
    expect(checkpoint.draft!.maskEmbedding).toHaveLength(160);
    expect(checkpoint.draft!.maskEmbedding.some((value) => value !== 0)).toBe(true);
    expect(describeNumerics(checkpoint, 'fp8').id).toBe(
      'experts=fp8-128x128;linears=fp8-128x128;act=fp8-1x128;kv=bf16;rest=bf16;sum=fp32',
    );
  });

  test('separate q, k, v, wider sliding layers, nothing quantised, one file without index (V2-Flash in small)', async () => {
    const checkpoint = await openCheckpoint(await written('flash', { seed: 2, ...FLASH_STYLE }));
    expect(
      checkpoint.layers.map(({ attention }) => [attention.kind, attention.kvHeads, attention.fusedGroups]),
    ).toEqual([
      ['global', 2, 0],
      ['sliding', 4, 0],
      ['sliding', 4, 0],
      ['global', 2, 0],
    ]);
    expect(checkpoint.activationsDefault).toBe('bf16');
    expect(checkpoint.draft).toBeNull();
    expect(await checkpoint.draftDigest()).toBe('none');
    expect(describeNumerics(checkpoint, 'bf16').id).toBe(
      'experts=bf16;linears=bf16;act=unquantised;kv=fp32;rest=bf16;sum=fp32',
    );
  });

  test('sliding fields fall back to the global ones; layer types, epsilon and expert layers by their other names', async () => {
    const directory = await written('fallbacks', {
      seed: 3,
      experts: 'mxfp4',
      draft: false,
      config: {
        swa_num_attention_heads: undefined,
        swa_num_key_value_heads: undefined,
        swa_head_dim: undefined,
        swa_v_head_dim: undefined,
        swa_rope_theta: undefined,
        hybrid_layer_pattern: undefined,
        layer_types: ['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention'],
        layernorm_epsilon: undefined,
        rms_norm_eps: 1e-6,
        sliding_window: undefined,
        sliding_window_size: 7,
        moe_layer_freq: undefined,
        attention_value_scale: null,
        routed_scaling_factor: 2.5,
        eos_token_id: [200, 201],
      },
    });
    const checkpoint = await openCheckpoint(directory);
    expect(checkpoint.layers[1]!.attention).toMatchObject({
      kind: 'sliding',
      kvHeads: 2,
      headDim: 48,
      ropeTheta: 1e7,
      window: 7,
    });
    expect(checkpoint.layers.map((layer) => layer.ffn.kind)).toEqual(['dense', 'moe', 'moe', 'moe']);
    expect(checkpoint).toMatchObject({ eps: 1e-6, valueScale: 1, routedScale: 2.5, eosIds: [200, 201] });
    expect(checkpoint.formats).toEqual({ experts: 'mxfp4', linears: 'fp8-128x128', rest: 'bf16' });
  });

  test('a head tied to the embedding; mixed storage is spelled out', async () => {
    const directory = await written('tied', {
      seed: 4,
      draft: false,
      shards: 2,
      outputProjection: 'fp8',
      routerDType: 'BF16',
      config: { tie_word_embeddings: true },
    });
    const checkpoint = await openCheckpoint(directory);
    expect(checkpoint.headTensor).toBe('model.embed_tokens.weight');
    expect(checkpoint.formats.rest).toBe('bf16+fp8-128x128');
  });

  test('every layer dense: experts may be absent', async () => {
    const directory = await written('dense', {
      seed: 5,
      draft: false,
      config: {
        moe_layer_freq: [0, 0, 0, 0],
        n_routed_experts: null,
        num_experts_per_tok: null,
        moe_intermediate_size: undefined,
      },
    });
    const checkpoint = await openCheckpoint(directory);
    expect(checkpoint).toMatchObject({ experts: 0, topK: 0 });
    expect(checkpoint.formats.experts).toBe('none');
  });

  test('generation_config.json decides the end tokens', async () => {
    const directory = await written('generation', { seed: 6, draft: false, shards: 1 });
    await writeFile(path.join(directory, 'generation_config.json'), '{"eos_token_id":[7,200]}');
    expect((await openCheckpoint(directory)).eosIds).toEqual([7, 200]);
  });
});

describe('where tensors lie', () => {
  test('offsets point at the very bytes', async () => {
    const directory = await written('offsets', { seed: 7, draft: false });
    const checkpoint = await openCheckpoint(directory);
    const norm = checkpoint.tensors.get('model.norm.weight')!;
    expect(norm).toMatchObject({ dtype: 'BF16', shape: [160], bytes: 320 });
    const bytes = (await readFile(norm.file)).subarray(norm.offset, norm.offset + norm.bytes);
    const values = Array.from({ length: 160 }, (_, i) => bytes.readUInt16LE(2 * i));
    // Norm weights are written near 1: BF16 codes around 0x3f80.
    expect(values.every((code) => code > 0x3e80 && code < 0x4080)).toBe(true);
  });
});

describe('digests', () => {
  test('sha256 of the shards one after the other, as the shell gives it; one bit changes it', async () => {
    const directory = await written('digest', { seed: 8, draft: {} });
    const checkpoint = await openCheckpoint(directory);
    const shell = (command: string) =>
      execFileSync('sh', ['-c', command], { cwd: directory }).toString().split(/\s/)[0];
    expect(await checkpoint.weightsDigest()).toBe(
      `sha256:${shell('cat model-0000?-of-00003.safetensors | sha256sum')}`,
    );
    expect(await checkpoint.draftDigest()).toBe(
      `sha256:${shell('cat dflash/dflash_draft_model-0000?-of-00002.safetensors dflash/mask_embedding.pt | sha256sum')}`,
    );
    const before = await checkpoint.weightsDigest();
    const { file, offset } = checkpoint.tensors.get('model.norm.weight')!;
    const bytes = await readFile(file);
    bytes[offset]! ^= 1;
    await writeFile(file, bytes);
    expect(await checkpoint.weightsDigest()).not.toBe(before);
  });
});
