"""PyTorch as a user has it: cuBLAS and cuBLASLt through F.linear (BF16) and _scaled_mm (FP8), torch.compile, bmm and _grouped_mm for the experts.

Inputs of the FP8 products are quantised beforehand, and experts lie gathered in order: both spare the peer work that the stack does.
"""

import sys

import torch
import torch.nn.functional as F
from matrices import (
    BF16_LINEARS,
    EXPERT_WIDTH,
    FP8_LINEARS,
    HIDDEN,
    PAIRS,
    ROUTER,
    ROWS,
    Fp8,
    copies_of,
    fp8_input,
    fp8_weight,
    input_value,
    normal,
    routing,
)
from measure import Record, eager_samples, graph_samples, try_peer

F32_BOUND = 1e-5
BF16_BOUND = 5e-3  # results are rounded to BF16: 2^-9 at most
FP8_BOUND = 1e-2  # the same, and Hopper's short FP8 accumulator
PAIR_BOUND = 1e-2  # BF16 between every two steps


def linear_fields(linear, m, peer, weights, size):
    return {"matrix": linear.name, "rows": linear.rows, "k": linear.k, "m": m, "experts": None, "peer": peer, "weights": weights, "bytes": size}


def bf16_linears(record: Record) -> None:
    for linear in BF16_LINEARS:
        size = linear.rows * linear.k * 2
        weights = [normal((linear.rows, linear.k), 100 + i, scale=0.02) for i in range(copies_of(size))]
        expected_w = weights[0].double()
        for m in ROWS:
            x = normal((m, linear.k), 7 + m)

            def make(x=x, expected_w=expected_w, weights=weights):
                return [lambda w=w: F.linear(x, w) for w in weights], F.linear(x, weights[0]), x.double() @ expected_w.t()

            modes = {"graph": graph_samples}
            if m in (1, 8):
                modes["eager"] = eager_samples
            try_peer(record, modes, linear_fields(linear, m, "F.linear BF16", "bf16", size), make, BF16_BOUND)
        del weights, expected_w
        torch.cuda.empty_cache()


def router(record: Record) -> None:
    size = ROUTER.rows * ROUTER.k * 4
    weights = [normal((ROUTER.rows, ROUTER.k), 200 + i, torch.float32, 0.02) for i in range(copies_of(size))]
    for m in ROWS:
        x = normal((m, ROUTER.k), 7 + m, torch.float32)

        def make(x=x):
            return [lambda w=w: F.linear(x, w) for w in weights], F.linear(x, weights[0]), x.double() @ weights[0].double().t()

        try_peer(record, {"graph": graph_samples}, linear_fields(ROUTER, m, "F.linear F32", "f32", size), make, F32_BOUND)


def scaled(x: Fp8, w: Fp8):
    """One scale, one a row, or 1x128 scales of the input (stored column by column) and 128x128 scales of the weights."""
    return torch._scaled_mm(x.codes, w.codes.t(), scale_a=x.scales, scale_b=w.scales.t(), out_dtype=torch.bfloat16)


def whole_columns(x: Fp8) -> Fp8:
    """Scales stored column by column, and 8 rows, so that a column is a multiple of 16 bytes."""
    missing = max(0, 8 - x.codes.shape[0])
    codes = torch.cat((x.codes.view(torch.uint8), torch.zeros((missing, x.codes.shape[1]), dtype=torch.uint8, device="cuda")))
    scales = torch.cat((x.scales, torch.ones((missing, x.scales.shape[1]), device="cuda")))
    return Fp8(codes.view(torch.float8_e4m3fn), scales.t().contiguous().t())


SCALINGS = {
    "row": "torch._scaled_mm FP8, a scale a row",
    "block": "torch._scaled_mm FP8, scales 1x128 and 128x128",
    "one": "torch._scaled_mm FP8, one scale",
}


def fp8_linears(record: Record) -> None:
    for linear in FP8_LINEARS:
        for scaling, peer in SCALINGS.items():
            weights = [fp8_weight(linear, 300 + 2 * i, scaling) for i in range(copies_of(linear.rows * linear.k))]
            expected_w = weights[0].value()
            for m in ROWS:
                x = fp8_input(m, linear.k, 11 + m, scaling)

                def make(x=x, m=m, weights=weights, expected_w=expected_w, scaling=scaling):
                    given = whole_columns(x) if scaling == "block" else x
                    return [lambda w=w: scaled(given, w) for w in weights], scaled(given, weights[0])[:m], input_value(x) @ expected_w.t()

                modes = {"graph": graph_samples}
                if scaling == "row" and m in (1, 8):
                    modes["eager"] = eager_samples
                try_peer(record, modes, linear_fields(linear, m, peer, "fp8", weights[0].bytes), make, FP8_BOUND)
            del weights, expected_w
            torch.cuda.empty_cache()


def weight_only(x, codes, scales):
    return F.linear(x, codes.to(torch.bfloat16)) * scales


def compiled_fp8(record: Record) -> None:
    """FP8 weights, BF16 inputs, widened inside the compiled product, as weight-only quantisation does it."""
    for linear in FP8_LINEARS[:2]:
        weights = [fp8_weight(linear, 500 + 2 * i, "row") for i in range(copies_of(linear.rows * linear.k))]
        expected_w = weights[0].value()
        for m in (8, 1):
            x = normal((m, linear.k), 13 + m)
            call = torch.compile(weight_only, mode="max-autotune-no-cudagraphs", dynamic=False)

            def make(x=x, call=call, weights=weights, expected_w=expected_w):
                row_scales = [w.scales.t().to(torch.bfloat16) for w in weights]
                expected = x.double() @ (weights[0].codes.to(torch.float32).double() * row_scales[0].t().double()).t()
                copies = [lambda w=w, s=s: call(x, w.codes, s) for w, s in zip(weights, row_scales, strict=True)]
                return copies, copies[0](), expected

            fields = linear_fields(linear, m, "torch.compile FP8 weights, BF16 inputs", "fp8", linear.rows * linear.k + linear.rows * 2)
            try_peer(record, {"compile+graph": graph_samples}, fields, make, FP8_BOUND, floor_s=20.0)
        del weights, expected_w
        torch.cuda.empty_cache()


