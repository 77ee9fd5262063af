"""IQ4_NL and IQ4_XS: codes of 4 bits that stand for sixteen unevenly spaced numbers.

>>> iq4_nl(values_f32, out_u8)

IQ4_NL has one scale for 32 weights, IQ4_XS eight scales of six bits under one for 256. The scale of
32 weights makes the squared error weighted by x² least among fifteen that are tried. The definition
is `quantize_row_iq4_nl_impl` of `ggml/src/ggml-quants.c`, every operation rounded to float32 by
itself; see `superblocks` for what the bytes equal.

Both take finite `x` float32 [32·n] or [256·n] and fill `out` uint8; they return False if a scale is
too large for float16.
"""

# numba infers the types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.compiled import kernel
from remerge.kernels.halves import f32_to_f16_bits
from remerge.quantize.blocks.q4_0 import is_finite_half, put_u16
from remerge.quantize.blocks.scale_search import (
    LEVELS,
    SCALE,
    STATE_ROWS,
    fit_scale,
    largest_scale,
    weigh_by_square,
)
from remerge.quantize.blocks.superblocks import (
    LANES,
    f32,
    i32,
    nearest,
    transpose,
    within_limit,
)

#: See `fit_scale`.
_SEARCH = (f32(-127.0), f32(1.0), 7, True)


@njit(inline="always", error_model="numpy")
def _code(value):
    """The code whose number is nearest, the upper one of two equally near."""
    code = i32(0)
    for i in range(1, 16):
        code += i32(f32(value - LEVELS[i - 1]) >= f32(LEVELS[i] - value))
    return code


@njit(inline="always", error_model="numpy")
def _put_codes(x, start, inverse, out, at):
    """Sixteen bytes at out[at]: the codes of 32 numbers, i and i + 16 in one byte."""
    for i in range(16):
        low = _code(f32(inverse * x[start + i]))
        high = _code(f32(inverse * x[start + 16 + i]))
        out[at + i] = np.uint8(low | (high << 4))


@njit(inline="always", error_model="numpy")
def _inverse(scale):
    return f32(f32(1.0) / scale) if scale != f32(0.0) else f32(0.0)


@kernel()
def iq4_nl(x, out):
    """IQ4_NL, 18 bytes: float16 scale, then 32 codes of 4 bits."""
    t, s = np.empty(64 * LANES, np.float32), np.empty(STATE_ROWS * LANES, np.float32)
    fits = within_limit(x)
    for begin in range(0, x.size, 32 * LANES):
        lanes = min(LANES, (x.size - begin) // 32)
        transpose(x, begin, lanes, 32, t)
        weigh_by_square(t, lanes, 32)
        fit_scale(t, s, lanes, 32, _SEARCH)
        for lane in range(lanes):
            start = begin + 32 * lane
            at = start // 32 * 18
            scale = s[SCALE * LANES + lane]
            half = f32_to_f16_bits(scale)
            fits = fits and is_finite_half(half)
            put_u16(out, at, half)
            _put_codes(x, start, _inverse(scale), out, at + 2)
    return fits


@njit(inline="always", error_model="numpy")
def _put_iq4_xs(x, start, s, lane, out, at):
    """One super-block of IQ4_XS from the scales of its 8 sub-blocks; False on overflow."""
    peak, _ = largest_scale(s, lane, 8)
    scale = f32(f32(-peak) / f32(32.0))
    half = f32_to_f16_bits(scale)
    put_u16(out, at, half)
    inverse, high = _inverse(scale), i32(0)
    for k in range(8):
        found = nearest(f32(inverse * s[SCALE * LANES + lane + k]))
        six = max(i32(-32), min(i32(31), found))
        _put_codes(x, start + 32 * k, _inverse(f32(scale * f32(six))), out, at + 8 + 16 * k)
        six = i32(six + 32)
        high = i32(high | ((six >> 4) << (2 * k)))
        if k % 2 == 0:
            out[at + 4 + k // 2] = np.uint8(six & 15)
        else:
            out[at + 4 + k // 2] |= np.uint8((six & 15) << 4)
    put_u16(out, at + 2, np.uint16(high))
    return is_finite_half(half)


@kernel()
def iq4_xs(x, out):
    """IQ4_XS, 136 bytes: float16 scale, eight scales of 6 bits, then 256 codes of 4 bits."""
    t, s = np.empty(64 * LANES, np.float32), np.empty(STATE_ROWS * LANES, np.float32)
    fits = within_limit(x)
    for begin in range(0, x.size, 32 * LANES):
        lanes = min(LANES, (x.size - begin) // 32)
        transpose(x, begin, lanes, 32, t)
        weigh_by_square(t, lanes, 32)
        fit_scale(t, s, lanes, 32, _SEARCH)
        for lane in range(0, lanes, 8):
            start = begin + 32 * lane
            fits = _put_iq4_xs(x, start, s, lane, out, start // 256 * 136) and fits
    return fits
