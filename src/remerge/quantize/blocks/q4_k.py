"""Q4_K and Q5_K: eight sub-blocks of 32 weights, each with a scale and an offset of six bits.

>>> q4_k(values_f32, out_u8)

For each sub-block the scale and offset are searched that make the squared error least, weighted by
√(mean x²) + |x| (see `offset_search`). See `superblocks` for the definition and for what the bytes
equal.

All take finite `x` float32 [256·n] and fill `out` uint8 [n·bytes]; they return False if a scale is
too large for float16.
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
def _weigh(x, w, s, lanes):
    """Weights √(Σx²/32) + |x|; the rows of `s` are free before the search."""
    for j in range(lanes):
        s[j] = f32(0.0)
    for i in range(32):
        for j in range(lanes):
            s[j] += f32(x[i * LANES + j] * x[i * LANES + j])
    for j in range(lanes):
        s[j] = np.sqrt(f32(s[j] / f32(32.0)))
    for i in range(32):
        for j in range(lanes):
            w[i * LANES + j] = f32(s[j] + abs(x[i * LANES + j]))


@njit(inline="always", error_model="numpy")
def _six_bits(value):
    """What ggml does: keep the nearest integer in a byte, then cut it to 63."""
    return np.int32(min(i32(63), i32(nearest(value) & i32(0xFF))))


@njit(inline="always", error_model="numpy")
def _put_scales(s, lane, out, at, scales, offsets):
    """Store float16 scales at out[at] and eight 6-bit pairs behind; False on overflow."""
    inverse_scale, inverse_offset, half_scale, half_offset = small_scales(s, lane, 8, 63)
    put_u16(out, at, half_scale)
    put_u16(out, at + 2, half_offset)
    wide_scale, wide_offset = f16_bits_to_f32(half_scale), f16_bits_to_f32(half_offset)
    for k in range(8):
        six = _six_bits(f32(inverse_scale * s[SCALE * LANES + lane + k]))
        other = _six_bits(f32(inverse_offset * f32(-s[LEAST * LANES + lane + k])))
        if k < 4:
            out[at + 4 + k] = np.uint8(six)
            out[at + 8 + k] = np.uint8(other)
        else:
            out[at + 8 + k] = np.uint8((six & 15) | ((other & 15) << 4))
            out[at + k] |= np.uint8((six >> 4) << 6)
            out[at + 4 + k] |= np.uint8((other >> 4) << 6)
        scales[k] = f32(wide_scale * f32(six))
        offsets[k] = f32(wide_offset * f32(other))
    return is_finite_half(half_scale) and is_finite_half(half_offset)


@njit(inline="always", error_model="numpy")
def _put_codes(codes, out, at, top, nbytes):
    """Codes in pairs of 32, low four bits, at the end of a block; before them the fifth bits."""
    if top == 31:
        for i in range(32):
            fifth = i32(0)
            for k in range(8):
                fifth = i32(fifth | ((codes[32 * k + i] >> 4) << k))
            out[at + 16 + i] = np.uint8(fifth)
    for k in range(4):
        for i in range(32):
            low, high = codes[64 * k + i] & 15, codes[64 * k + 32 + i] & 15
            out[at + nbytes - 128 + 32 * k + i] = np.uint8(low | (high << 4))


@njit(inline="always", error_model="numpy")
def _quantize(x, out, top, search, nbytes):
    """Blocks of `nbytes` bytes with codes up to `top`; for `search` see `fit_with_offset`."""
    t, w = np.empty(32 * LANES, np.float32), np.empty(32 * LANES, np.float32)
    trial, s = np.empty(32 * LANES, np.float32), np.empty(STATE_ROWS * LANES, np.float32)
    scales, offsets = np.empty(8, np.float32), np.empty(8, np.float32)
    codes = np.empty(WIDTH, np.int32)
    fits = within_limit(x)
    for begin in range(0, x.size, 32 * LANES):
        lanes = min(LANES, (x.size - begin) // 32)
        transpose(x, begin, lanes, 32, t)
        _weigh(t, w, s, lanes)
        fit_with_offset(t, w, trial, s, lanes, 32, top, search)
        for lane in range(0, lanes, 8):
            start = begin + 32 * lane
            at = start // WIDTH * nbytes
            fits = _put_scales(s, lane, out, at, scales, offsets) and fits
            final_codes(x, start, s, lane, (scales, offsets), codes, 32, top)
            _put_codes(codes, out, at, top, nbytes)
    return fits


@kernel()
def q4_k(x, out):
    """Q4_K, 144 bytes: scale, offset scale, eight 6-bit pairs, 256 codes of 4 bits."""
    return _quantize(x, out, 15, (f32(-1.0), f32(0.1), 20, False), 144)


@kernel()
def q5_k(x, out):
    """Q5_K, 176 bytes: as Q4_K, and 256 fifth bits before the codes."""
    return _quantize(x, out, 31, (f32(-0.5), f32(0.1), 15, False), 176)
