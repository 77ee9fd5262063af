"""Q2_K: sixteen sub-blocks of 16 weights, each with a scale and an offset of four bits.

>>> q2_k(values_f32, out_u8)

The scale and offset of a sub-block make the error Σ|x|·|off| least (see `offset_search`). See
`superblocks` for the definition and for what the bytes equal.

Takes finite `x` float32 [256·n] and fills `out` uint8 [n·84]; returns False if a scale is too large
for float16.
"""

# numba infers the types; `min` and `max` would differ from these selections for NaN and −0.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.compiled import kernel
from remerge.kernels.halves import f16_bits_to_f32
from remerge.quantize.blocks.offset_search import (
    LEAST,
    SCALE,
    STATE_ROWS,
    final_codes,
    fit_with_offset,
    small_scales,
)
from remerge.quantize.blocks.q4_0 import is_finite_half, put_u16
from remerge.quantize.blocks.superblocks import (
    LANES,
    WIDTH,
    f32,
    i32,
    nearest,
    transpose,
    within_limit,
)


@njit(inline="always", error_model="numpy")
def put_two_bits(codes, out, at):
    """64 bytes at out[at]: the low two bits of 256 codes, four codes 32 places apart a byte."""
    for h in range(2):
        for i in range(32):
            first, second = codes[128 * h + i] & 3, codes[128 * h + 32 + i] & 3
            third, fourth = codes[128 * h + 64 + i] & 3, codes[128 * h + 96 + i] & 3
            out[at + 32 * h + i] = np.uint8(first | (second << 2) | (third << 4) | (fourth << 6))


@njit(inline="always", error_model="numpy")
def _put_scales(s, lane, out, at, scales, offsets):
    """Sixteen pairs of four bits at out[at], float16 scales behind the codes; False on overflow."""
    inverse_scale, inverse_offset, half_scale, half_offset = small_scales(s, lane, 16, 15)
    put_u16(out, at + 80, half_scale)
    put_u16(out, at + 82, half_offset)
    wide_scale, wide_offset = f16_bits_to_f32(half_scale), f16_bits_to_f32(half_offset)
    for k in range(16):
        four = i32(nearest(f32(inverse_scale * s[SCALE * LANES + lane + k])))
        other = i32(nearest(f32(inverse_offset * f32(-s[LEAST * LANES + lane + k]))))
        both = np.uint8(four) | np.uint8(other << 4)
        out[at + k] = both
        scales[k] = f32(wide_scale * f32(both & 15))
        offsets[k] = f32(wide_offset * f32(both >> 4))
    return is_finite_half(half_scale) and is_finite_half(half_offset)


@kernel()
def q2_k(x, out):
    """Q2_K, 84 bytes: sixteen 4-bit pairs, 256 codes of 2 bits, scale, offset scale."""
    t, w = np.empty(16 * LANES, np.float32), np.empty(16 * LANES, np.float32)
    trial, s = np.empty(16 * LANES, np.float32), np.empty(STATE_ROWS * LANES, np.float32)
    scales, offsets = np.empty(16, np.float32), np.empty(16, np.float32)
    codes = np.empty(WIDTH, np.int32)
    fits = within_limit(x)
    for begin in range(0, x.size, 16 * LANES):
        lanes = min(LANES, (x.size - begin) // 16)
        transpose(x, begin, lanes, 16, t)
        for i in range(16 * LANES):
            w[i] = abs(t[i])
        fit_with_offset(t, w, trial, s, lanes, 16, 3, (f32(-0.5), f32(0.1), 15, True))
        for lane in range(0, lanes, 16):
            start = begin + 16 * lane
            at = start // WIDTH * 84
            fits = _put_scales(s, lane, out, at, scales, offsets) and fits
            final_codes(x, start, s, lane, (scales, offsets), codes, 16, 3)
            put_two_bits(codes, out, at + 16)
    return fits
