"""The checkpoint's number formats, as exact encoders (for export) and as straight-through fake quantisers (for training).

FP8 weights: E4M3 with one FP32 scale per 128 x 128 block. FP8 activations: E4M3, one scale per row and 128 channels. MXFP4: E2M1 with a
power-of-two scale per 32 (OCP MX v1.0), shared exponent floor(log2 amax) - 2, so values above 6 saturate.
"""
import torch
import torch.nn.functional as F

E4M3_MAX = 448.0


def _pad(x, rows, cols):
    return F.pad(x, (0, -x.shape[-1] % cols, 0, -x.shape[-2] % rows))


def fp8_block_encode(w):
    """w [..., R, C] float32 -> codes float8_e4m3fn [..., R, C], scales float32 [..., ceil(R/128), ceil(C/128)]."""
    r, c = w.shape[-2:]
    p = _pad(w, 128, 128)
    blocks = p.unflatten(-1, (-1, 128)).unflatten(-3, (-1, 128))  # [..., br, 128, bc, 128]
    amax = blocks.abs().amax((-3, -1))
    scale = torch.where(amax > 0, amax / E4M3_MAX, torch.ones_like(amax))
    codes = (blocks / scale[..., :, None, :, None]).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return codes.flatten(-4, -3).flatten(-2, -1)[..., :r, :c].contiguous(), scale


def fp8_block_decode(codes, scale):
    r, c = codes.shape[-2:]
    full = scale.repeat_interleave(128, -2)[..., :r, :].repeat_interleave(128, -1)[..., :c]
    return codes.float() * full


def mxfp4_encode(w):
    """w [..., K] float32, K a multiple of 32 -> element codes uint8 [..., K] (0..15), scale bytes uint8 [..., K/32]."""
    blocks = w.float().unflatten(-1, (-1, 32))
    amax = blocks.abs().amax(-1)
    _, exponent = torch.frexp(amax)  # amax = m * 2^exponent, m in [0.5, 1)
    e = torch.where(amax > 0, exponent - 1 - 2, torch.zeros_like(exponent)).clamp(-127, 127)
    v = torch.ldexp(blocks, -e[..., None])
    a = v.abs().clamp(max=6.0)
    index = torch.where(a < 2, torch.round(a * 2), torch.where(a < 4, torch.round(a) + 2, torch.round(a / 2) + 4)).to(torch.uint8)
    code = index | (torch.signbit(v).to(torch.uint8) << 3)
    return code.flatten(-2), (e + 127).to(torch.uint8)


E2M1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0.0, -.5, -1, -1.5, -2, -3, -4, -6])


def mxfp4_decode(code, scale):
    value = E2M1.to(code.device)[code.long()]
    return torch.ldexp(value.unflatten(-1, (-1, 32)), (scale.to(torch.int32) - 127)[..., None]).flatten(-2)


def mxfp4_pack(code):
    """Two codes a byte along K: the low nibble is the even k."""
    return (code[..., 0::2] | (code[..., 1::2] << 4)).contiguous()


def _straight_through(w, quantised):
    return w + (quantised - w).detach()


def fake_fp8_weight(w):
    return _straight_through(w, fp8_block_decode(*fp8_block_encode(w.detach().float())))


def fake_mxfp4_weight(w):
    return _straight_through(w, mxfp4_decode(*mxfp4_encode(w.detach())))


def fake_bf16(w):
    return _straight_through(w, w.detach().bfloat16().float())


def fake_fp8_activation(x):
    """x [..., K]: one scale per row and 128 channels, the last group may be shorter."""
    d = x.detach().float()
    k = d.shape[-1]
    g = F.pad(d, (0, -k % 128)).unflatten(-1, (-1, 128))
    amax = g.abs().amax(-1, keepdim=True)
    scale = torch.where(amax > 0, amax / E4M3_MAX, torch.ones_like(amax))
    q = ((g / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float() * scale).flatten(-2)[..., :k]
    return x + (q - d).detach().to(x.dtype)
