"""Q4_K and Q5_K: eight sub-blocks of 32 weights, each with a scale and an offset of six bits.

>>> q4_k(values_f32, out_u8)

For each sub-block the scale and offset are searched that make the squared error least, weighted by
√(mean x²) + |x|: round with a scale, solve for the best scale and offset of the codes found, keep
them if the error falls. See `superblocks` for the definition and for what the bytes equal.

All take finite `x` float32 [256·n] and fill `out` uint8 [n·bytes]; they return False if a scale is
too large for float16.
"""

# numba infers the types; `min` and `max` would differ from these selections for NaN and −0.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: FURB136

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.compiled import kernel
from remerge.kernels.halves import f16_bits_to_f32, f32_to_f16_bits
from remerge.quantize.blocks.q4_0 import is_finite_half, put_u16
from remerge.quantize.blocks.superblocks import (
    LANES,
    WIDTH,
    code_between,
    f32,
    i32,
    nearest,
    transpose,
    within_limit,
)

# Rows of the state of `_fit_with_offset`, each of LANES float32.
_LEAST, _MOST, _SUM_W, _SUM_X, _SCALE, _ERROR = 0, 1, 2, 3, 4, 5
_INVERSE, _SUM_L, _SUM_LL, _SUM_XL, _NEW_SCALE, _NEW_LEAST, _NEW_ERROR = 6, 7, 8, 9, 10, 11, 12
_BEST_INVERSE, _BEST_LEAST, _SPREAD = 13, 14, 15
_STATE_ROWS = 16


@njit(inline="always", error_model="numpy")
def _weigh(x, w, s, lanes):
    """Weights √(Σx²/32) + |x|, their sums, and the range of each sub-block."""
    for j in range(lanes):
        s[_SUM_L * LANES + j] = f32(0.0)
        s[_LEAST * LANES + j] = x[j]
        s[_MOST * LANES + j] = x[j]
    for i in range(32):
        for j in range(lanes):
            value = x[i * LANES + j]
            s[_SUM_L * LANES + j] += f32(value * value)
            least, most = s[_LEAST * LANES + j], s[_MOST * LANES + j]
            s[_LEAST * LANES + j] = value if value < least else least
            s[_MOST * LANES + j] = value if value > most else most
    for j in range(lanes):
        s[_SPREAD * LANES + j] = np.sqrt(f32(s[_SUM_L * LANES + j] / f32(32.0)))
        least = s[_LEAST * LANES + j]
        s[_LEAST * LANES + j] = f32(0.0) if least > f32(0.0) else least
        w[j] = f32(s[_SPREAD * LANES + j] + abs(x[j]))
        s[_SUM_W * LANES + j] = w[j]
        s[_SUM_X * LANES + j] = f32(w[j] * x[j])
    for i in range(1, 32):
        for j in range(lanes):
            value = x[i * LANES + j]
            weight = f32(s[_SPREAD * LANES + j] + abs(value))
            w[i * LANES + j] = weight
            s[_SUM_W * LANES + j] += weight
            s[_SUM_X * LANES + j] += f32(weight * value)


@njit(inline="always", error_model="numpy")
def _start_with_range(x, w, s, lanes, top):
    """First candidate: the range of the sub-block spread over the codes 0 to `top`."""
    for j in range(lanes):
        inverse = f32(f32(top) / f32(s[_MOST * LANES + j] - s[_LEAST * LANES + j]))
        s[_BEST_INVERSE * LANES + j] = inverse
        s[_BEST_LEAST * LANES + j] = s[_LEAST * LANES + j]
        s[_SCALE * LANES + j] = f32(f32(1.0) / inverse)
        s[_ERROR * LANES + j] = f32(0.0)
    for i in range(32):
        for j in range(lanes):
            value, least = x[i * LANES + j], s[_LEAST * LANES + j]
            code = code_between(f32(s[_BEST_INVERSE * LANES + j] * f32(value - least)), 0, top)
            off = f32(f32(f32(s[_SCALE * LANES + j] * code) + least) - value)
            s[_ERROR * LANES + j] += f32(w[i * LANES + j] * f32(off * off))


@njit(inline="always", error_model="numpy")
def _try_inverse(x, w, codes, s, lanes, top, numerator):
    """Round with scale (most − least)/`numerator`, solve for scale and offset, keep if better."""
    for j in range(lanes):
        span = f32(s[_MOST * LANES + j] - s[_LEAST * LANES + j])
        s[_INVERSE * LANES + j] = f32(numerator / span)
        s[_SUM_L * LANES + j] = f32(0.0)
        s[_SUM_LL * LANES + j] = f32(0.0)
        s[_SUM_XL * LANES + j] = f32(0.0)
        s[_NEW_ERROR * LANES + j] = f32(0.0)
    for i in range(32):
        for j in range(lanes):
            value = x[i * LANES + j]
            shifted = f32(value - s[_LEAST * LANES + j])
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
    for i in range(32):
        for j in range(lanes):
            fitted = f32(s[_NEW_SCALE * LANES + j] * codes[i * LANES + j])
            off = f32(f32(fitted + s[_NEW_LEAST * LANES + j]) - x[i * LANES + j])
            s[_NEW_ERROR * LANES + j] += f32(w[i * LANES + j] * f32(off * off))
    for j in range(lanes):
        new, old = s[_NEW_ERROR * LANES + j], s[_ERROR * LANES + j]
        better = (s[_SPREAD * LANES + j] > f32(0.0)) & (new < old)
        inverse, least = s[_INVERSE * LANES + j], s[_LEAST * LANES + j]
        best_inverse, best_least = s[_BEST_INVERSE * LANES + j], s[_BEST_LEAST * LANES + j]
        new_scale, scale = s[_NEW_SCALE * LANES + j], s[_SCALE * LANES + j]
        new_least = s[_NEW_LEAST * LANES + j]
        s[_BEST_INVERSE * LANES + j] = inverse if better else best_inverse
        s[_BEST_LEAST * LANES + j] = least if better else best_least
        s[_SCALE * LANES + j] = new_scale if better else scale
        s[_LEAST * LANES + j] = new_least if better else least
        s[_ERROR * LANES + j] = new if better else old


