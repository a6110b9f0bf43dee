"""Writes the two checkpoints and the draft in the published on-disk layout (tensor names, dtypes and shapes of MiMo-V2.5-Pro)."""
import json
import os
import shutil

import torch
from safetensors.torch import save_file

import numerics

SHARD_BYTES = 3_500_000


def config_json(c, fp4):
    quantization = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        "ignored_layers": [f"model.layers.{i}.self_attn.o_proj" for i in range(c.layers)],
    }
    if fp4:
        quantization |= {"store_dtype": "mxfp4", "mxfp4_block_size": 32}
    return {
        "architectures": ["MiMoV2ForCausalLM"], "model_type": "mimo_v2", "torch_dtype": "bfloat16", "vocab_size": c.vocab, "hidden_size": c.hidden,
        "num_hidden_layers": c.layers, "intermediate_size": c.dense_width, "moe_intermediate_size": c.expert_width, "hidden_act": "silu",
        "max_position_embeddings": c.max_positions, "initializer_range": 0.02, "layernorm_epsilon": c.eps, "tie_word_embeddings": False,
        "attention_bias": False, "attention_dropout": 0.0, "num_attention_heads": c.heads, "swa_num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "swa_num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "swa_head_dim": c.head_dim,
        "v_head_dim": c.v_dim, "swa_v_head_dim": c.v_dim, "partial_rotary_factor": 0.334, "rope_theta": int(c.theta_global),
        "swa_rope_theta": int(c.theta_sliding), "sliding_window": c.window, "sliding_window_size": c.window, "attention_chunk_size": c.window,
        "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False, "attention_value_scale": c.value_scale,
        "attention_projection_layout": "fused_qkv", "hybrid_layer_pattern": list(c.pattern), "moe_layer_freq": [0] + [1] * (c.layers - 1),
        "n_routed_experts": c.experts, "num_experts_per_tok": c.top_k, "n_shared_experts": None, "n_group": 1, "topk_group": 1,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": None,
        "bos_token_id": None, "eos_token_id": 1017, "pad_token_id": 1016, "use_cache": True, "quantization_config": quantization,
    }


def target_tensors(model, fp4):
    c = model.c
    out = {"model.embed_tokens.weight": model.embed.bfloat16(), "lm_head.weight": model.head.bfloat16(), "model.norm.weight": model.norm.bfloat16()}

    def fp8(name, w):
        codes, scale = numerics.fp8_block_encode(w.float())
        out[name + ".weight"] = codes.reshape(-1, codes.shape[-1])
        out[name + ".weight_scale_inv"] = scale.reshape(-1, scale.shape[-1])

    def mxfp4(name, w):
        code, scale = numerics.mxfp4_encode(w.float())
        out[name + ".weight"], out[name + ".weight_scale"] = numerics.mxfp4_pack(code), scale

    for i, layer in enumerate(model.layers):
        base = f"model.layers.{i}"
        out[f"{base}.input_layernorm.weight"] = layer.input_norm.bfloat16()
        out[f"{base}.post_attention_layernorm.weight"] = layer.post_norm.bfloat16()
        fp8(f"{base}.self_attn.qkv_proj", layer.qkv)  # [groups, rows, hidden]: scales restart per group
        out[f"{base}.self_attn.o_proj.weight"] = layer.o.bfloat16()
        if layer.sliding:
            out[f"{base}.self_attn.attention_sink_bias"] = layer.sink.bfloat16()
        if layer.dense:
            for name, w in (("gate_proj", layer.gate_up[0]), ("up_proj", layer.gate_up[1]), ("down_proj", layer.down[0])):
                fp8(f"{base}.mlp.{name}", w)
            continue
        out[f"{base}.mlp.gate.weight"] = layer.router.float()
        out[f"{base}.mlp.gate.e_score_correction_bias"] = layer.bias.float()
        write = mxfp4 if fp4 else fp8
        for e in range(c.experts):
            for name, w in (("gate_proj", layer.gate_up[2 * e]), ("up_proj", layer.gate_up[2 * e + 1]), ("down_proj", layer.down[e])):
                write(f"{base}.mlp.experts.{e}.{name}", w)
    return {k: v.detach().cpu().contiguous() for k, v in out.items()}


def draft_tensors(d):
    out = {"fc.weight": d.fc, "hidden_norm.weight": d.hidden_norm, "norm.weight": d.norm}
    for i, layer in enumerate(d.layers):
        base = f"layers.{i}"
        out |= {f"{base}.input_layernorm.weight": layer.input_norm, f"{base}.post_attention_layernorm.weight": layer.post_norm,
                f"{base}.self_attn.q_proj.weight": layer.q, f"{base}.self_attn.k_proj.weight": layer.k, f"{base}.self_attn.v_proj.weight": layer.v,
                f"{base}.self_attn.o_proj.weight": layer.o, f"{base}.self_attn.q_norm.weight": layer.q_norm, f"{base}.self_attn.k_norm.weight": layer.k_norm,
                f"{base}.self_attn.attention_sink_bias": layer.sink, f"{base}.mlp.gate_proj.weight": layer.gate, f"{base}.mlp.up_proj.weight": layer.up,
                f"{base}.mlp.down_proj.weight": layer.down}
    return {k: v.detach().bfloat16().cpu().contiguous() for k, v in out.items()}


def write_shards(tensors, folder, stem):
    os.makedirs(folder, exist_ok=True)
    shards, size = [{}], 0
    for name, t in tensors.items():
        n = t.numel() * t.element_size()
        if size + n > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = t
        size += n
    weight_map, total = {}, 0
    for i, shard in enumerate(shards):
        file = f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, f"{folder}/{file}", metadata={"format": "pt"})
        weight_map |= {name: file for name in shard}
        total += sum(t.numel() * t.element_size() for t in shard.values())
    with open(f"{folder}/{stem}.safetensors.index.json", "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f, indent=1)


def draft_config(d, target):
    c = d.c
    return {
        "architectures": ["DFlashDraftModel"], "model_type": "qwen3", "torch_dtype": "bfloat16", "hidden_size": c.hidden, "intermediate_size": c.width,
        "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "v_head_dim": c.head_dim,
        "partial_rotary_factor": c.rotary / c.head_dim, "block_size": c.block,
        "dflash_config": {"target_layer_ids": list(c.taps), "mask_token_id": c.mask_id, "num_anchors": 40, "block_size": c.block, "loss_decay_gamma": 4.0,
                          "use_swa": True, "swa_window_size": c.window, "attention_value_scale": c.value_scale, "attention_sink_bias": True},
        "num_target_layers": target.layers, "vocab_size": target.vocab, "max_position_embeddings": target.max_positions, "rope_theta": int(c.theta),
        "sliding_window": c.window, "rms_norm_eps": c.eps, "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": False,
        "bos_token_id": None, "eos_token_id": 1017,
    }


def write_target(model, folder, fp4, tokenizer_folder):
    write_shards(target_tensors(model, fp4), folder, "model")
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config_json(model.c, fp4), f, indent=2)
    for name in os.listdir(tokenizer_folder):
        shutil.copy(f"{tokenizer_folder}/{name}", f"{folder}/{name}")


def write_draft(draft, target_config, folder):
    write_shards(draft_tensors(draft), folder, "dflash_draft_model")
    torch.save({"mask_token_id": draft.c.mask_id, "embedding": draft.mask_embedding.detach().bfloat16().cpu().clone()}, f"{folder}/mask_embedding.pt")
    with open(f"{folder}/config.json", "w") as f:
        json.dump(draft_config(draft, target_config), f, indent=2)
