"""The search of a scale and an offset for each sub-block, which Q2_K, Q4_K and Q5_K share.

The error Σ w·|off|ᵖ of a sub-block (p is 1 or 2) is made small: round with a scale, solve for the
best scale and offset of the codes found, keep them if the error falls. The definition is
`make_qkx2_quants` of `ggml/src/ggml-quants.c`; see `superblocks` for what the bytes equal.
"""

# numba infers the types; `min` and `max` would differ from these selections for NaN and −0.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: FURB136

from __future__ import annotations

from numba import njit

from remerge.kernels.halves import f32_to_f16_bits
from remerge.quantize.blocks.superblocks import LANES, WIDTH, code_between, f32, i32

# Rows of the state of `fit_with_offset`, each of LANES float32.
LEAST, _MOST, _SUM_W, _SUM_X, SCALE, _ERROR = 0, 1, 2, 3, 4, 5
_INVERSE, _SUM_L, _SUM_LL, _SUM_XL, _NEW_SCALE, _NEW_LEAST, _NEW_ERROR = 6, 7, 8, 9, 10, 11, 12
BEST_INVERSE, BEST_LEAST, _SPREAD = 13, 14, 15
STATE_ROWS = 16


@njit(inline="always", error_model="numpy")
def _sum_up(x, w, s, lanes, length):
    """Sums of the weights and the range of each sub-block; an offset is never above 0."""
    for j in range(lanes):
        s[LEAST * LANES + j] = x[j]
        s[_MOST * LANES + j] = x[j]
        s[_SUM_W * LANES + j] = w[j]
        s[_SUM_X * LANES + j] = f32(w[j] * x[j])
    for i in range(1, length):
        for j in range(lanes):
            value, weight = x[i * LANES + j], w[i * LANES + j]
            least, most = s[LEAST * LANES + j], s[_MOST * LANES + j]
            s[LEAST * LANES + j] = value if value < least else least
            s[_MOST * LANES + j] = value if value > most else most
            s[_SUM_W * LANES + j] += weight
            s[_SUM_X * LANES + j] += f32(weight * value)
    for j in range(lanes):
        least = s[LEAST * LANES + j]
        s[LEAST * LANES + j] = f32(0.0) if least > f32(0.0) else least


@njit(inline="always", error_model="numpy")
def _size(off, absolute):
    """What counts of an error: |off| or off²."""
    return abs(off) if absolute else f32(off * off)


@njit(inline="always", error_model="numpy")
def _start_with_range(x, w, s, lanes, length, top, absolute):
    """First candidate: the range of the sub-block spread over the codes 0 to `top`."""
    for j in range(lanes):
        inverse = f32(f32(top) / f32(s[_MOST * LANES + j] - s[LEAST * LANES + j]))
        s[BEST_INVERSE * LANES + j] = inverse
        s[BEST_LEAST * LANES + j] = s[LEAST * LANES + j]
        s[SCALE * LANES + j] = f32(f32(1.0) / inverse)
        s[_ERROR * LANES + j] = f32(0.0)
    for i in range(length):
        for j in range(lanes):
            value, least = x[i * LANES + j], s[LEAST * LANES + j]
            code = code_between(f32(s[BEST_INVERSE * LANES + j] * f32(value - least)), 0, top)
            off = f32(f32(f32(s[SCALE * LANES + j] * code) + least) - value)
            s[_ERROR * LANES + j] += f32(w[i * LANES + j] * _size(off, absolute))


