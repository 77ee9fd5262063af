"""The search of a scale for each sub-block: Q3_K, Q6_K, IQ4_NL and IQ4_XS, which have no offset.

The squared error of a sub-block, weighted by `w`, is made small: round with some twenty inverse
scales near that of the largest number, solve for the best scale of the codes found, keep it if the
error falls. The definitions are `make_qx_quants` and `quantize_row_iq4_nl_impl` of
`ggml/src/ggml-quants.c`; see `superblocks` for what the bytes equal.
"""

# numba infers the types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.quantize.blocks.superblocks import LANES, NOTHING, code_between, f32

#: What the codes 0 to 15 of IQ4 stand for (`kvalues_iq4nl`).
LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
# Rows of the state of `fit_scale`, each of LANES float32.
PEAK, MAGNITUDE, SUM_QX, SUM_QQ, SCALE, _INVERSE, _BEST, BEST_INVERSE = range(8)
STATE_ROWS = 8


@njit(inline="always", error_model="numpy")
def level(value):
    """The number of LEVELS nearest to `value`, the upper of two equally near; without a table."""
    found = LEVELS[0]
    for i in range(1, 16):
        found = LEVELS[i] if f32(value - LEVELS[i - 1]) >= f32(LEVELS[i] - value) else found
    return found


@njit(inline="always", error_model="numpy")
def weigh_by_square(x, lanes, length):
    """Weights x² behind the numbers: those of ggml where nothing says which inputs matter."""
    for i in range(length):
        for j in range(lanes):
            x[(length + i) * LANES + j] = f32(x[i * LANES + j] * x[i * LANES + j])


@njit(inline="always", error_model="numpy")
def find_peaks(x, s, lanes, length):
    """The number of largest magnitude (row PEAK) of each sub-block, and its magnitude."""
    for j in range(lanes):
        s[PEAK * LANES + j] = f32(0.0)
        s[MAGNITUDE * LANES + j] = f32(0.0)
    for i in range(length):
        for j in range(lanes):
            value = x[i * LANES + j]
            peak, magnitude = s[PEAK * LANES + j], s[MAGNITUDE * LANES + j]
            larger = abs(value) > magnitude
            s[PEAK * LANES + j] = value if larger else peak
            s[MAGNITUDE * LANES + j] = abs(value) if larger else magnitude


@njit(inline="always", error_model="numpy")
def largest_scale(s, lane, count):
    """The scale of largest magnitude among `count` sub-blocks, and its magnitude."""
    peak, magnitude = f32(0.0), f32(0.0)
    for k in range(count):
        scale = s[SCALE * LANES + lane + k]
        larger = abs(scale) > magnitude
        peak = scale if larger else peak
        magnitude = abs(scale) if larger else magnitude
    return peak, magnitude


@njit(inline="always", error_model="numpy")
def _sum_codes(x, s, lanes, length, levels):
    """Σ w·q·x and Σ w·q·q of the numbers q that the inverse scales give, for each sub-block.

    ggml multiplies w·q first for IQ4 and w·x first for the K formats: products are rounded.
    """
    for j in range(lanes):
        s[SUM_QX * LANES + j] = f32(0.0)
        s[SUM_QQ * LANES + j] = f32(0.0)
    for i in range(length):
        for j in range(lanes):
            value, weight = x[i * LANES + j], x[(length + i) * LANES + j]
            scaled = f32(s[_INVERSE * LANES + j] * value)
            q = level(scaled) if levels else code_between(scaled, -32, 31)
            weighted = f32(weight * q)
            s[SUM_QX * LANES + j] += (
                f32(weighted * value) if levels else f32(f32(weight * value) * q)
            )
            s[SUM_QQ * LANES + j] += f32(weighted * q)


@njit(inline="always", error_model="numpy")
def fit_scale(x, s, lanes, length, search):
    """Scales (row SCALE) of `lanes` sub-blocks of `length` numbers.

    x        the numbers, side by side as `superblocks.transpose` puts them, then their weights: in
             one array, so that the loops need not be guarded against overlapping ones
    search   the numerator of the inverse scale, width of a step, number of steps to each side,
             whether codes stand for LEVELS and not for −32 to 31
    """
    numerator, width, steps, levels = search
    find_peaks(x, s, lanes, length)
    for j in range(lanes):
        peak = s[PEAK * LANES + j]
        inverse = f32(f32(1.0) / f32(f32(-peak) / numerator)) if levels else f32(numerator / peak)
        s[_INVERSE * LANES + j] = inverse
        s[BEST_INVERSE * LANES + j] = inverse
    _sum_codes(x, s, lanes, length, levels)
    for j in range(lanes):
        sum_qx, sum_qq = s[SUM_QX * LANES + j], s[SUM_QQ * LANES + j]
        quotient = f32(sum_qx / sum_qq)
        scale = f32(0.0) if sum_qq == f32(0.0) else quotient
        s[SCALE * LANES + j] = scale
        s[_BEST * LANES + j] = f32(scale * sum_qx)
    for step in range(-steps, steps + 1):
        if step == 0 and not levels:
            continue
        tried_numerator = f32(numerator + f32(width * f32(step)))
        for j in range(lanes):
            s[_INVERSE * LANES + j] = f32(tried_numerator / s[PEAK * LANES + j])
        _sum_codes(x, s, lanes, length, levels)
        for j in range(lanes):
            sum_qx, sum_qq = s[SUM_QX * LANES + j], s[SUM_QQ * LANES + j]
            best, scale = s[_BEST * LANES + j], s[SCALE * LANES + j]
            kept, tried = s[BEST_INVERSE * LANES + j], s[_INVERSE * LANES + j]
            better = (sum_qq > f32(0.0)) & (f32(sum_qx * sum_qx) > f32(best * sum_qq))
            quotient = f32(sum_qx / sum_qq)
            s[SCALE * LANES + j] = quotient if better else scale
            s[_BEST * LANES + j] = f32(quotient * sum_qx) if better else best
            s[BEST_INVERSE * LANES + j] = tried if better else kept
    for j in range(lanes):
        scale = s[SCALE * LANES + j]
        s[SCALE * LANES + j] = f32(0.0) if s[MAGNITUDE * LANES + j] < NOTHING else scale
