"""Block quantisation beside llama.cpp's own, one thread each: `python -m benchmarks.blocks`.

The same float16 weights go through our kernel and through `ggml_quantize_chunk` of the shared
object that the xllamacpp wheel carries. Printed: millions of weights a second, the ratio, and the
share of blocks whose bytes are equal.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from remerge.quantize.blocks.types import TYPES

NAMES = ("Q8_0", "Q5_1", "Q5_0", "Q4_0", "Q6_K", "Q5_K", "Q4_K")
WEIGHTS = 1 << 21
ROW = 4096
TURNS = 9


def best_of_turns(*contenders: Callable[[], object]) -> list[float]:
    """Shortest time of each contender; they take turns, so that all meet the same weather."""
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(TURNS):
        for position, work in enumerate(contenders):
            start = time.perf_counter()
            work()
            times[position].append(time.perf_counter() - start)
    return [min(row) for row in times]


def main() -> None:
    """Print a table in Markdown."""
    import xllamacpp

    library = ctypes.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
    theirs = library.ggml_quantize_chunk
    theirs.restype = ctypes.c_size_t
    theirs.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    values = np.random.default_rng(0).standard_normal(WEIGHTS) * 0.02
    values_f32 = values.astype(np.float16).astype(np.float32)
    print("| type | ours, M weights/s | llama.cpp | ratio | equal blocks |")
    print("| --- | --: | --: | --: | --: |")
    for name in NAMES:
        kind = TYPES[name]
        ours_u8, theirs_u8 = (np.zeros(kind.size(WEIGHTS), np.uint8) for _ in range(2))
        arguments = (kind.code, values_f32.ctypes.data, theirs_u8.ctypes.data)
        own, other = best_of_turns(
            partial(kind.kernel, values_f32, ours_u8),
            partial(theirs, *arguments, 0, WEIGHTS // ROW, ROW, None),
        )
        blocks = ours_u8.reshape(-1, kind.nbytes) == theirs_u8.reshape(-1, kind.nbytes)
        rates = [WEIGHTS / t / 1e6 for t in (own, other)]
        equal = float(blocks.all(1).mean())
        print(f"| {name} | {rates[0]:.0f} | {rates[1]:.0f} | {other / own:.1f} | {equal:.4f} |")


if __name__ == "__main__":
    main()
