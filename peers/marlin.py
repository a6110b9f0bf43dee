"""Marlin's INT4 kernel without PyTorch: where it expects every weight and scale, and its library opened through ctypes. A wrong path is noticed before anything is
imported, and the layout is tested where there is no GPU.

Format: symmetric INT4, value = (code - 8) * scale, code 0..15, one FP16 scale for 128 consecutive k of an output row.
Source of the layout: IST-DASLab/marlin at commit 2f6d7c1 (its kernel's loads, and its README) and the fragments of mma.m16n8k16 (PTX ISA).
"""

import ctypes
from collections.abc import Callable

GROUP = 128
TILE_K, TILE_ROWS = 16, 64
"""A tile's codes lie together: 128 words of eight codes, four words a lane."""
ROWS_MULTIPLE = 128
"""Output rows of one thread block's tile at 16 input rows or fewer; others are padded to it."""


def place(word: int, nibble: int) -> tuple[int, int]:
    """-> (k, row) within a tile. Word 4 * lane + j holds a lane's codes of two B fragments, outputs 16 j and 16 j + 8; a lane has output lane / 4 of each and k = 2 (lane
    mod 4) and the next, and eight further. Widening takes nibbles 0 and 4, 1 and 5 as the pairs of the first fragment, 2 and 6, 3 and 7 as those of the second."""
    lane, j = divmod(word, 4)
    second, pair = divmod(nibble % 4, 2)
    return 2 * (lane % 4) + nibble // 4 + 8 * pair, 16 * j + 8 * second + lane // 4


def tile_order() -> list[int]:
    """[128 words * 8 nibbles]: which code of a tile [16 k][64 rows] each position takes."""
    return [k * TILE_ROWS + row for word in range(128) for k, row in [place(word, nibble) for nibble in range(8)]]


def scale_order() -> list[int]:
    """[64]: which row's scale each position takes: a lane finds those of its eight fragments side by side."""
    return [lane + 8 * fragment for lane in range(8) for fragment in range(8)]


def padded(rows: int) -> int:
    return -(-rows // ROWS_MULTIPLE) * ROWS_MULTIPLE


def stored_bytes(rows: int, k: int) -> int:
    """Codes and scales of one matrix of rows as padded."""
    return rows * k // 2 + rows * (k // GROUP) * 2


PEER = "Marlin INT4, groups of 128, FP16 inputs"


def named(note: str) -> str:
    """`note`: what the user says of the library, perhaps nothing."""
    return f"{PEER}, {note}" if note else PEER


def linear_fields(matrix: str, rows: int, k: int, m: int, note: str = "") -> dict:
    """What a row of the document says beside its times."""
    stored = padded(rows)
    peer = named(note) if stored == rows else f"{named(note)}, rows padded to {stored}"
    return {"matrix": matrix, "rows": rows, "k": k, "m": m, "experts": None, "peer": peer, "weights": "int4", "bytes": stored_bytes(stored, k)}


def pair_fields(m: int, experts: int, width: int, hidden: int, note: str = "") -> dict:
    """The same for [gate | up] of 2 width x hidden and down of hidden x width."""
    size = experts * (stored_bytes(2 * width, hidden) + stored_bytes(hidden, width))
    peer = f"{named(note)}, one dense call an expert and product"
    return {"matrix": "expert-pair", "rows": None, "k": None, "m": m, "experts": experts, "peer": peer, "weights": "int4", "bytes": size}


NAMES = ("marlin_cuda", "_Z11marlin_cudaPKvS0_PvS1_iiiS1_iiP11CUstream_stiiii")
"""The function that launches the kernel, as C and as C++ export it."""


def open_library(path: str) -> Callable[..., int]:
    """marlin_cuda(A, B, C, s, m, n, k, workspace, groupsize, device, stream, thread_k, thread_n, sms, max_par) -> 0, or what it could not do.
    ValueError in one line for what is no such library."""
    try:
        library = ctypes.CDLL(path)
    except OSError as failure:
        raise ValueError(f"{path} is no library that can be loaded: {' '.join(str(failure).split())}") from None
    for name in NAMES:
        function = getattr(library, name, None)
        if function is not None:
            pointer, number = ctypes.c_void_p, ctypes.c_int
            function.argtypes = [pointer] * 4 + [number] * 3 + [pointer] + [number] * 2 + [pointer] + [number] * 4
            function.restype = number
            return function
    raise ValueError(f"{path} has no function marlin_cuda")
