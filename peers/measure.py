"""Timing and checking, the same for every peer: medians are taken later, from the samples that are written here."""

import json
import time
from collections.abc import Callable

import torch

CALLS = 48
REPLAYS = 15


class Record:
    """Rows as they come, one JSON object a line, so that a peer that dies takes only its own rows along."""

    def __init__(self, path: str, seconds: float):
        self._file = open(path, "a", encoding="utf-8")
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        return self._until - time.monotonic()

    def row(self, **fields) -> None:
        self._write({"row": fields})

    def left_out(self, why: str, **fields) -> None:
        self._write({"leftOut": {**fields, "why": " ".join(why.split())[:300]}})

    def _write(self, value) -> None:
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()


def relative_l2(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The worst row's |actual - expected| / |expected|; expected is binary64."""
    error = (actual.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return float(error.max())


def calls_of(copies: list[Callable[[], object]]) -> list[Callable[[], object]]:
    times = max(1, CALLS // len(copies))
    return copies * times


def _time(run: Callable[[], object], calls: int, repeats: int) -> list[float]:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    samples = []
    for _ in range(repeats):
        begin.record()
        run()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) * 1e3 / calls)
    return samples


def graph_samples(copies: list[Callable[[], object]]) -> list[float]:
    """Microseconds a call, one sample a replay of a CUDA graph that walks over all copies, whole rounds of them."""
    calls = calls_of(copies)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in copies[:2]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for call in calls:
            call()
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    return _time(graph.replay, len(calls), REPLAYS)


def eager_samples(copies: list[Callable[[], object]]) -> list[float]:
    """The same without a graph: every call is issued from Python."""
    calls = calls_of(copies)

    def run():
        for call in calls:
            call()

    run()
    torch.cuda.synchronize()
    return _time(run, len(calls), 5)


class DeviceLost(Exception):
    """A kernel ended with an error that nothing in this process gets over."""


def synchronize() -> None:
    """Waits for the GPU, so that an error of a kernel is told here and not by whoever calls next."""
    torch.cuda.synchronize()


def give_up_if_lost(record: Record, fields: dict) -> None:
    """Behind a failure: raises DeviceLost if the GPU answers nothing any more."""
    try:
        synchronize()
    except Exception as failure:  # noqa: BLE001
        why = " ".join(str(failure).split())[:200]
        record.left_out(f"the GPU was lost to this process ({why}): nothing behind this was tried", **fields)
        raise DeviceLost(why) from None


def try_peer(record: Record, modes: dict[str, Callable], fields: dict, make: Callable[[], tuple], bound: float, floor_s: float = 4.0) -> None:
    """make() -> (one call a copy, what the first returns, what it should return in binary64). Checked before it is timed; a peer that cannot do a
    shape, or does it wrong, is left out and the record says why."""
    if record.left() < floor_s:
        for mode in modes:
            record.left_out("no time left", mode=mode, **fields)
        return
    try:
        copies, actual, expected = make()
        synchronize()
        error = relative_l2(actual, expected)
        if not error <= bound:
            raise ValueError(f"relative error {error:.3g}, at most {bound:.3g} was expected")
    except Exception as failure:  # noqa: BLE001 - whatever a peer throws is its answer
        for mode in modes:
            record.left_out(f"{type(failure).__name__}: {failure}", mode=mode, **fields)
        give_up_if_lost(record, fields)
        return
    for mode, samples in modes.items():
        try:
            record.row(mode=mode, error=error, errorBound=bound, us=samples(copies), copies=len(copies), **fields)
        except Exception as failure:  # noqa: BLE001
            record.left_out(f"{type(failure).__name__}: {failure}", mode=mode, **fields)
            give_up_if_lost(record, fields)
