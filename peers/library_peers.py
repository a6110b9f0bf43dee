"""Marlin (IST-DASLab), the INT4 kernel that serving libraries took theirs from, as a shared library that the user names: `run.py --marlin PATH`.

INT4 with an FP16 scale for 128 weights is 4.125 bits a weight, less than FP8's and MXFP4's: another model, so its times stand in the list of peers and never beside an
operation. It has no grouped form: the expert pair is one dense call an expert and product, over all rows of the step, issued one after the other.

The kernel reports no error of its own, and one is seen by whoever asks the GPU next. So cuBLAS, which the comparison needs, makes its handle before the library runs, and the first call
is waited for.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from marlin import GROUP, TILE_K, TILE_ROWS, linear_fields, open_library, padded, pair_fields, scale_order, tile_order
from matrices import EXPERT_WIDTH, FP8_LINEARS, HIDDEN, PAIRS, ROWS, copies_of, generator, normal, routing
from measure import Record, eager_samples, graph_samples, synchronize, try_peer

LINEAR_BOUND = 2e-3  # FP16: each code times its scale, each sum that one block hands to the next, and the result are rounded, 2^-11 at most
PAIR_BOUND = 5e-3  # the same twice, and h between


def pack_codes(codes: torch.Tensor) -> torch.Tensor:
    """codes [rows][k], 0..15, uint8 -> int32 [k / 16][rows / 64 * 128]."""
    rows, k = codes.shape
    order = torch.tensor(tile_order(), device=codes.device)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=codes.device)
    tiles = codes.t().reshape(k // TILE_K, TILE_K, rows // TILE_ROWS, TILE_ROWS).transpose(1, 2).reshape(-1, TILE_K * TILE_ROWS)
    nibbles = tiles[:, order].view(-1, 128, 8).to(torch.int32)
    return (nibbles << shifts).sum(-1, dtype=torch.int32).view(k // TILE_K, -1)


def pack_scales(scales: torch.Tensor) -> torch.Tensor:
    """scales [rows][k / 128], FP16 -> [k / 128][rows], rows of each 64 in the kernel's order."""
    order = torch.tensor(scale_order(), device=scales.device)
    return scales.t().reshape(scales.shape[1], -1, TILE_ROWS)[..., order].reshape(scales.shape[1], -1).contiguous()


@dataclass(frozen=True)
class Int4:
    """codes [rows][k], 0..15, and scales [rows][k / 128], FP16."""

    codes: torch.Tensor
    scales: torch.Tensor

    def value(self) -> torch.Tensor:
        return (self.codes.double() - 8.0) * self.scales.double().repeat_interleave(GROUP, 1)


