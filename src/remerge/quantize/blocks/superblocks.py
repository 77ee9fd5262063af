"""What the K formats of ggml share: 64 sub-blocks side by side, and rounding as ggml rounds.

A K format has 256 weights a block, cut into sub-blocks with small scales of their own; the best
scale of each is searched by trying some twenty. The definition is ggml's reference quantizer
(`quantize_row_q2_K_ref` to `…q6_K_ref` in `ggml/src/ggml-quants.c`): every operation
rounded to float32 by itself, sums from left to right. Sums in a fixed order do not vectorise along
a sub-block, so 64 sub-blocks are worked on side by side: number i of sub-block j lies at
``i·64 + j``. That is also why these kernels are faster than the original with the same result.

The bytes equal those of `ggml_quantize_chunk` wherever that is compiled as it is written. A build
that fuses multiplication and addition (on arm64, or with `-mfma`) may choose another of two nearly
equal candidates in a few blocks; the error is the same to many digits.
"""

# numba infers the types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

WIDTH = 256
#: Sub-blocks worked on side by side.
LANES = 64
#: A sub-block whose largest magnitude is below this counts as zero.
NOTHING = np.float32(1e-15)
f32 = np.float32
i32 = np.int32
#: No scale of a K format reaches this far, and below it no sum of the search overflows.
_LIMIT = np.float32(2.0**28)
_ROUNDER = np.float32(12582912.0)


@njit(inline="always", error_model="numpy")
def nearest(value):
    """The integer nearest to `value`, ties to even, for |value| < 2²²; ggml's result beyond."""
    bits = f32(value + _ROUNDER).view(np.int32)
    return i32(i32(bits & i32(0x007FFFFF)) - i32(0x00400000))


@njit(inline="always", error_model="numpy")
def code_between(value, least, most):
    """`nearest` within [least, most], as float32."""
    return f32(max(i32(least), min(i32(most), nearest(value))))


@njit(inline="always", error_model="numpy")
def transpose(x, start, lanes, length, out):
    """out[i·LANES + j] = number i of sub-block j (of `length` numbers) from `start` on."""
    for j in range(lanes):
        for i in range(length):
            out[i * LANES + j] = x[start + j * length + i]


@njit(inline="always", error_model="numpy")
def within_limit(x):
    """Whether all of `x` is small enough that a float16 scale can hold it at all."""
    fits = True
    for i in range(x.size):
        fits &= abs(x[i]) < _LIMIT
    return fits
