"""Golden values for the engine: the checkpoint as written, read back, run by code this project did not write.

Target: transformers' MiMo-V2-Flash classes, weights dequantised to float32, activations unquantised, eager attention. The class doubles the
K/V heads of sliding layers, so those layers get an attention module built from a config with half the K/V heads; nothing else is changed.
Draft: no complete third-party implementation exists, so its golden rows come from the recipe's own PyTorch draft and say so.
"""
import copy
import glob
import json

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

import numerics


def read(folder, stem="model"):
    out = {}
    for path in sorted(glob.glob(f"{folder}/{stem}-*.safetensors")):
        with safe_open(path, "pt") as f:
            for name in f.keys():
                out[name] = f.get_tensor(name)
    return out


def dequantise(tensors, c):
    """The checkpoint's tensors as plain float32 matrices, from the bytes on disk."""
    out = {}
    for name, t in tensors.items():
        if name.endswith(("weight_scale_inv", "weight_scale")):
            continue
        if t.dtype == torch.uint8:
            code = torch.stack((t & 15, t >> 4), -1).flatten(-2)
            out[name] = numerics.mxfp4_decode(code, tensors[name + "_scale"])
        elif t.dtype == torch.float8_e4m3fn:
            scale = tensors[name + "_scale_inv"]
            if "qkv_proj" in name:
                t, scale = t.unflatten(0, (c.kv_heads, -1)), scale.unflatten(0, (c.kv_heads, -1))
                out[name] = numerics.fp8_block_decode(t, scale)  # [groups, rows, hidden]
            else:
                out[name] = numerics.fp8_block_decode(t, scale)
        else:
            out[name] = t.float()
    return out


def transformers_model(folder, c):
    from transformers.models.mimo_v2_flash.configuration_mimo_v2_flash import MiMoV2FlashConfig
    from transformers.models.mimo_v2_flash.modeling_mimo_v2_flash import MiMoV2FlashAttention, MiMoV2FlashForCausalLM

    rope = lambda theta: {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.334}
    config = MiMoV2FlashConfig(
        vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.dense_width, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, max_position_embeddings=c.max_positions, rms_norm_eps=c.eps, moe_intermediate_size=c.expert_width,
        num_experts_per_tok=c.top_k, n_routed_experts=c.experts, head_dim=c.head_dim, v_head_dim=c.v_dim, sliding_window=c.window,
        layer_types=["sliding_attention" if s else "full_attention" for s in c.pattern], attention_value_scale=c.value_scale,
        mlp_layer_types=["dense"] + ["sparse"] * (c.layers - 1), pad_token_id=None, bos_token_id=None, eos_token_id=1017,
        rope_parameters={"full_attention": rope(c.theta_global), "sliding_attention": rope(c.theta_sliding)}, attn_implementation="eager")
    half = copy.deepcopy(config)
    half.num_key_value_heads = c.kv_heads // 2
    model = MiMoV2FlashForCausalLM(config).float().eval()
    for i, s in enumerate(c.pattern):
        if s:
            model.model.layers[i].self_attn = MiMoV2FlashAttention(half, i).float().eval()
    # MiMoV2FlashExperts may be wired to a fused kernel; the plain loop is the definition
    config._experts_implementation = "eager"
    w = dequantise(read(folder), c)
    state = {"model.embed_tokens.weight": w["model.embed_tokens.weight"], "lm_head.weight": w["lm_head.weight"], "model.norm.weight": w["model.norm.weight"]}
    nq = c.heads // c.kv_heads * c.head_dim
    for i in range(c.layers):
        a, b = f"model.layers.{i}.", f"model.layers.{i}.self_attn."
        state[a + "input_layernorm.weight"], state[a + "post_attention_layernorm.weight"] = w[a + "input_layernorm.weight"], w[a + "post_attention_layernorm.weight"]
        qkv = w[b + "qkv_proj.weight"]
        state[b + "q_proj.weight"] = qkv[:, :nq].flatten(0, 1)
        state[b + "k_proj.weight"] = qkv[:, nq:nq + c.head_dim].flatten(0, 1)
        state[b + "v_proj.weight"] = qkv[:, nq + c.head_dim:].flatten(0, 1)
        state[b + "o_proj.weight"] = w[b + "o_proj.weight"]
        if c.pattern[i]:
            state[b + "sinks"] = w[b + "attention_sink_bias"]
        if i == 0:
            for n in ("gate_proj", "up_proj", "down_proj"):
                state[f"{a}mlp.{n}.weight"] = w[f"{a}mlp.{n}.weight"]
        else:
            state[a + "mlp.gate.weight"], state[a + "mlp.gate.e_score_correction_bias"] = w[a + "mlp.gate.weight"], w[a + "mlp.gate.e_score_correction_bias"]
            each = lambda n: torch.stack([w[f"{a}mlp.experts.{e}.{n}.weight"] for e in range(c.experts)])
            state[a + "mlp.experts.gate_up_proj"] = torch.cat((each("gate_proj"), each("up_proj")), 1)
            state[a + "mlp.experts.down_proj"] = each("down_proj")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("inv_freq" in m for m in missing), (missing, unexpected)
    return model


@torch.no_grad()
def write(folder, c, sequences, positions, path):
    """path.safetensors: per sequence s `ids.s` int64 [T], `positions.s`, `logits.s` [P, vocab], `hidden.s` [layers, P, hidden] (residual after each layer)."""
    import transformers

    model = transformers_model(folder, c)
    out = {}
    for s, ids in enumerate(sequences):
        kept = []
        hooks = [layer.register_forward_hook(lambda _m, _i, o: kept.append(o if torch.is_tensor(o) else o[0])) for layer in model.model.layers]
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        for h in hooks:
            h.remove()
        where = torch.tensor(positions[s])
        out |= {f"ids.{s}": torch.tensor(ids), f"positions.{s}": where, f"logits.{s}": logits[where].contiguous(),
                f"hidden.{s}": torch.stack([k[0, where] for k in kept]).contiguous()}
    save_file(out, path, metadata={"producer": f"transformers {transformers.__version__} MiMoV2FlashForCausalLM, float32, eager, CPU", "activations": "unquantised"})
    return model


@torch.no_grad()
def write_draft(target, draft, sequences, path):
    """For each sequence: the last id is the anchor, the context all before it. Taps come from the recipe's target with FP8 activations off."""
    from model import Precision

    precision = Precision("fp8", "mxfp4", "none")
    out = {}
    for s, ids in enumerate(sequences):
        x = torch.tensor([ids])
        _, _, taps = target(x, precision, taps=True, dtype=torch.float32)
        logits = draft(taps, x, torch.tensor([[len(ids) - 1]]), target.embed.bfloat16().float(), target.head.bfloat16().float(), torch.float32)
        out |= {f"ids.{s}": torch.tensor(ids), f"logits.{s}": logits[0, 0].float().contiguous()}
    save_file(out, path, metadata={"producer": "this recipe's PyTorch draft, float32, CPU", "activations": "unquantised"})
