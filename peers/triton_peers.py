"""Triton kernels of this repository's own, as the third thing a user would try: an FP8 linear with 128x128 scales, and the MXFP4 expert pair.

Weights are the first operand of every product (64 rows or so), the step's rows, padded to 16, the second. Long sums are split over programs and
added by a second kernel in a fixed order. Block sizes are chosen by timing a few of them, for each matrix at 8 rows and for each set of experts.
"""

import sys

import torch
import triton
import triton.language as tl
from matrices import (
    EXPERT_WIDTH,
    FP8_LINEARS,
    HIDDEN,
    PAIRS,
    ROWS,
    STORED_EXPERTS,
    copies_of,
    fp8_input,
    fp8_weight,
    input_value,
    mxfp4_weight,
    normal,
    routing,
)
from measure import Record, graph_samples, try_peer

PADDED = 16
FP8_BOUND = 5e-3  # results are rounded to BF16
PAIR_BOUND = 5e-3  # and h before the second product


@triton.jit
def fp8_linear_kernel(x, x_scales, w, w_scales, parts, rows, k, blocks_each, TILE: tl.constexpr, COLUMNS: tl.constexpr):
    """parts[split][column][row] = sum over this split's blocks of 128 of k."""
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.arange(0, COLUMNS)
    inner = tl.arange(0, 128)
    first = tl.program_id(1) * blocks_each
    k_blocks = k // 128
    w_at = w + row.to(tl.int64)[:, None] * k + first * 128 + inner[None, :]
    x_at = x + column[None, :] * k + first * 128 + inner[:, None]
    ws_at = w_scales + (row // 128) * k_blocks + first
    xs_at = x_scales + column * k_blocks + first
    total = tl.zeros((TILE, COLUMNS), dtype=tl.float32)
    for _ in range(blocks_each):
        product = tl.dot(tl.load(w_at), tl.load(x_at))
        total += product * (tl.load(ws_at)[:, None] * tl.load(xs_at)[None, :])
        w_at += 128
        x_at += 128
        ws_at += 1
        xs_at += 1
    tl.store(parts + (tl.program_id(1) * COLUMNS + column[None, :]) * rows + row[:, None], total)


@triton.jit
def sum_kernel(parts, out, splits, rows, COLUMNS: tl.constexpr, TILE: tl.constexpr):
    """out[column][row] = sum of parts[split][column][row], in ascending split."""
    at = tl.program_id(1) * rows + tl.program_id(0) * TILE + tl.arange(0, TILE)
    mask = tl.program_id(0) * TILE + tl.arange(0, TILE) < rows
    total = tl.zeros((TILE,), dtype=tl.float32)
    for split in range(splits):
        total += tl.load(parts + split * COLUMNS * rows + at, mask=mask, other=0.0)
    tl.store(out + at, total.to(tl.bfloat16), mask=mask)


def pad(x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros((PADDED, *x.shape[1:]), dtype=torch.float32, device="cuda")
    out[: x.shape[0]] = x.to(torch.float32)
    return out.to(x.dtype)


class Fp8Linear:
    def __init__(self, rows: int, k: int, m: int, tile: int, splits: int, warps: int, stages: int):
        self.rows, self.k, self.m, self.tile, self.splits = rows, k, m, tile, splits
        self.options = {"num_warps": warps, "num_stages": stages}
        self.parts = torch.empty((splits, PADDED, rows), device="cuda")
        self.out = torch.empty((m, rows), dtype=torch.bfloat16, device="cuda")

    def __call__(self, codes, scales, w):
        fp8_linear_kernel[(self.rows // self.tile, self.splits)](
            codes, scales, w.codes, w.scales, self.parts, self.rows, self.k, self.k // 128 // self.splits, TILE=self.tile, COLUMNS=PADDED, **self.options
        )
        sum_kernel[(triton.cdiv(self.rows, 512), self.m)](self.parts, self.out, self.splits, self.rows, COLUMNS=PADDED, TILE=512, num_warps=4)
        return self.out


def median(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]


def best_of(options, calls_of_option):
    """The option whose calls take the least time; those that fail are passed over."""
    best, least = None, float("inf")
    for option in options:
        try:
            took = median(graph_samples(calls_of_option(option)))
        except Exception as failure:  # noqa: BLE001 - an option that does not fit is no option
            print(f"  {option}: {type(failure).__name__}: {str(failure).splitlines()[:1]}", file=sys.stderr)
            continue
        if took < least:
            best, least = option, took
    if best is None:
        raise RuntimeError("none of the block sizes works")
    return best


def fp8_linears(record: Record) -> None:
    for linear in FP8_LINEARS:
        blocks = linear.k // 128
        weights = [fp8_weight(linear, 300 + 2 * i, "block") for i in range(copies_of(linear.rows * linear.k))]
        expected_w = weights[0].value()
        chosen = {}

        def make(m, linear=linear, blocks=blocks, weights=weights, expected_w=expected_w, chosen=chosen):
            x = fp8_input(m, linear.k, 11 + m, "block")
            codes, scales = pad(x.codes), pad(x.scales)

            def calls(option):
                kernel = Fp8Linear(linear.rows, linear.k, m, *option)
                return [lambda w=w: kernel(codes, scales, w) for w in weights]

            if "option" not in chosen:
                splits = [s for s in (4, 6, 8, 12) if blocks % s == 0]
                chosen["option"] = best_of([(64, s, 4, stages) for stages in (4, 6) for s in splits] + [(32, splits[0], 4, 6)], calls)
            copies = calls(chosen["option"])
            return copies, copies[0](), input_value(x) @ expected_w.t()

        for m in reversed(ROWS):
            fields = {"matrix": linear.name, "rows": linear.rows, "k": linear.k, "m": m, "experts": None, "peer": "Triton FP8, scales 1x128 and 128x128"}
            fields |= {"weights": "fp8", "bytes": weights[0].bytes}
            try_peer(record, {"graph": graph_samples}, fields, lambda m=m, make=make: make(m), FP8_BOUND)
        del weights, expected_w
        torch.cuda.empty_cache()


# --- the expert pair


@triton.jit
def widen(codes, scales, TILE: tl.constexpr, HALF: tl.constexpr):
    """Bytes of two E2M1 codes and their E8M0 scales [TILE][HALF / 16], at most 2, as two tiles of BF16: of the low halves and of the high ones. A code's three low
    bits, at the top of BF16's fraction and the bottom of its exponent, are the value times 2^-126, exactly, zero and one half among them."""
    even, odd = tl.inline_asm_elementwise(
        """
        {
        .reg .b32 t, u, a, b;
        prmt.b32 t, $4, 0, 0x4140;
        prmt.b32 u, $4, 0, 0x4342;
        shl.b32 a, t, 12; shl.b32 b, t, 6; and.b32 a, a, 0x80008000; and.b32 b, b, 0x01c001c0; or.b32 $0, a, b;
        shl.b32 a, u, 12; shl.b32 b, u, 6; and.b32 a, a, 0x80008000; and.b32 b, b, 0x01c001c0; or.b32 $1, a, b;
        shl.b32 a, t, 8; shl.b32 b, t, 2; and.b32 a, a, 0x80008000; and.b32 b, b, 0x01c001c0; or.b32 $2, a, b;
        shl.b32 a, u, 8; shl.b32 b, u, 2; and.b32 a, a, 0x80008000; and.b32 b, b, 0x01c001c0; or.b32 $3, a, b;
        }
        """,
        constraints="=r,=r,=r,=r,r",
        args=[codes],
        dtype=(tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=4,
    )
    factor = ((scales.to(tl.uint16) + 126) << 7).to(tl.bfloat16, bitcast=True)  # 2^(scale - 127) * 2^126
    wide = tl.reshape(tl.broadcast_to(factor[:, :, None], (TILE, HALF // 16, 16)), (TILE, HALF))
    return even * wide, odd * wide


@triton.jit
def product(w_at, s_at, x_at, x_odd_at, total, TILE: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr):
    """total += TILE weight rows times 16 input rows over BLOCK of k. x_at: all of the block, or (not SCALED) its even k, with the odd ones at x_odd_at."""
    codes = tl.load(w_at)
    scales = tl.load(s_at)
    if SCALED:
        return tl.dot_scaled(codes, scales, "e2m1", tl.load(x_at), None, "bf16", total)
    else:
        even, odd = widen(codes, scales, TILE, BLOCK // 2)
        total = tl.dot(even, tl.load(x_at), total)
        return tl.dot(odd, tl.load(x_odd_at), total)


@triton.jit
def up_kernel(x, experts, weights, w, w_scales, h, k, WIDTH: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr, COLUMNS: tl.constexpr):
    """h[place][column][WIDTH] = silu(gate) * up * the column's weight for the expert; expert rows are [gate | up]. Unless SCALED, x and h have even k first."""
    place = tl.program_id(1)
    expert = tl.load(experts + place).to(tl.int64)
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.arange(0, COLUMNS)
    byte = tl.arange(0, BLOCK // 2)
    group = tl.arange(0, BLOCK // 32)
    STEP: tl.constexpr = BLOCK if SCALED else BLOCK // 2
    gate_at = w + (expert * 2 * WIDTH + row[:, None]) * (k // 2) + byte[None, :]
    gate_s = w_scales + (expert * 2 * WIDTH + row[:, None]) * (k // 32) + group[None, :]
    x_at = x + column[None, :] * k + tl.arange(0, STEP)[:, None]
    gate = tl.zeros((TILE, COLUMNS), dtype=tl.float32)
    up = tl.zeros((TILE, COLUMNS), dtype=tl.float32)
    for _ in range(k // BLOCK):
        gate = product(gate_at, gate_s, x_at, x_at + k // 2, gate, TILE, BLOCK, SCALED)
        up = product(gate_at + WIDTH * (k // 2), gate_s + WIDTH * (k // 32), x_at, x_at + k // 2, up, TILE, BLOCK, SCALED)
        gate_at += BLOCK // 2
        gate_s += BLOCK // 32
        x_at += STEP
    share = tl.load(weights + place * COLUMNS + column)
    value = gate / (1.0 + tl.exp(-gate)) * up * share[None, :]
    to = row if SCALED else row % 2 * (WIDTH // 2) + row // 2
    tl.store(h + (place * COLUMNS + column[None, :]) * WIDTH + to[:, None], value.to(tl.bfloat16))


@triton.jit
def down_kernel(h, experts, count, each, w, w_scales, parts, hidden, WIDTH: tl.constexpr, TILE: tl.constexpr, SCALED: tl.constexpr, COLUMNS: tl.constexpr):
    """parts[split][column][row]: `each` experts of the list, in order."""
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.arange(0, COLUMNS)
    byte = tl.arange(0, WIDTH // 2)
    group = tl.arange(0, WIDTH // 32)
    STEP: tl.constexpr = WIDTH if SCALED else WIDTH // 2
    total = tl.zeros((TILE, COLUMNS), dtype=tl.float32)
    first = tl.program_id(1) * each
    for place in range(first, tl.minimum(first + each, count)):
        expert = tl.load(experts + place).to(tl.int64)
        w_at = w + (expert * hidden + row[:, None]) * (WIDTH // 2) + byte[None, :]
        s_at = w_scales + (expert * hidden + row[:, None]) * (WIDTH // 32) + group[None, :]
        h_at = h + (place * COLUMNS + column[None, :]) * WIDTH + tl.arange(0, STEP)[:, None]
        total = product(w_at, s_at, h_at, h_at + WIDTH // 2, total, TILE, WIDTH, SCALED)
    tl.store(parts + (tl.program_id(1) * COLUMNS + column[None, :]) * hidden + row[:, None], total)


class ExpertPair:
    def __init__(self, x, route, scaled: bool, option):
        self.tile, self.block, self.stages, self.splits = option
        self.x, self.scaled, self.m = pad(x), scaled, x.shape[0]
        if not scaled:
            self.x = torch.cat((self.x[:, 0::2], self.x[:, 1::2]), 1).contiguous()
        self.count = route.shape[1]
        self.weights = pad(route).t().contiguous().float()
        self.splits = min(self.splits, self.count)
        self.h = torch.empty((self.count, PADDED, EXPERT_WIDTH), dtype=torch.bfloat16, device="cuda")
        self.parts = torch.empty((self.splits, PADDED, HIDDEN), device="cuda")
        self.out = torch.empty((self.m, HIDDEN), dtype=torch.bfloat16, device="cuda")

    def __call__(self, experts, up, down):
        up_kernel[(EXPERT_WIDTH // self.tile, self.count)](
            self.x, experts, self.weights, up.codes, up.scales, self.h, HIDDEN,
            WIDTH=EXPERT_WIDTH, TILE=self.tile, BLOCK=self.block, SCALED=self.scaled, COLUMNS=PADDED, num_warps=4, num_stages=self.stages,
        )  # fmt: skip
        each = triton.cdiv(self.count, self.splits)
        down_kernel[(HIDDEN // 64, self.splits)](
            self.h, experts, self.count, each, down.codes, down.scales, self.parts, HIDDEN,
            WIDTH=EXPERT_WIDTH, TILE=64, SCALED=self.scaled, COLUMNS=PADDED, num_warps=4, num_stages=self.stages,
        )  # fmt: skip
        used = triton.cdiv(self.count, each)
        sum_kernel[(triton.cdiv(HIDDEN, 512), self.m)](self.parts, self.out, used, HIDDEN, COLUMNS=PADDED, TILE=512, num_warps=4)
        return self.out


PAIR_OPTIONS = ((64, 128, 4, 8), (64, 256, 3, 4), (32, 128, 4, 8), (32, 256, 3, 16), (16, 256, 3, 8), (16, 512, 2, 8))
"""Rows and k of a tile, stages, and parts of the list of experts in the second product."""


def expert_pairs(record: Record) -> None:
    up = mxfp4_weight(STORED_EXPERTS, 2 * EXPERT_WIDTH, HIDDEN, 900)
    down = mxfp4_weight(STORED_EXPERTS, HIDDEN, EXPERT_WIDTH, 901)
    order = torch.randperm(STORED_EXPERTS, generator=torch.Generator().manual_seed(3)).to(torch.int32)
    expert_bytes = (up.codes[0].numel() + up.scales[0].numel()) + (down.codes[0].numel() + down.scales[0].numel())
    for scaled, peer in ((True, "Triton MXFP4 by dot_scaled, BF16 inputs"), (False, "Triton MXFP4 widened by hand, BF16 inputs")):
        for m, count in reversed(PAIRS):

            def make(m=m, count=count, scaled=scaled):
                lists = [order[i : i + count].sort().values.cuda() for i in range(0, STORED_EXPERTS - count + 1, count)]
                lists = lists[: copies_of(count * expert_bytes)]
                x = normal((m, HIDDEN), 17 + m)
                route = routing(m, count, 19 + m)

                def calls(option):
                    pair = ExpertPair(x, route, scaled, option)
                    return [lambda experts=experts: pair(experts, up, down) for experts in lists]

                copies = calls(best_of(PAIR_OPTIONS, calls))
                ids = lists[0].long()
                gate, value = torch.einsum("mk,enk->emn", x.double(), type(up)(up.codes[ids], up.scales[ids]).value()).chunk(2, -1)
                h = torch.nn.functional.silu(gate) * value * route.double().t().unsqueeze(-1)
                expected = torch.einsum("emk,enk->mn", h, type(down)(down.codes[ids], down.scales[ids]).value())
                return copies, copies[0](), expected

            fields = {"matrix": "expert-pair", "rows": None, "k": None, "m": m, "experts": count, "peer": peer, "weights": "mxfp4"}
            try_peer(record, {"graph": graph_samples}, {**fields, "bytes": count * expert_bytes}, make, PAIR_BOUND)


def main(path: str, seconds: float) -> None:
    record = Record(path, seconds)
    fp8_linears(record)
    expert_pairs(record)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
