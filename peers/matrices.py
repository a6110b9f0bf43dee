"""The matrices of one rank of eight of the 1.02 T shape, and weights for them: random, never zero as a whole, made on the GPU from a fixed seed.

Every peer gets the same shapes. Weights are rotated: a timed loop walks over enough copies that at least ROTATE_BYTES lie between two uses.
"""

from dataclasses import dataclass

import torch

ROTATE_BYTES = 200_000_000
ROWS = (1, 2, 4, 8)
PAIRS = ((1, 8), (2, 16), (4, 32), (8, 8), (8, 24), (8, 40), (8, 60))
"""Rows of a step, and the experts they touch together: each chooses 8 of 384, and eight rows share none to all of them."""


@dataclass(frozen=True)
class Linear:
    name: str
    rows: int
    k: int


FP8_LINEARS = (
    Linear("qkv", 3392, 6144),
    Linear("o", 6144, 2048),
    Linear("dense-up", 4096, 6144),
    Linear("dense-down", 6144, 2048),
)
BF16_LINEARS = (*FP8_LINEARS, Linear("head", 19072, 6144))
ROUTER = Linear("router", 384, 6144)  # stored as binary32

EXPERT_WIDTH, HIDDEN, STORED_EXPERTS = 256, 6144, 384


def generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cuda").manual_seed(seed)


def copies_of(bytes_each: int) -> int:
    """Copies (at least two) so that one is used again only after ROTATE_BYTES of others."""
    return max(2, -(-ROTATE_BYTES // bytes_each) + 1)


def normal(shape, seed: int, dtype=torch.bfloat16, scale: float = 1.0) -> torch.Tensor:
    out = torch.empty(shape, dtype=dtype, device="cuda")
    out.normal_(0.0, scale, generator=generator(seed))
    return out


@dataclass(frozen=True)
class Fp8:
    """codes [rows][k] E4M3 and their scales; `value` multiplies them out in binary64."""

    codes: torch.Tensor
    scales: torch.Tensor  # one [1][1], by row [rows][1], or of 128 x 128 blocks [rows / 128][k / 128]

    def value(self) -> torch.Tensor:
        rows, k = self.codes.shape
        scales = self.scales.double()
        if scales.shape[1] != 1:
            scales = scales.repeat_interleave(128, 1)[:, :k].repeat_interleave(128, 0)[:rows]
        return self.codes.to(torch.float32).double() * scales

    @property
    def bytes(self) -> int:
        return self.codes.numel() + self.scales.numel() * 4


def fp8_weight(linear: Linear, seed: int, scaling: str) -> Fp8:
    """scaling: `one`, `row` or `block`."""
    codes = normal((linear.rows, linear.k), seed, scale=30.0).to(torch.float8_e4m3fn)
    shape = {"one": (1, 1), "row": (linear.rows, 1), "block": (-(-linear.rows // 128), -(-linear.k // 128))}[scaling]
    scales = torch.rand(shape, generator=generator(seed + 1), device="cuda") * 0.002 + 0.0005
    return Fp8(codes, scales)


def fp8_input(m: int, k: int, seed: int, scaling: str) -> Fp8:
    codes = normal((m, k), seed, scale=30.0).to(torch.float8_e4m3fn)
    shape = {"one": (1, 1), "row": (m, 1), "block": (m, k // 128)}[scaling]
    scales = torch.rand(shape, generator=generator(seed + 1), device="cuda") * 0.02 + 0.01
    return Fp8(codes, scales)


def input_value(x: Fp8) -> torch.Tensor:
    scales = x.scales.double()
    if scales.shape[1] != 1:
        scales = scales.repeat_interleave(128, 1)
    return x.codes.to(torch.float32).double() * scales


_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True)
class Mxfp4:
    """codes [..][rows][k / 2], two E2M1 a byte, the even k in the low half; scales [..][rows][k / 32], E8M0. Source: OCP MX 1.0."""

    codes: torch.Tensor
    scales: torch.Tensor

    def value(self) -> torch.Tensor:
        table = torch.tensor(_E2M1, dtype=torch.float64, device="cuda")
        codes = self.codes.long()
        pairs = torch.stack((table[codes & 15], table[codes >> 4]), -1).flatten(-2)
        return pairs * torch.exp2(self.scales.double() - 127.0).repeat_interleave(32, -1)


def mxfp4_weight(experts: int, rows: int, k: int, seed: int) -> Mxfp4:
    random = generator(seed)
    codes = torch.randint(0, 256, (experts, rows, k // 2), dtype=torch.uint8, device="cuda", generator=random)
    scales = torch.randint(117, 122, (experts, rows, k // 32), dtype=torch.uint8, device="cuda", generator=random)
    return Mxfp4(codes, scales)


def routing(m: int, experts: int, seed: int) -> torch.Tensor:
    """[m][experts]: the weight of every touched expert for every row; each row chose 8, every expert was chosen by someone."""
    random = torch.Generator().manual_seed(seed)
    weights = torch.zeros(m, experts)
    order = torch.randperm(experts, generator=random).tolist()
    for row in range(m):
        mine = order[row * experts // m : (row + 1) * experts // m][:8]
        rest = [e for e in torch.randperm(experts, generator=random).tolist() if e not in mine]
        chosen = (mine + rest)[:8]
        weights[row, chosen] = torch.rand(8, generator=random) + 0.1
    return (weights / weights.sum(1, keepdim=True)).cuda()
