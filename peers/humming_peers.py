"""Humming (inclusionAI), the open library that serving libraries call for MXFP4 experts on Hopper, in a folder that the user names: `run.py --humming FOLDER`.

It compiles its kernels while it runs. Here: FP8 linears with 128x128 scales and with a scale a row, and the MXFP4 expert pair with E4M3 and with BF16 inputs, its
tokens indexed where they lie or gathered by expert. Inputs are quantised and tokens assigned to experts beforehand, which spares the peer work that the stack does;
between the two products of a pair runs one Triton kernel of this repository's own. Kernels' shapes are those that Humming's own heuristics choose.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

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
    Fp8,
    Linear,
    Mxfp4,
    copies_of,
    fp8_input,
    fp8_weight,
    input_value,
    mxfp4_weight,
    normal,
    routing,
)
from measure import Record, eager_samples, graph_samples, try_peer

CHOSEN = 8
"""Experts of a row."""
ROWS_MULTIPLE = 128
"""Output rows of a tile; others are padded to it."""
FP8_BOUND = 1e-2  # results are rounded to BF16, and Hopper's short FP8 accumulator
BF16_PAIR_BOUND = 1e-2  # BF16 between every two steps
E4M3_PAIR_BOUND = 2.0**-4  # h is rounded to E4M3


class Humming:
    """The package as imported from its folder. A layer is a matrix, or one an expert, in its layout."""

    def __init__(self, folder: str):
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))  # of the compiler it starts
        self._layer = importlib.import_module("humming.layer").HummingLayer
        self._tuning = importlib.import_module("humming.tune").get_heuristics_config
        self._kernel = importlib.import_module("humming.kernel.humming").HummingKernel

    def layer(self, rows: int, k: int, weights: dict, inputs: dict, tensors: dict, experts: int | None = None):
        layer = self._layer(rows, k, weight_config=dict(weights), input_config=dict(inputs), num_experts=experts, torch_dtype=torch.bfloat16).to("cuda")
        layer.load_from_tensors(tensors)
        layer.transform()
        return layer

    def tuning(self, layer, rows: int, gemm: str) -> dict:
        """What its heuristics choose for so many input rows, those of all experts together."""
        return self._tuning(layer.humming_metas[""], rows, gemm_type=gemm)

    def compile(self, wanted: list[tuple]) -> None:
        """Kernels of (layer, input rows, gemm), all at once; one that fails is said again, and recorded, where it is used."""
        kernels = {}
        for layer, rows, gemm in wanted:
            config = json.loads(layer.humming_metas[""].to_str()) | {"gemm_type": gemm} | self.tuning(layer, rows, gemm)
            kernels[json.dumps({name: value for name, value in config.items() if name not in ("sublayer_name", "num_sms")})] = None

        def one(config: str) -> None:
            try:
                self._kernel(**json.loads(config))
            except Exception as failure:  # noqa: BLE001
                print(f"  {type(failure).__name__}: {str(failure).splitlines()[:1]}", file=sys.stderr)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(one, kernels))

    def product(self, layer, rows: int, gemm: str) -> Callable[..., torch.Tensor]:
        tuning = json.dumps([[0, 1 << 30, self.tuning(layer, rows, gemm)]])
        compute = json.dumps({"gemm_type": gemm})
        return lambda **given: layer(compute_config=compute, tuning_config=tuning, **given)


# --- linears


def block_scaled(linear: Linear, seed: int):
    weight = fp8_weight(linear, seed, "block")
    return weight, {"weight": weight.codes.view(torch.int32), "weight_scale": weight.scales}


def row_scaled(linear: Linear, seed: int):
    weight = fp8_weight(linear, seed, "row")
    rounded = weight.scales.to(torch.bfloat16)
    return Fp8(weight.codes, rounded), {"weight": weight.codes.view(torch.int32), "weight_scale": rounded}


SCALINGS = {
    "block": ("Humming FP8, scales 1x128 and 128x128", {"dtype": "float8e4m3", "group_size": 128, "group_size_n": 128}, 128, block_scaled),
    "row": ("Humming FP8, a scale a row", {"dtype": "float8e4m3"}, 0, row_scaled),
}


class LinearPeer:
    def __init__(self, humming: Humming, linear: Linear, scaling: str):
        self.humming, self.linear, self.scaling = humming, linear, scaling
        self.padded = Linear(linear.name, -(-linear.rows // ROWS_MULTIPLE) * ROWS_MULTIPLE, linear.k)
        name, self._weights, self._group, self._make = SCALINGS[scaling]
        rows, k = self.padded.rows, self.padded.k
        size = rows * k + (rows // 128 * (k // 128) * 4 if scaling == "block" else rows * 2)
        peer = name if rows == linear.rows else f"{name}, rows padded to {rows}"
        self.fields = {"matrix": linear.name, "rows": linear.rows, "k": k, "experts": None, "peer": peer, "weights": "fp8", "bytes": size}

    def _layer(self, seed: int):
        weight, tensors = self._make(self.padded, seed)
        inputs = {"dtype": "float8e4m3", "group_size": self._group}
        return weight, self.humming.layer(self.padded.rows, self.padded.k, self._weights, inputs, tensors)

    @cached_property
    def first(self):
        return self._layer(300)

    @property
    def kernels(self) -> list[tuple]:
        return [(self.first[1], m, "dense") for m in ROWS]

    def measure(self, record: Record) -> None:
        layers, expected = [], []

        def make(m):
            if not layers:
                layers.extend([self.first[1], *(self._layer(300 + 2 * i)[1] for i in range(1, copies_of(self.fields["bytes"])))])
                expected.append(self.first[0].value()[: self.linear.rows])
            x = fp8_input(m, self.linear.k, 11 + m, self.scaling)
            products = [self.humming.product(layer, m, "dense") for layer in layers]
            copies = [lambda product=product: product(inputs=x.codes, input_scale=x.scales) for product in products]
            return copies, copies[0]()[:, : self.linear.rows], input_value(x) @ expected[0].t()

        for m in reversed(ROWS):
            modes = {"graph": graph_samples} | ({"eager": eager_samples} if self.scaling == "block" and m in (1, 8) else {})
            try_peer(record, modes, {**self.fields, "m": m}, lambda m=m: make(m), FP8_BOUND)


# --- the expert pair


@triton.jit
def gate_kernel(wide, share, h, h_scales, WIDTH: tl.constexpr, E4M3: tl.constexpr):
    """h[row] = silu(gate) * up * share, of wide[row] = [gate | up]; E4M3 with a scale a row, or BF16."""
    row = tl.program_id(0)
    at = tl.arange(0, WIDTH)
    gate = tl.load(wide + row * 2 * WIDTH + at).to(tl.float32)
    up = tl.load(wide + row * 2 * WIDTH + WIDTH + at).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up * tl.load(share + row)
    if E4M3:
        scale = tl.maximum(tl.max(tl.abs(value)), 1e-30) / 448.0
        tl.store(h_scales + row, scale)
        tl.store(h + row * WIDTH + at, (value / scale).to(tl.float8e4nv))
    else:
        tl.store(h + row * WIDTH + at, value.to(tl.bfloat16))


class Tokens:
    """Who chose whom, as either kind of product wants to be told. Results of a row's eight experts lie side by side (indexed), or by expert (grouped)."""

    def __init__(self, route: torch.Tensor, experts: torch.Tensor):
        """route [m][touched], eight of a row not zero; experts [touched], ascending."""
        self.rows = route.shape[0] * CHOSEN
        row, place = (route != 0).nonzero(as_tuple=True)
        self.expert = experts[place]  # [rows * 8], of every choice, row after row
        self.share = route[row, place].float()
        self.by_expert = self.expert.argsort(stable=True)
        self.row = row

    def indexed(self, block: int) -> dict:
        """Places of each expert's choices, filled up to whole blocks with one past the last; the expert of each block; how many places."""
        ids, owners = [], []
        for expert in self.expert.unique().tolist():
            mine = (self.expert == expert).nonzero().flatten()
            blocks = -(-mine.numel() // block)
            ids.append(torch.nn.functional.pad(mine, (0, blocks * block - mine.numel()), value=self.rows))
            owners += [expert] * blocks
        ids = torch.cat(ids).to(torch.int32)
        of = {"dtype": torch.int32, "device": ids.device}
        return {"sorted_ids": ids, "expert_ids": torch.tensor(owners, **of), "num_tokens_padded": torch.tensor(ids.numel(), **of)}

    def grouped(self) -> dict:
        ends = torch.bincount(self.expert, minlength=STORED_EXPERTS).cumsum(0)
        return {"expert_layout": torch.nn.functional.pad(ends, (1, 0))}


class ExpertPair:
    """One call: up, h, down, and the sum over a row's experts."""

    def __init__(self, humming: Humming, up, down, gemm: str, e4m3: bool, x, route: torch.Tensor, experts: torch.Tensor):
        tokens = Tokens(route, experts)
        codes, scales = (x.codes, x.scales) if e4m3 else (x, None)
        self.rows, self.m = tokens.rows, route.shape[0]
        products = [humming.product(layer, tokens.rows, gemm) for layer in (up, down)]
        if gemm == "indexed":
            told = [tokens.indexed(humming.tuning(layer, tokens.rows, gemm)["block_shape"][0]) for layer in (up, down)]
            told[0]["top_k"] = CHOSEN
            self.share, self.by_row = tokens.share, None
        else:
            told = [tokens.grouped()] * 2
            order = tokens.row[tokens.by_expert]
            codes = codes.view(torch.uint8)[order].view(codes.dtype) if e4m3 else codes[order]
            scales = scales[order].contiguous() if e4m3 else None
            self.share, self.by_row = tokens.share[tokens.by_expert].contiguous(), tokens.by_expert.argsort()
        self.first = lambda: products[0](inputs=codes, input_scale=scales, **told[0])
        self.h = torch.empty((self.rows, EXPERT_WIDTH), dtype=torch.float8_e4m3fn if e4m3 else torch.bfloat16, device="cuda")
        self.h_scales = torch.empty((self.rows, 1), device="cuda")
        self.second = lambda: products[1](inputs=self.h, input_scale=self.h_scales if e4m3 else None, **told[1])
        self.e4m3 = e4m3

    def __call__(self) -> torch.Tensor:
        wide = self.first()
        gate_kernel[(self.rows,)](wide, self.share, self.h, self.h_scales, WIDTH=EXPERT_WIDTH, E4M3=self.e4m3, num_warps=2)
        out = self.second()
        if self.by_row is not None:
            out = out[self.by_row]
        return out.view(self.m, CHOSEN, -1).sum(1)


def pair_expected(x: torch.Tensor, route: torch.Tensor, up: Mxfp4, down: Mxfp4) -> torch.Tensor:
    gate, value = torch.einsum("mk,enk->emn", x, up.value()).chunk(2, -1)
    h = torch.nn.functional.silu(gate) * value * route.double().t().unsqueeze(-1)
    return torch.einsum("emk,enk->mn", h, down.value())


INPUTS = {"E4M3": ("float8e4m3", E4M3_PAIR_BOUND), "BF16": ("bfloat16", BF16_PAIR_BOUND)}
GEMMS = {"indexed": "tokens indexed", "grouped_contiguous": "tokens gathered by expert"}


class PairPeer:
    def __init__(self, humming: Humming, inputs: str, up: Mxfp4, down: Mxfp4):
        self.humming, self.inputs, self.stored = humming, inputs, (up, down)
        self.dtype, self.bound = INPUTS[inputs]

    @cached_property
    def layers(self) -> list:
        weights = {"dtype": "float4e2m1", "group_size": 32, "scale_dtype": "float8e8m0"}
        layers = []
        for weight in self.stored:
            experts, rows, half = weight.codes.shape
            tensors = {"weight": weight.codes.view(torch.int32), "weight_scale": weight.scales.view(torch.float8_e8m0fnu)}
            layers.append(self.humming.layer(rows, half * 2, weights, {"dtype": self.dtype}, tensors, experts))
        return layers

    @property
    def kernels(self) -> list[tuple]:
        return [(layer, m * CHOSEN, gemm) for layer in self.layers for m in ROWS for gemm in GEMMS]

    def measure(self, record: Record) -> None:
        e4m3 = self.inputs == "E4M3"
        order = torch.randperm(STORED_EXPERTS, generator=torch.Generator().manual_seed(3)).cuda()
        expert_bytes = sum(part[0].numel() for weight in self.stored for part in (weight.codes, weight.scales))

        def make(m, count, gemm):
            lists = [order[i : i + count].sort().values for i in range(0, STORED_EXPERTS - count + 1, count)]
            lists = lists[: copies_of(count * expert_bytes)]
            x = fp8_input(m, HIDDEN, 17 + m, "row") if e4m3 else normal((m, HIDDEN), 17 + m)
            route = routing(m, count, 19 + m)
            copies = [ExpertPair(self.humming, *self.layers, gemm, e4m3, x, route, experts) for experts in lists]
            touched = [Mxfp4(weight.codes[lists[0]], weight.scales[lists[0]]) for weight in self.stored]
            return copies, copies[0](), pair_expected(input_value(x) if e4m3 else x.double(), route, *touched)

        for m, count in reversed(PAIRS):
            for gemm, how in GEMMS.items():
                fields = {"matrix": "expert-pair", "rows": None, "k": None, "m": m, "experts": count, "weights": "mxfp4", "bytes": count * expert_bytes}
                fields["peer"] = f"Humming MXFP4, {self.inputs} inputs, {how}"
                try_peer(record, {"graph": graph_samples}, fields, lambda m=m, count=count, gemm=gemm: make(m, count, gemm), self.bound)


def main(path: str, seconds: float, folder: str) -> None:
    record = Record(path, seconds)
    humming = Humming(folder)
    up = mxfp4_weight(STORED_EXPERTS, 2 * EXPERT_WIDTH, HIDDEN, 900)
    down = mxfp4_weight(STORED_EXPERTS, HIDDEN, EXPERT_WIDTH, 901)
    peers = [PairPeer(humming, inputs, up, down) for inputs in INPUTS]
    peers += [LinearPeer(humming, linear, scaling) for linear in FP8_LINEARS for scaling in SCALINGS]
    wanted = []
    for peer in peers:
        try:
            wanted += peer.kernels
        except Exception as failure:  # noqa: BLE001 - said again, and recorded, where it is measured
            print(f"  {type(failure).__name__}: {str(failure).splitlines()[:1]}", file=sys.stderr)
    humming.compile(wanted)
    for peer in peers:
        peer.measure(record)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
