"""The number types of ggml with the kernels that make them.

>>> TYPES["Q4_K"].kernel(values_f32, out_u8)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from remerge.kernels.blocks import narrow
from remerge.kernels.halves import BF16, F16, F32
from remerge.quantize.blocks import iq4, q2_k, q3_k, q4_0, q4_k, q6_k
from remerge.quantize.blocks.sizes import SIZES, BlockSize

Kernel = Callable[[np.ndarray, np.ndarray], bool]


@dataclass(frozen=True)
class BlockType(BlockSize):
    """A type under ggml's name: `width` weights become `nbytes` bytes by `kernel` (float32 in)."""

    name: str
    kernel: Kernel


def _narrowing(code: int) -> Kernel:
    return lambda x, out: narrow(x, code, out)


_KERNELS: dict[str, Kernel] = {
    "F32": _narrowing(F32),
    "F16": _narrowing(F16),
    "BF16": _narrowing(BF16),
    "Q4_0": q4_0.q4_0,
    "Q4_1": q4_0.q4_1,
    "Q5_0": q4_0.q5_0,
    "Q5_1": q4_0.q5_1,
    "Q8_0": q4_0.q8_0,
    "Q2_K": q2_k.q2_k,
    "Q3_K": q3_k.q3_k,
    "Q4_K": q4_k.q4_k,
    "Q5_K": q4_k.q5_k,
    "Q6_K": q6_k.q6_k,
    "IQ4_NL": iq4.iq4_nl,
    "IQ4_XS": iq4.iq4_xs,
}
#: By ggml's name; a row of `SIZES` for each.
TYPES: dict[str, BlockType] = {
    name: BlockType(each.code, each.width, each.nbytes, name, _KERNELS[name])
    for name, each in SIZES.items()
}
