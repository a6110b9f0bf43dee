"""The nano target in PyTorch, written for training: the MiMo-V2 architecture at a small size.

Weights live in float32 in the checkpoint's own shapes (fused interleaved QKV as [groups, rows per group, hidden]). `Precision` says what is
fake-quantised in a forward pass: nothing (pre-training), FP8 linears, or FP8 linears with MXFP4 experts.
"""
import math
from dataclasses import dataclass, asdict

import torch
import torch.nn as nn
import torch.nn.functional as F

import numerics


@dataclass(frozen=True)
class Config:
    vocab: int = 1024
    hidden: int = 256
    layers: int = 6
    pattern: tuple = (0, 1, 1, 0, 1, 0)  # 0 global, 1 sliding
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 192
    v_dim: int = 128
    rotary: int = 64  # int(192 * 0.334)
    theta_global: float = 1e7
    theta_sliding: float = 1e4
    window: int = 128
    value_scale: float = 0.612
    dense_width: int = 512
    expert_width: int = 64
    experts: int = 16
    top_k: int = 4
    eps: float = 1e-5
    max_positions: int = 2048
    taps: tuple = (0, 2, 4, 5)


@dataclass(frozen=True)
class Precision:
    linears: str = "fp32"  # fp32 | fp8
    experts: str = "fp32"  # fp32 | fp8 | mxfp4
    activations: str = "none"  # none | fp8


PRETRAIN = Precision()
FP8 = Precision("fp8", "fp8", "fp8")
FP4 = Precision("fp8", "mxfp4", "fp8")