def int4_weight(rows: int, k: int, seed: int) -> Int4:
    codes = torch.randint(0, 16, (rows, k), dtype=torch.uint8, device="cuda", generator=generator(seed))
    scales = torch.rand((rows, k // GROUP), generator=generator(seed + 1), device="cuda") * 0.004 + 0.002
    return Int4(codes, scales.to(torch.float16))


def first_call(call: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What it makes; an error of its kernel is raised here."""
    made = call()
    synchronize()
    return made


def wake_cublas() -> None:
    for dtype in (torch.float16, torch.float64):
        one = torch.ones((16, 16), dtype=dtype, device="cuda")
        one @ one
    synchronize()


class Packed:
    """One matrix as the kernel reads it."""

    def __init__(self, weight: Int4):
        self.rows, self.k = weight.codes.shape
        self.words, self.scales = pack_codes(weight.codes), pack_scales(weight.scales)


class Marlin:
    def __init__(self, path: str, note: str):
        self._multiply, self.note = open_library(path), note
        self._device = torch.cuda.current_device()
        # Zero before and after every call; `rows / 128 * 16` counters, of the widest matrix.
        self._workspace = torch.zeros(max(HIDDEN, *(padded(linear.rows) for linear in FP8_LINEARS)) // 128 * 16, dtype=torch.int32, device="cuda")

    def __call__(self, x: torch.Tensor, weight: Packed, out: torch.Tensor) -> torch.Tensor:
        """x [m][k] FP16 -> out [m][rows] FP16."""
        stream = torch.cuda.current_stream().cuda_stream
        status = self._multiply(
            x.data_ptr(), weight.words.data_ptr(), out.data_ptr(), weight.scales.data_ptr(), x.shape[0], weight.rows, weight.k,
            self._workspace.data_ptr(), GROUP, self._device, stream, -1, -1, -1, 16,
        )  # fmt: skip
        if status != 0:
            raise ValueError(f"marlin_cuda answered {status}: {x.shape[0]} x {weight.k} x {weight.rows} is none of its shapes")
        return out


def linears(record: Record, marlin: Marlin) -> None:
    for index, linear in enumerate(FP8_LINEARS):
        rows, size = padded(linear.rows), linear_fields(linear.name, linear.rows, linear.k, 1)["bytes"]
        first = int4_weight(rows, linear.k, 1000 + 100 * index)
        weights = [Packed(first)]
        weights += [Packed(int4_weight(rows, linear.k, 1000 + 100 * index + 2 * i)) for i in range(1, copies_of(size))]
        expected_w = first.value()[: linear.rows]
        for m in ROWS:
            x = normal((m, linear.k), 23 + m, torch.float16)

            def make(x=x, m=m, rows=rows, weights=weights, expected_w=expected_w):
                expected = x.double() @ expected_w.t()
                out = torch.full((m, rows), torch.nan, dtype=torch.float16, device="cuda")
                copies = [lambda w=w: marlin(x, w, out) for w in weights]
                return copies, first_call(copies[0])[:, : expected_w.shape[0]], expected

            modes = {"graph": graph_samples} | ({"eager": eager_samples} if m in (1, 8) else {})
            try_peer(record, modes, linear_fields(linear.name, linear.rows, linear.k, m, marlin.note), make, LINEAR_BOUND)
        del first, weights, expected_w
        torch.cuda.empty_cache()


class ExpertPair:
    """Every touched expert multiplies every row of the step; rows that did not choose it weigh nothing."""

    def __init__(self, marlin: Marlin, x: torch.Tensor, route: torch.Tensor):
        m, experts = route.shape
        self.marlin, self.x, self.share = marlin, x, route.t().unsqueeze(-1).to(torch.float16).contiguous()
        self.wide = torch.full((experts, m, 2 * EXPERT_WIDTH), torch.nan, dtype=torch.float16, device="cuda")
        self.out = torch.full((experts, m, HIDDEN), torch.nan, dtype=torch.float16, device="cuda")

    def __call__(self, experts: list[tuple[Packed, Packed]]) -> torch.Tensor:
        for (up, _), wide in zip(experts, self.wide, strict=True):
            self.marlin(self.x, up, wide)
        gate, value = self.wide.chunk(2, -1)
        h = F.silu(gate) * value * self.share
        for (_, down), rows, out in zip(experts, h, self.out, strict=True):
            self.marlin(rows, down, out)
        return self.out.sum(0)


def expert_pairs(record: Record, marlin: Marlin) -> None:
    expert_bytes = pair_fields(1, 1, EXPERT_WIDTH, HIDDEN)["bytes"]
    stored = max(count * copies_of(count * expert_bytes) for _, count in PAIRS)
    packed, known = [], []
    for i in range(stored):
        up, down = int4_weight(2 * EXPERT_WIDTH, HIDDEN, 3000 + 4 * i), int4_weight(HIDDEN, EXPERT_WIDTH, 3002 + 4 * i)
        packed.append((Packed(up), Packed(down)))
        if i < max(count for _, count in PAIRS):
            known.append((up, down))
    for m, count in PAIRS:

        def make(m=m, count=count):
            x = normal((m, HIDDEN), 17 + m, torch.float16)
            route = routing(m, count, 19 + m).to(torch.float16)
            pair = ExpertPair(marlin, x, route)
            lists = [packed[i * count : (i + 1) * count] for i in range(copies_of(count * expert_bytes))]
            copies = [lambda experts=experts: pair(experts) for experts in lists]
            expected = torch.zeros((m, HIDDEN), dtype=torch.float64, device="cuda")
            for expert, (up, down) in enumerate(known[:count]):
                gate, value = (x.double() @ up.value().t()).chunk(2, -1)
                expected += (F.silu(gate) * value * route[:, expert : expert + 1].double()) @ down.value().t()
            return copies, first_call(copies[0]), expected

        try_peer(record, {"graph": graph_samples}, pair_fields(m, count, EXPERT_WIDTH, HIDDEN, marlin.note), make, PAIR_BOUND)


def main(path: str, seconds: float, library: str, note: str) -> None:
    record = Record(path, seconds)
    wake_cublas()
    marlin = Marlin(library, note)
    linears(record, marlin)
    expert_pairs(record, marlin)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else "")