@njit(inline="always", error_model="numpy")
def _fit_with_offset(x, w, codes, s, lanes, top, first, steps):
    """Scales (row SCALE) and offsets (row LEAST, ≤ 0) of `lanes` sub-blocks of 32 numbers."""
    _weigh(x, w, s, lanes)
    _start_with_range(x, w, s, lanes, top)
    for step in range(steps + 1):
        numerator = f32(f32(first + f32(f32(0.1) * f32(step))) + f32(top))
        _try_inverse(x, w, codes, s, lanes, top, numerator)


@njit(inline="always", error_model="numpy")
def _six_bits(value):
    """What ggml does: keep the nearest integer in a byte, then cut it to 63."""
    return np.int32(min(i32(63), i32(nearest(value) & i32(0xFF))))


@njit(inline="always", error_model="numpy")
def _put_scales(s, lane, out, at, scales, offsets):
    """Store float16 scales at out[at] and eight 6-bit pairs behind; False on overflow."""
    most_scale, most_offset = f32(0.0), f32(0.0)
    for k in range(8):
        scale, offset = s[_SCALE * LANES + lane + k], f32(-s[_LEAST * LANES + lane + k])
        most_scale = scale if scale > most_scale else most_scale
        most_offset = offset if offset > most_offset else most_offset
    inverse_scale = f32(f32(63.0) / most_scale) if most_scale > f32(0.0) else f32(0.0)
    inverse_offset = f32(f32(63.0) / most_offset) if most_offset > f32(0.0) else f32(0.0)
    half_scale = f32_to_f16_bits(f32(most_scale / f32(63.0)))
    half_offset = f32_to_f16_bits(f32(most_offset / f32(63.0)))
    put_u16(out, at, half_scale)
    put_u16(out, at + 2, half_offset)
    wide_scale, wide_offset = f16_bits_to_f32(half_scale), f16_bits_to_f32(half_offset)
    for k in range(8):
        six = _six_bits(f32(inverse_scale * s[_SCALE * LANES + lane + k]))
        other = _six_bits(f32(inverse_offset * f32(-s[_LEAST * LANES + lane + k])))
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
def _final_codes(x, start, s, lane, scales, offsets, top, codes):
    """codes[256]: the numbers of one super-block rounded with the scales as they were stored."""
    for k in range(8):
        scale, offset, at = scales[k], offsets[k], start + 32 * k
        if scale == f32(0.0):
            # Nothing will be left of these numbers; the codes are those of the search.
            inverse = s[_BEST_INVERSE * LANES + lane + k]
            least = s[_BEST_LEAST * LANES + lane + k]
            for i in range(32):
                codes[32 * k + i] = i32(code_between(f32(inverse * f32(x[at + i] - least)), 0, top))
        else:
            for i in range(32):
                codes[32 * k + i] = i32(code_between(f32(f32(x[at + i] + offset) / scale), 0, top))


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
def _quantize(x, out, top, first, steps, nbytes):
    """Blocks of `nbytes` bytes with codes up to `top`; for `first` and `steps` see `_fit…`."""
    t, w = np.empty(32 * LANES, np.float32), np.empty(32 * LANES, np.float32)
    trial, s = np.empty(32 * LANES, np.float32), np.empty(_STATE_ROWS * LANES, np.float32)
    scales, offsets = np.empty(8, np.float32), np.empty(8, np.float32)
    codes = np.empty(WIDTH, np.int32)
    fits = within_limit(x)
    for begin in range(0, x.size, 32 * LANES):
        lanes = min(LANES, (x.size - begin) // 32)
        transpose(x, begin, lanes, 32, t)
        _fit_with_offset(t, w, trial, s, lanes, top, first, steps)
        for lane in range(0, lanes, 8):
            start = begin + 32 * lane
            at = start // WIDTH * nbytes
            fits = _put_scales(s, lane, out, at, scales, offsets) and fits
            _final_codes(x, start, s, lane, scales, offsets, top, codes)
            _put_codes(codes, out, at, top, nbytes)
    return fits


@kernel()
def q4_k(x, out):
    """Q4_K, 144 bytes: scale, offset scale, eight 6-bit pairs, 256 codes of 4 bits."""
    return _quantize(x, out, 15, f32(-1.0), 20, 144)


@kernel()
def q5_k(x, out):
    """Q5_K, 176 bytes: as Q4_K, and 256 fifth bits before the codes."""
    return _quantize(x, out, 31, f32(-0.5), 15, 176)
