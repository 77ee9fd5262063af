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
from remerge.quantize.blocks.superblocks import (
    LANES,
    NOTHING,
    f32,
    i32,
    nearest,
    transpose,
    within_limit,
)

#: What the codes 0 to 15 stand for (`kvalues_iq4nl`).
LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
_TRIES = 7
# Rows of the state of `_fit`, each of LANES float32.
_PEAK, _MAGNITUDE, _INVERSE, _SUM_QX, _SUM_QQ, _SCALE, _BEST = range(7)


@njit(inline="always", error_model="numpy")
def _code(value):
    """The code whose number is nearest, the upper one of two equally near."""
    code = i32(0)
    for i in range(1, 16):
        code += i32(f32(value - LEVELS[i - 1]) >= f32(LEVELS[i] - value))
    return code


@njit(inline="always", error_model="numpy")
def _level(value):
    """The number of `_code(value)`, without a table to look up."""
    level = LEVELS[0]
    for i in range(1, 16):
        level = LEVELS[i] if f32(value - LEVELS[i - 1]) >= f32(LEVELS[i] - value) else level
    return level


@njit(inline="always", error_model="numpy")
def _sum_levels(x, s, lanes):
    """Σ x²·q·x and Σ x²·q·q of the numbers q that the inverse scales give, for each sub-block."""
    for j in range(lanes):
        s[_SUM_QX * LANES + j] = f32(0.0)
        s[_SUM_QQ * LANES + j] = f32(0.0)
    for i in range(32):
        for j in range(lanes):
            value = x[i * LANES + j]
            level = _level(f32(s[_INVERSE * LANES + j] * value))
            weighted = f32(f32(value * value) * level)
            s[_SUM_QX * LANES + j] += f32(weighted * value)
            s[_SUM_QQ * LANES + j] += f32(weighted * level)


@njit(inline="always", error_model="numpy")
def _fit(x, s, lanes):
    """Scales (row SCALE) of `lanes` sub-blocks of 32 numbers."""
    for j in range(lanes):
        s[_PEAK * LANES + j] = f32(0.0)
        s[_MAGNITUDE * LANES + j] = f32(0.0)
    for i in range(32):
        for j in range(lanes):
            value = x[i * LANES + j]
            peak, magnitude = s[_PEAK * LANES + j], s[_MAGNITUDE * LANES + j]
            larger = abs(value) > magnitude
            s[_PEAK * LANES + j] = value if larger else peak
            s[_MAGNITUDE * LANES + j] = abs(value) if larger else magnitude
    for j in range(lanes):
        start = f32(f32(-s[_PEAK * LANES + j]) / LEVELS[0])
        s[_INVERSE * LANES + j] = f32(f32(1.0) / start)
    _sum_levels(x, s, lanes)
    for j in range(lanes):
        scale = f32(s[_SUM_QX * LANES + j] / s[_SUM_QQ * LANES + j])
        s[_SCALE * LANES + j] = scale
        s[_BEST * LANES + j] = f32(scale * s[_SUM_QX * LANES + j])
    for step in range(-_TRIES, _TRIES + 1):
        for j in range(lanes):
            s[_INVERSE * LANES + j] = f32(f32(f32(step) + LEVELS[0]) / s[_PEAK * LANES + j])
        _sum_levels(x, s, lanes)
        for j in range(lanes):
            sum_qx, sum_qq = s[_SUM_QX * LANES + j], s[_SUM_QQ * LANES + j]
            best, scale = s[_BEST * LANES + j], s[_SCALE * LANES + j]
            better = (sum_qq > f32(0.0)) & (f32(sum_qx * sum_qx) > f32(best * sum_qq))
            quotient = f32(sum_qx / sum_qq)
            s[_SCALE * LANES + j] = quotient if better else scale
            s[_BEST * LANES + j] = f32(quotient * sum_qx) if better else best
    for j in range(lanes):
        scale = s[_SCALE * LANES + j]
        s[_SCALE * LANES + j] = f32(0.0) if s[_MAGNITUDE * LANES + j] < NOTHING else scale


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
    t, s = np.empty(32 * LANES, np.float32), np.empty(7 * LANES, np.float32)
    fits = within_limit(x)
    for begin in range(0, x.size, 32 * LANES):
        lanes = min(LANES, (x.size - begin) // 32)
        transpose(x, begin, lanes, 32, t)
        _fit(t, s, lanes)
        for lane in range(lanes):
            start = begin + 32 * lane
            at = start // 32 * 18
            scale = s[_SCALE * LANES + lane]
            half = f32_to_f16_bits(scale)
            fits = fits and is_finite_half(half)
            put_u16(out, at, half)
            _put_codes(x, start, _inverse(scale), out, at + 2)
    return fits


@njit(inline="always", error_model="numpy")
def _put_iq4_xs(x, start, s, lane, out, at):
    """One super-block of IQ4_XS from the scales of its 8 sub-blocks; False on overflow."""
    peak, magnitude = f32(0.0), f32(0.0)
    for k in range(8):
        scale = s[_SCALE * LANES + lane + k]
        larger = abs(scale) > magnitude
        peak = scale if larger else peak
        magnitude = abs(scale) if larger else magnitude
    scale = f32(f32(-peak) / f32(32.0))
    half = f32_to_f16_bits(scale)
    put_u16(out, at, half)
    inverse, high = _inverse(scale), i32(0)
    for k in range(8):
        found = nearest(f32(inverse * s[_SCALE * LANES + lane + k]))
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
    t, s = np.empty(32 * LANES, np.float32), np.empty(7 * LANES, np.float32)
    fits = within_limit(x)
    for begin in range(0, x.size, 32 * LANES):
        lanes = min(LANES, (x.size - begin) // 32)
        transpose(x, begin, lanes, 32, t)
        _fit(t, s, lanes)
        for lane in range(0, lanes, 8):
            start = begin + 32 * lane
            fits = _put_iq4_xs(x, start, s, lane, out, start // 256 * 136) and fits
    return fits
