"""The DFlash draft in PyTorch (arXiv 2602.06036 as varied by MiMo): a block of [anchor, MASK x 7] is denoised in one pass.

Context K/V of every draft layer come from the target's residual stream at the tapped layers (fc, hidden norm, then the layer's own k and v
projections), for positions strictly before the anchor. Inside the block attention is bidirectional. The embedding and the output head are
the target's. Row i of a block predicts the token at position anchor + i (i = 1 .. 7).
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import apply_rope, rms_norm, rope_tables


@dataclass(frozen=True)
class DraftConfig:
    hidden: int = 256
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 128
    rotary: int = 64
    theta: float = 1e4
    window: int = 256
    width: int = 512
    taps: tuple = (0, 2, 4, 5)
    block: int = 8
    value_scale: float = 0.612
    eps: float = 1e-5
    mask_id: int = 1023


class DraftLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        std, out = 0.02, 0.02 / math.sqrt(2 * c.layers)
        self.input_norm, self.post_norm = nn.Parameter(torch.ones(c.hidden)), nn.Parameter(torch.ones(c.hidden))
        self.q = nn.Parameter(torch.randn(c.heads * c.head_dim, c.hidden) * std)
        self.k = nn.Parameter(torch.randn(c.kv_heads * c.head_dim, c.hidden) * std)
        self.v = nn.Parameter(torch.randn(c.kv_heads * c.head_dim, c.hidden) * std)
        self.o = nn.Parameter(torch.randn(c.hidden, c.heads * c.head_dim) * out)
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(c.head_dim)), nn.Parameter(torch.ones(c.head_dim))
        self.sink = nn.Parameter(torch.zeros(c.heads))
        self.gate, self.up = nn.Parameter(torch.randn(c.width, c.hidden) * std), nn.Parameter(torch.randn(c.width, c.hidden) * std)
        self.down = nn.Parameter(torch.randn(c.hidden, c.width) * out)

    def keys_values(self, x, cos, sin):
        """x [..., T, hidden] -> k, v repeated to all heads [..., T, heads, head_dim]."""
        c = self.c
        k = rms_norm(F.linear(x, self.k.to(x.dtype)).unflatten(-1, (c.kv_heads, c.head_dim)), self.k_norm, c.eps)
        v = F.linear(x, self.v.to(x.dtype)).unflatten(-1, (c.kv_heads, c.head_dim)) * c.value_scale
        rep = c.heads // c.kv_heads
        return apply_rope(k, cos, sin).repeat_interleave(rep, -2), v.repeat_interleave(rep, -2)

    def forward(self, x, context, context_tables, block_tables, visible, dtype):
        """x [B, A, 8, hidden]; context [B, T, hidden]; visible [B, A, 8, T]."""
        c = self.c
        h = rms_norm(x, self.input_norm, c.eps).to(dtype)
        q = rms_norm(F.linear(h, self.q.to(dtype)).unflatten(-1, (c.heads, c.head_dim)), self.q_norm, c.eps)
        q = apply_rope(q, *block_tables)
        kb, vb = self.keys_values(h, *block_tables)
        kc, vc = self.keys_values(context.to(dtype), *context_tables)
        scale = c.head_dim ** -0.5
        far = torch.einsum("baihd,bthd->bahit", q, kc).float() * scale
        far = far.masked_fill(~visible[:, :, None], -torch.inf)
        near = torch.einsum("baihd,bajhd->bahij", q, kb).float() * scale
        sink = self.sink.view(1, 1, -1, 1, 1).expand(*near.shape[:4], 1)
        a = torch.softmax(torch.cat((far, near, sink), -1), -1).to(dtype)
        t = far.shape[-1]
        y = torch.einsum("bahit,bthd->baihd", a[..., :t], vc) + torch.einsum("bahij,bajhd->baihd", a[..., t:-1], vb)
        x = x + F.linear(y.flatten(-2), self.o.to(dtype)).float()
        h = rms_norm(x, self.post_norm, c.eps).to(dtype)
        return x + F.linear(F.silu(F.linear(h, self.gate.to(dtype))) * F.linear(h, self.up.to(dtype)), self.down.to(dtype)).float()


class Draft(nn.Module):
    def __init__(self, c=DraftConfig()):
        super().__init__()
        self.c = c
        self.fc = nn.Parameter(torch.randn(c.hidden, c.hidden * len(c.taps)) * 0.02)
        self.hidden_norm, self.norm = nn.Parameter(torch.ones(c.hidden)), nn.Parameter(torch.ones(c.hidden))
        self.layers = nn.ModuleList(DraftLayer(c) for _ in range(c.layers))
        self.mask_embedding = nn.Parameter(torch.randn(c.hidden) * 0.02)

    def forward(self, taps, ids, anchors, embed, head, dtype=torch.bfloat16):
        """taps [B, T, 4 * hidden], ids [B, T], anchors [B, A] positions -> logits [B, A, 7, vocab]."""
        c = self.c
        t = ids.shape[1]
        context = rms_norm(F.linear(taps.to(dtype), self.fc.to(dtype)), self.hidden_norm, c.eps)
        offset = torch.arange(c.block, device=ids.device)
        positions = anchors[..., None] + offset  # [B, A, 8]
        p = torch.arange(t, device=ids.device)
        visible = (p < anchors[..., None, None]) & (positions[..., None] - p < c.window)
        first = F.embedding(ids.gather(1, anchors), embed)[:, :, None]
        x = torch.cat((first, self.mask_embedding.expand(*first.shape[:2], c.block - 1, -1)), 2)
        context_tables = rope_tables(p, c.rotary, c.theta)
        block_tables = rope_tables(positions, c.rotary, c.theta)
        for layer in self.layers:
            x = layer(x, context, context_tables, block_tables, visible, dtype)
        h = rms_norm(x[:, :, 1:], self.norm, c.eps).to(dtype)
        return F.linear(h, head.to(dtype))


@torch.no_grad()
def round_to_bf16(draft):
    """The draft is stored in BF16: the weights that are measured are the weights that are shipped."""
    for p in draft.parameters():
        p.copy_(p.bfloat16().float())
