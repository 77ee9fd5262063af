"""How far two blocks of weights lie apart, in one pass over both.

The unit is the unit in the last place (ulp) of the stored type: the number of representable values
from one to the other. Read as sign and magnitude, the bits of a float are its place in that row, so
the distance is a difference of integers. Sums run left to right, so that a report made of them is
the same everywhere.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.compiled import kernel
from remerge.kernels.halves import F16, bf16_bits_to_f32, f16_bits_to_f32, u32

#: Entries of a result: sums but for the two maxima.
DIFFERING, MAX_ULP, SUM_ULP, MAX_ABS, DOT, NORM_A, NORM_B, NOT_FINITE = range(8)
RESULTS = 8
MAXIMA = (MAX_ULP, MAX_ABS)


@njit(inline="always", error_model="numpy")
def _add(result, same_bits, ulps, a, b):
    if not same_bits:  # −0 and +0 differ by no ulp
        result[DIFFERING] += 1.0
        result[MAX_ULP] = max(result[MAX_ULP], np.float64(ulps))
        result[SUM_ULP] += np.float64(ulps)
    x, y = np.float64(a), np.float64(b)
    if np.isfinite(x) and np.isfinite(y):
        result[MAX_ABS] = max(result[MAX_ABS], abs(x - y))
        result[DOT] += x * y
        result[NORM_A] += x * x
        result[NORM_B] += y * y
    else:
        result[NOT_FINITE] += 1.0


@kernel("void(uint16[::1], uint16[::1], int64, float64[::1])")
def compare_16(a_bits, b_bits, code, result):
    """Distances of two blocks of F16 or BF16 (`code` of `KERNEL_CODE`) into `result` [RESULTS]."""
    for i in range(a_bits.size):
        a, b = a_bits[i], b_bits[i]
        place_a = -np.int64(a & 0x7FFF) if a & 0x8000 else np.int64(a)
        place_b = -np.int64(b & 0x7FFF) if b & 0x8000 else np.int64(b)
        ulps = abs(place_a - place_b)
        if code == F16:
            _add(result, a == b, ulps, f16_bits_to_f32(a), f16_bits_to_f32(b))
        else:
            _add(result, a == b, ulps, bf16_bits_to_f32(a), bf16_bits_to_f32(b))


@kernel("void(uint32[::1], uint32[::1], float64[::1])")
def compare_32(a_bits, b_bits, result):
    """Distances of two blocks of F32, given by their bits, into `result` [RESULTS]."""
    for i in range(a_bits.size):
        a, b = u32(a_bits[i]), u32(b_bits[i])
        place_a = -np.int64(a & u32(0x7FFFFFFF)) if a >> u32(31) else np.int64(a)
        place_b = -np.int64(b & u32(0x7FFFFFFF)) if b >> u32(31) else np.int64(b)
        _add(result, a == b, abs(place_a - place_b), a.view(np.float32), b.view(np.float32))


def combine(parts: list[np.ndarray]) -> np.ndarray:
    """One result [RESULTS] of the results of consecutive blocks."""
    total = np.zeros(RESULTS)
    for part in parts:
        for entry in range(RESULTS):
            if entry in MAXIMA:
                total[entry] = max(total[entry], part[entry])
            else:
                total[entry] += part[entry]
    return total
