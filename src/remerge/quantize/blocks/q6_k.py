"""Q6_K: sixteen sub-blocks of 16 weights, each with a scale of eight bits and no offset.

>>> q6_k(values_f32, out_u8)

For each sub-block the scale is searched that makes the squared error least, weighted by x² (see
`scale_search`). See `superblocks` for the definition and for what the bytes equal.

It takes finite `x` float32 [256·n] and fills `out` uint8 [n·210], and returns False if a scale is
too large for float16.
"""

# numba infers the types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.compiled import kernel
from remerge.kernels.halves import f16_bits_to_f32, f32_to_f16_bits
from remerge.quantize.blocks.q4_0 import is_finite_half, put_u16
from remerge.quantize.blocks.scale_search import (
    BEST_INVERSE,
    MAGNITUDE,
    SCALE,
    STATE_ROWS,
    fit_scale,
    largest_scale,
    weigh_by_square,
)
from remerge.quantize.blocks.superblocks import (
    LANES,
    NOTHING,
    WIDTH,
    code_between,
    f32,
    i32,
    nearest,
    transpose,
    within_limit,
)

#: See `fit_scale`.
_SEARCH = (f32(-32.0), f32(-0.1), 9, False)


@njit(inline="always", error_model="numpy")
def _sixteen_codes(x, start, s, lane, scale, codes, at):
    """codes[at : at + 16]: sixteen numbers rounded with the stored scale, moved to 0…63."""
    if scale != f32(0.0):
        for i in range(16):
            codes[at + i] = i32(code_between(f32(x[start + i] / scale), -32, 31)) + 32
    elif s[MAGNITUDE * LANES + lane] < NOTHING:
        for i in range(16):
            codes[at + i] = i32(0)
    else:
        inverse = s[BEST_INVERSE * LANES + lane]
        for i in range(16):
            codes[at + i] = i32(code_between(f32(inverse * x[start + i]), -32, 31)) + 32


@njit(inline="always", error_model="numpy")
def _put_q6_k(x, start, s, lane, out, at, codes):
    """One super-block of Q6_K from the scales of its 16 sub-blocks; False on overflow."""
    peak, magnitude = largest_scale(s, lane, 16)
    if magnitude < NOTHING:
        for i in range(210):
            out[at + i] = np.uint8(0)
        return True
    inverse = f32(f32(-128.0) / peak)
    half = f32_to_f16_bits(f32(f32(1.0) / inverse))
    put_u16(out, at + 208, half)
    wide = f16_bits_to_f32(half)
    for k in range(16):
        small = np.int8(min(i32(127), nearest(f32(inverse * s[SCALE * LANES + lane + k]))))
        out[at + 192 + k] = np.uint8(small)
        _sixteen_codes(x, start + 16 * k, s, lane + k, f32(wide * f32(small)), codes, 16 * k)
    for h in range(2):
        for i in range(32):
            first, second = codes[128 * h + i], codes[128 * h + 32 + i]
            third, fourth = codes[128 * h + 64 + i], codes[128 * h + 96 + i]
            out[at + 64 * h + i] = np.uint8((first & 15) | ((third & 15) << 4))
            out[at + 64 * h + 32 + i] = np.uint8((second & 15) | ((fourth & 15) << 4))
            high = (first >> 4) | ((second >> 4) << 2) | ((third >> 4) << 4) | ((fourth >> 4) << 6)
            out[at + 128 + 32 * h + i] = np.uint8(high)
    return is_finite_half(half)


@kernel()
def q6_k(x, out):
    """Q6_K, 210 bytes: 256 codes of 6 bits (low four, then high two), 16 int8 scales, one scale."""
    t, s = np.empty(32 * LANES, np.float32), np.empty(STATE_ROWS * LANES, np.float32)
    codes = np.empty(WIDTH, np.int32)
    fits = within_limit(x)
    for begin in range(0, x.size, 16 * LANES):
        lanes = min(LANES, (x.size - begin) // 16)
        transpose(x, begin, lanes, 16, t)
        weigh_by_square(t, lanes, 16)
        fit_scale(t, s, lanes, 16, _SEARCH)
        for lane in range(0, lanes, 16):
            start = begin + 16 * lane
            at = start // WIDTH * 210
            fits = _put_q6_k(x, start, s, lane, out, at, codes) and fits
    return fits