@njit(inline="always", error_model="numpy")
def _try_inverse(x, w, codes, s, lanes, length, top, absolute, numerator):
    """Round with scale (most − least)/`numerator`, solve for scale and offset, keep if better."""
    for j in range(lanes):
        span = f32(s[_MOST * LANES + j] - s[LEAST * LANES + j])
        s[_INVERSE * LANES + j] = f32(numerator / span)
        s[_SUM_L * LANES + j] = f32(0.0)
        s[_SUM_LL * LANES + j] = f32(0.0)
        s[_SUM_XL * LANES + j] = f32(0.0)
        s[_NEW_ERROR * LANES + j] = f32(0.0)
    for i in range(length):
        for j in range(lanes):
            value = x[i * LANES + j]
            shifted = f32(value - s[LEAST * LANES + j])
            code = code_between(f32(s[_INVERSE * LANES + j] * shifted), 0, top)
            codes[i * LANES + j] = code
            weighted = f32(w[i * LANES + j] * code)
            s[_SUM_L * LANES + j] += weighted
            s[_SUM_LL * LANES + j] += f32(weighted * code)
            s[_SUM_XL * LANES + j] += f32(weighted * value)
    for j in range(lanes):
        sum_w, sum_x = s[_SUM_W * LANES + j], s[_SUM_X * LANES + j]
        sum_l, sum_ll = s[_SUM_L * LANES + j], s[_SUM_LL * LANES + j]
        sum_xl = s[_SUM_XL * LANES + j]
        # SPREAD is free by now and holds the determinant.
        determinant = f32(f32(sum_w * sum_ll) - f32(sum_l * sum_l))
        scale = f32(f32(f32(sum_w * sum_xl) - f32(sum_x * sum_l)) / determinant)
        least = f32(f32(f32(sum_ll * sum_x) - f32(sum_l * sum_xl)) / determinant)
        scale = f32(sum_xl / sum_ll) if least > f32(0.0) else scale
        s[_SPREAD * LANES + j] = determinant
        s[_NEW_SCALE * LANES + j] = scale
        s[_NEW_LEAST * LANES + j] = f32(0.0) if least > f32(0.0) else least
    for i in range(length):
        for j in range(lanes):
            fitted = f32(s[_NEW_SCALE * LANES + j] * codes[i * LANES + j])
            off = f32(f32(fitted + s[_NEW_LEAST * LANES + j]) - x[i * LANES + j])
            s[_NEW_ERROR * LANES + j] += f32(w[i * LANES + j] * _size(off, absolute))
    for j in range(lanes):
        new, old = s[_NEW_ERROR * LANES + j], s[_ERROR * LANES + j]
        better = (s[_SPREAD * LANES + j] > f32(0.0)) & (new < old)
        inverse, least = s[_INVERSE * LANES + j], s[LEAST * LANES + j]
        best_inverse, best_least = s[BEST_INVERSE * LANES + j], s[BEST_LEAST * LANES + j]
        new_scale, scale = s[_NEW_SCALE * LANES + j], s[SCALE * LANES + j]
        new_least = s[_NEW_LEAST * LANES + j]
        s[BEST_INVERSE * LANES + j] = inverse if better else best_inverse
        s[BEST_LEAST * LANES + j] = least if better else best_least
        s[SCALE * LANES + j] = new_scale if better else scale
        s[LEAST * LANES + j] = new_least if better else least
        s[_ERROR * LANES + j] = new if better else old


@njit(inline="always", error_model="numpy")
def fit_with_offset(x, w, codes, s, lanes, length, top, search):
    """Scales (row SCALE) and offsets (row LEAST, ≤ 0) of `lanes` sub-blocks of `length` numbers.

    x, w     the numbers and their weights, side by side as `superblocks.transpose` puts them
    top      the largest code
    search   first step, width of a step, number of steps, whether errors count by their size
    """
    first, width, steps, absolute = search
    _sum_up(x, w, s, lanes, length)
    _start_with_range(x, w, s, lanes, length, top, absolute)
    for step in range(steps + 1):
        numerator = f32(f32(first + f32(width * f32(step))) + f32(top))
        _try_inverse(x, w, codes, s, lanes, length, top, absolute, numerator)


@njit(inline="always", error_model="numpy")
def small_scales(s, lane, count, top):
    """The scale of the scales and of the offsets of `count` sub-blocks with codes up to `top`.

    Returns what numbers are multiplied with to become codes, and the float16 to store, for both.
    """
    most_scale, most_offset = f32(0.0), f32(0.0)
    for k in range(count):
        scale, offset = s[SCALE * LANES + lane + k], f32(-s[LEAST * LANES + lane + k])
        most_scale = scale if scale > most_scale else most_scale
        most_offset = offset if offset > most_offset else most_offset
    inverse_scale = f32(f32(top) / most_scale) if most_scale > f32(0.0) else f32(0.0)
    inverse_offset = f32(f32(top) / most_offset) if most_offset > f32(0.0) else f32(0.0)
    half_scale = f32_to_f16_bits(f32(most_scale / f32(top)))
    half_offset = f32_to_f16_bits(f32(most_offset / f32(top)))
    return inverse_scale, inverse_offset, half_scale, half_offset


@njit(inline="always", error_model="numpy")
def final_codes(x, start, s, lane, stored, codes, length, top):
    """codes[256]: the numbers of one super-block rounded with the scales as they were stored.

    stored  scales and offsets of its sub-blocks of `length` numbers
    """
    scales, offsets = stored
    for k in range(WIDTH // length):
        scale, offset, at = scales[k], offsets[k], start + length * k
        if scale == f32(0.0):
            # Nothing will be left of these numbers; the codes are those of the search.
            inverse = s[BEST_INVERSE * LANES + lane + k]
            least = s[BEST_LEAST * LANES + lane + k]
            for i in range(length):
                code = code_between(f32(inverse * f32(x[at + i] - least)), 0, top)
                codes[length * k + i] = i32(code)
        else:
            for i in range(length):
                code = code_between(f32(f32(x[at + i] + offset) / scale), 0, top)
                codes[length * k + i] = i32(code)