def pair_bmm(x, weights, up, down):
    """x [1][m][hidden], weights [experts][m][1], up [experts][512][hidden], down [experts][hidden][256] -> [m][hidden]."""
    gate, value = torch.bmm(x.expand(up.shape[0], -1, -1), up.transpose(1, 2)).chunk(2, -1)
    h = F.silu(gate) * value * weights
    return torch.bmm(h, down.transpose(1, 2)).sum(0)


def pair_grouped(tokens, weights, offsets, by_row, up, down, m):
    """Every expert multiplies the rows that chose it. tokens [chosen][hidden], sorted by expert; offsets: ends of the groups; by_row: where each
    row's eight results lie."""
    gate, value = torch._grouped_mm(tokens, up.transpose(1, 2), offs=offsets).chunk(2, -1)
    h = (F.silu(gate) * value * weights).contiguous()
    y = torch._grouped_mm(h, down.transpose(1, 2), offs=offsets)
    return y[by_row].view(m, -1, y.shape[1]).sum(1)


def pair_expected(x, route, up, down):
    gate, value = torch.einsum("mk,enk->emn", x.double(), up.double()).chunk(2, -1)
    h = F.silu(gate) * value * route.double().t().unsqueeze(-1)
    return torch.einsum("emk,enk->mn", h, down.double())


def expert_pairs(record: Record) -> None:
    for m, experts in PAIRS:
        size = experts * 3 * EXPERT_WIDTH * HIDDEN * 2
        copies = [
            (normal((experts, 2 * EXPERT_WIDTH, HIDDEN), 700 + 2 * i, scale=0.02), normal((experts, HIDDEN, EXPERT_WIDTH), 701 + 2 * i, scale=0.02))
            for i in range(copies_of(size))
        ]
        x = normal((m, HIDDEN), 17 + m)
        route = routing(m, experts, 19 + m).to(torch.bfloat16)
        expected = pair_expected(x, route, *copies[0])
        fields = {"matrix": "expert-pair", "rows": None, "k": None, "m": m, "experts": experts, "weights": "bf16", "bytes": size}

        def bmm(call, x=x, route=route, copies=copies, expected=expected):
            by_expert = route.t().unsqueeze(-1).contiguous()
            calls = [lambda up=up, down=down: call(x.unsqueeze(0), by_expert, up, down) for up, down in copies]
            return calls, calls[0](), expected

        def grouped(x=x, route=route, copies=copies, expected=expected, m=m):
            expert_of, token_of = (route.t() != 0).nonzero(as_tuple=True)
            tokens = x[token_of].contiguous()
            weights = route[token_of, expert_of].unsqueeze(-1)
            counts = torch.bincount(expert_of, minlength=route.shape[1])
            offsets = counts.cumsum(0).to(torch.int32)
            by_row = token_of.argsort(stable=True)
            calls = [lambda up=up, down=down: pair_grouped(tokens, weights, offsets, by_row, up, down, m) for up, down in copies]
            return calls, calls[0](), expected

        try_peer(record, {"graph": graph_samples}, {**fields, "peer": "torch.bmm BF16"}, lambda bmm=bmm: bmm(pair_bmm), PAIR_BOUND)
        try_peer(record, {"graph": graph_samples}, {**fields, "peer": "torch._grouped_mm BF16"}, grouped, PAIR_BOUND)
        if experts == 60:
            compiled = torch.compile(pair_bmm, mode="max-autotune-no-cudagraphs", dynamic=False)
            try_peer(
                record, {"compile+graph": graph_samples}, {**fields, "peer": "torch.compile bmm BF16"}, lambda bmm=bmm: bmm(compiled), PAIR_BOUND, floor_s=20.0
            )
        del copies, expected
        torch.cuda.empty_cache()


def bf16_linear(x, w):
    return F.linear(x, w)


def compiled_bf16(record: Record) -> None:
    compiled = torch.compile(bf16_linear, mode="max-autotune-no-cudagraphs", dynamic=False)
    for linear in (*BF16_LINEARS[:2], BF16_LINEARS[-1]):
        size = linear.rows * linear.k * 2
        weights = [normal((linear.rows, linear.k), 100 + i, scale=0.02) for i in range(copies_of(size))]
        for m in (8, 1):
            x = normal((m, linear.k), 7 + m)

            def make(x=x, weights=weights):
                return [lambda w=w: compiled(x, w) for w in weights], compiled(x, weights[0]), x.double() @ weights[0].double().t()

            fields = linear_fields(linear, m, "torch.compile BF16", "bf16", size)
            try_peer(record, {"compile+graph": graph_samples}, fields, make, BF16_BOUND, floor_s=20.0)
        del weights
        torch.cuda.empty_cache()


def main(path: str, seconds: float) -> None:
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch._dynamo.config.recompile_limit = 64
    record = Record(path, seconds)
    bf16_linears(record)
    router(record)
    fp8_linears(record)
    expert_pairs(record)
    compiled_fp8(record)
    compiled_bf16(record)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