def rms_norm(x, weight, eps):
    xf = x.float()
    return (xf * torch.rsqrt(xf.pow(2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def rope_tables(positions, rotary, theta):
    inv = theta ** (-torch.arange(0, rotary, 2, device=positions.device, dtype=torch.float32) / rotary)
    angle = positions.float()[..., None] * inv
    return angle.cos(), angle.sin()


def apply_rope(x, cos, sin):
    """NeoX halves on the first 2 * cos.shape[-1] channels. x [..., T, heads, D]; cos, sin [..., T, rotary/2]."""
    h = cos.shape[-1]
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    a, b, rest = x[..., :h], x[..., h:2 * h], x[..., 2 * h:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)


class Layer(nn.Module):
    def __init__(self, c, index):
        super().__init__()
        self.c, self.sliding, self.dense = c, c.pattern[index] == 1, index == 0
        g, q = c.kv_heads, c.heads // c.kv_heads
        std = 0.02
        self.input_norm = nn.Parameter(torch.ones(c.hidden))
        self.post_norm = nn.Parameter(torch.ones(c.hidden))
        self.qkv = nn.Parameter(torch.randn(g, q * c.head_dim + c.head_dim + c.v_dim, c.hidden) * std)
        self.o = nn.Parameter(torch.randn(c.hidden, c.heads * c.v_dim) * std / math.sqrt(2 * c.layers))
        if self.sliding:
            self.sink = nn.Parameter(torch.zeros(c.heads))
        if self.dense:
            self.gate_up = nn.Parameter(torch.randn(2, c.dense_width, c.hidden) * std)
            self.down = nn.Parameter(torch.randn(1, c.hidden, c.dense_width) * std / math.sqrt(2 * c.layers))
        else:
            self.router = nn.Parameter(torch.randn(c.experts, c.hidden) * std)
            self.register_buffer("bias", torch.zeros(c.experts))
            self.gate_up = nn.Parameter(torch.randn(2 * c.experts, c.expert_width, c.hidden) * std)  # gate of e: 2e, up of e: 2e + 1
            self.down = nn.Parameter(torch.randn(c.experts, c.hidden, c.expert_width) * std / math.sqrt(2 * c.layers))

    def weights(self, p):
        """The matrices a forward pass multiplies with, after fake quantisation."""
        same = lambda w: w
        linear = numerics.fake_fp8_weight if p.linears == "fp8" else same
        experts = {"fp32": same, "fp8": numerics.fake_fp8_weight, "mxfp4": numerics.fake_mxfp4_weight}[p.experts]
        bf16 = numerics.fake_bf16 if p.linears == "fp8" else same
        ffn = linear if self.dense else experts
        out = {"qkv": linear(self.qkv), "o": bf16(self.o), "gate_up": ffn(self.gate_up), "down": ffn(self.down),
               "input_norm": bf16(self.input_norm), "post_norm": bf16(self.post_norm)}
        if self.sliding:
            out["sink"] = bf16(self.sink)
        return out

    def project(self, x, w, p, cos, sin):
        """x [B, T, hidden] -> q [B, T, heads, 192], k [B, T, kv, 192], v [B, T, kv, 128]."""
        c = self.c
        if p.activations == "fp8":
            x = numerics.fake_fp8_activation(x)
        y = F.linear(x, w["qkv"].flatten(0, 1).to(x.dtype)).unflatten(-1, (c.kv_heads, -1))
        nq = c.heads // c.kv_heads * c.head_dim
        q = y[..., :nq].unflatten(-1, (-1, c.head_dim)).flatten(-3, -2)
        k = y[..., nq:nq + c.head_dim]
        v = y[..., nq + c.head_dim:] * c.value_scale
        return apply_rope(q, cos, sin), apply_rope(k, cos, sin), v

    def attend(self, q, k, v, w):
        """Causal attention over whole sequences; T a multiple of the window for sliding layers."""
        c = self.c
        b, t = q.shape[:2]
        rep = c.heads // c.kv_heads
        k, v = k.repeat_interleave(rep, 2), v.repeat_interleave(rep, 2)
        if not self.sliding:
            vp = F.pad(v, (0, c.head_dim - c.v_dim))
            y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), vp.transpose(1, 2), is_causal=True)
            return y.transpose(1, 2)[..., :c.v_dim].flatten(-2)
        n = c.window
        qb = q.view(b, t // n, n, c.heads, c.head_dim)
        blocks = lambda x: torch.cat((F.pad(x, (0, 0, 0, 0, n, 0))[:, :t].view(b, t // n, n, c.heads, -1), x.view(b, t // n, n, c.heads, -1)), 2)
        s = torch.einsum("bnqhd,bnkhd->bnhqk", qb, blocks(k)) * c.head_dim ** -0.5
        i = torch.arange(n, device=q.device)[:, None] + n
        j = torch.arange(2 * n, device=q.device)[None]
        visible = (i >= j) & (i - j < n)
        first = torch.arange(t // n, device=q.device)[:, None, None] > 0
        visible = visible[None] & (first | (j[None] >= n))
        s = s.float().masked_fill(~visible[None, :, None], -torch.inf)
        sink = w["sink"].view(1, 1, -1, 1, 1).expand(b, t // n, -1, n, 1)
        a = torch.softmax(torch.cat((s, sink), -1), -1)[..., :-1].to(v.dtype)
        return torch.einsum("bnhqk,bnkhd->bnqhd", a, blocks(v)).reshape(b, t, -1)

    def route(self, x):
        """x [..., hidden] -> dense weights [..., experts] (zero where not selected)."""
        p = torch.sigmoid(F.linear(x.float(), self.router))
        top = torch.topk(p + self.bias, self.c.top_k, -1).indices
        chosen = torch.zeros_like(p).scatter(-1, top, 1.0)
        return chosen * p / ((chosen * p).sum(-1, keepdim=True) + 1e-20), chosen

    def ffn(self, x, w, p):
        quantise = numerics.fake_fp8_activation if p.activations == "fp8" else (lambda z: z)
        xq = quantise(x)
        y = F.linear(xq, w["gate_up"].flatten(0, 1).to(x.dtype))
        if self.dense:
            gate, up = y.chunk(2, -1)
            return F.linear(quantise(F.silu(gate) * up), w["down"][0].to(x.dtype)), None
        weight, chosen = self.route(x)
        y = y.unflatten(-1, (self.c.experts, 2, self.c.expert_width))
        h = quantise(F.silu(y[..., 0, :]) * y[..., 1, :]) * weight[..., None].to(x.dtype)
        return F.linear(h.flatten(-2), w["down"].permute(1, 0, 2).flatten(1).to(x.dtype)), chosen


class Target(nn.Module):
    def __init__(self, c=Config()):
        super().__init__()
        self.c = c
        self.embed = nn.Parameter(torch.randn(c.vocab, c.hidden) * 0.02)
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c.layers))
        self.norm = nn.Parameter(torch.ones(c.hidden))
        self.head = nn.Parameter(torch.randn(c.vocab, c.hidden) * 0.02)

    def tables(self, positions):
        c = self.c
        return [rope_tables(positions, c.rotary, c.theta_sliding if s else c.theta_global) for s in c.pattern]

    def shared(self, p):
        bf16 = numerics.fake_bf16 if p.linears == "fp8" else (lambda w: w)
        return bf16(self.embed), bf16(self.norm), bf16(self.head)

    def forward(self, ids, p, taps=False, dtype=torch.bfloat16):
        """ids [B, T] -> logits [B, T, vocab], loads [layers - 1, experts], and the taps [B, T, len(taps) * hidden] if asked for."""
        embed, norm, head = self.shared(p)
        t = ids.shape[1]
        padded = F.pad(ids, (0, -t % self.c.window))
        x = F.embedding(padded, embed)
        tables = self.tables(torch.arange(padded.shape[1], device=ids.device))
        loads, kept = [], []
        for i, layer in enumerate(self.layers):
            w = layer.weights(p)
            q, k, v = layer.project(rms_norm(x, w["input_norm"], self.c.eps).to(dtype), w, p, *tables[i])
            x = x + F.linear(layer.attend(q, k, v, w), w["o"].to(dtype)).float()
            y, chosen = layer.ffn(rms_norm(x, w["post_norm"], self.c.eps).to(dtype), w, p)
            x = x + y.float()
            if chosen is not None:
                loads.append(chosen.mean((0, 1)))
            if taps and i in self.c.taps:
                kept.append(x)
        logits = F.linear(rms_norm(x, norm, self.c.eps).to(dtype), head.to(dtype))[:, :t]
        return logits, torch.stack(loads), (torch.cat(kept, -1)[:, :t] if taps else None)

    @torch.no_grad()
    def update_bias(self, loads, rate):
        """Auxiliary-loss-free balancing: nudge the selection bias of each expert against its load."""
        for layer, load in zip([l for l in self.layers if not l.dense], loads):
            layer.bias += rate * torch.sign(load.mean() - load)

    # ------------------------------------------------------------ cached decoding, for roll-outs

    @torch.no_grad()
    def generate(self, prompts, p, new_tokens, temperature, stop_id, seed, dtype=torch.float32):
        """prompts: list of id lists. Returns lists of generated ids (the stop id included). One position a step for all rows."""
        c, device = self.c, self.embed.device
        b = len(prompts)
        lengths = torch.tensor([len(x) for x in prompts], device=device)
        total = int(lengths.max()) + new_tokens
        ids = torch.zeros(b, total + 1, dtype=torch.long, device=device)
        for i, x in enumerate(prompts):
            ids[i, :len(x)] = torch.tensor(x, device=device)
        embed, norm, head = self.shared(p)
        weights = [l.weights(p) for l in self.layers]
        keys = [torch.zeros(b, total, c.kv_heads, c.head_dim, dtype=torch.bfloat16, device=device) for _ in self.layers]
        values = [torch.zeros(b, total, c.kv_heads, c.v_dim, dtype=torch.bfloat16, device=device) for _ in self.layers]
        tables = self.tables(torch.arange(total, device=device))
        done = torch.zeros(b, dtype=torch.bool, device=device)
        finish = lengths + new_tokens
        generator = torch.Generator(device).manual_seed(seed)
        for t in range(total):
            x = F.embedding(ids[:, t:t + 1], embed)
            for i, layer in enumerate(self.layers):
                w = weights[i]
                cos, sin = tables[i][0][t:t + 1], tables[i][1][t:t + 1]
                q, k, v = layer.project(rms_norm(x, w["input_norm"], c.eps).to(dtype), w, p, cos, sin)
                keys[i][:, t:t + 1], values[i][:, t:t + 1] = k, v
                lo = max(0, t + 1 - c.window) if layer.sliding else 0
                kk, vv = keys[i][:, lo:t + 1], values[i][:, lo:t + 1]
                qg = q[:, 0].unflatten(1, (c.kv_heads, -1)).bfloat16()
                s = torch.einsum("bgqd,btgd->bgqt", qg, kk).float() * c.head_dim ** -0.5
                if layer.sliding:
                    s = torch.cat((s, w["sink"].view(1, c.kv_heads, -1, 1).expand(b, -1, -1, 1)), -1)
                a = torch.softmax(s, -1)[..., :t + 1 - lo].bfloat16()
                y = torch.einsum("bgqt,btgd->bgqd", a, vv).reshape(b, 1, -1).to(dtype)
                x = x + F.linear(y, w["o"].to(dtype)).float()
                y, _ = layer.ffn(rms_norm(x, w["post_norm"], c.eps).to(dtype), w, p)
                x = x + y.float()
            if t + 1 < int(lengths.min()):
                continue
            logits = F.linear(rms_norm(x[:, 0], norm, c.eps), head).float()
            if temperature > 0:
                gumbel = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator, device=device).clamp_min(1e-20)))
                chosen = (logits / temperature + gumbel).argmax(-1)
            else:
                chosen = logits.argmax(-1)
            inside = (t + 1 >= lengths) & ~done & (t + 1 < finish)
            ids[:, t + 1] = torch.where(inside, chosen, ids[:, t + 1])
            done |= (inside & (chosen == stop_id)) | (t + 2 >= finish)
            if t % 16 == 0 and bool(done.all()):
                break
        out = []
        rows = ids.tolist()
        for i, n in enumerate(lengths.tolist()):
            tail = rows[i][n:n + new_tokens]
            out.append(tail[:tail.index(stop_id) + 1] if stop_id in tail else tail)
        return out


def save(model, path):
    torch.save({"config": asdict(model.c), "state": model.state_dict()}, path)
