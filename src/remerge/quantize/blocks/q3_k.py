"""Q3_K: sixteen sub-blocks of 16 weights, each with a scale of six bits and no offset.

>>> q3_k(values_f32, out_u8)

The codes of a sub-block, −4 to 3, are rounded with its largest number and then changed one after
the other, five times over, wherever the squared error weighted by x² falls; the scale is the best
for the codes. The definition is `quantize_row_q3_K_ref` of ggml; see `superblocks` for what the
bytes equal.

Takes finite `x` float32 [256·n] and fills `out` uint8 [n·110]; returns False if a scale is too
large for float16.
"""

# numba infers the types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.compiled import kernel
from remerge.kernels.halves import f16_bits_to_f32, f32_to_f16_bits
from remerge.quantize.blocks.q2_k import put_two_bits
from remerge.quantize.blocks.q4_0 import is_finite_half, put_u16
from remerge.quantize.blocks.scale_search import (
    MAGNITUDE,
    PEAK,
    SCALE,
    STATE_ROWS,
    SUM_QQ,
    SUM_QX,
    find_peaks,
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

#: Rounds of changes; one that changes nothing is followed by others that change nothing.
_ROUNDS = 5


@njit(inline="always", error_model="numpy")
def _fit(x, w, codes, s, lanes):
    """Codes and scales (row SCALE) of `lanes` sub-blocks of 16 numbers."""
    for j in range(lanes):
        s[SUM_QX * LANES + j] = f32(0.0)
        s[SUM_QQ * LANES + j] = f32(0.0)
    find_peaks(x, s, lanes, 16)
    for j in range(lanes):
        s[SCALE * LANES + j] = f32(f32(-4.0) / s[PEAK * LANES + j])
    for i in range(16):
        for j in range(lanes):
            value = x[i * LANES + j]
            code = code_between(f32(s[SCALE * LANES + j] * value), -4, 3)
            weight = w[i * LANES + j]
            codes[i * LANES + j] = code
            s[SUM_QX * LANES + j] += f32(f32(weight * value) * code)
            s[SUM_QQ * LANES + j] += f32(f32(weight * code) * code)
    for _ in range(_ROUNDS):
        for i in range(16):
            _change(x, w, codes, s, lanes, i)
    for j in range(lanes):
        sum_lx, sum_ll = s[SUM_QX * LANES + j], s[SUM_QQ * LANES + j]
        quotient = f32(sum_lx / sum_ll)
        nothing = (s[MAGNITUDE * LANES + j] < NOTHING) | (not sum_ll > f32(0.0))
        s[SCALE * LANES + j] = f32(0.0) if nothing else quotient


@njit(inline="always", error_model="numpy")
def _change(x, w, codes, s, lanes, i):
    """Give code `i` of each sub-block the value that is best beside the other codes."""
    for j in range(lanes):
        value, code = x[i * LANES + j], codes[i * LANES + j]
        sum_lx, sum_ll = s[SUM_QX * LANES + j], s[SUM_QQ * LANES + j]
        weight = w[i * LANES + j]
        lx = f32(sum_lx - f32(f32(weight * value) * code))
        ll = f32(sum_ll - f32(f32(weight * code) * code))
        tried = code_between(f32(f32(value * ll) / lx), -4, 3)
        new_lx = f32(lx + f32(f32(weight * value) * tried))
        new_ll = f32(ll + f32(f32(weight * tried) * tried))
        gain = f32(f32(new_lx * new_lx) * sum_ll) > f32(f32(sum_lx * sum_lx) * new_ll)
        better = (lx > f32(0.0)) & (tried != code) & (new_ll > f32(0.0)) & gain
        codes[i * LANES + j] = tried if better else code
        s[SUM_QX * LANES + j] = new_lx if better else sum_lx
        s[SUM_QQ * LANES + j] = new_ll if better else sum_ll


@njit(inline="always", error_model="numpy")
def put_six_bit_scales(scales, out, at):
    """Twelve bytes at out[at]: sixteen codes 0 to 63, low four bits and then the high two."""
    for i in range(12):
        out[at + i] = np.uint8(0)
    for k in range(16):
        code = scales[k]
        if k < 8:
            out[at + k] = np.uint8(code & 15)
        else:
            out[at + k - 8] |= np.uint8((code & 15) << 4)
        out[at + 8 + k % 4] |= np.uint8((code >> 4) << (2 * (k // 4)))


@njit(inline="always", error_model="numpy")
def put_third_bits(codes, out, at):
    """32 bytes at out[at]: bit k of byte i is the third bit of code 32·k + i."""
    for i in range(32):
        third = i32(0)
        for k in range(8):
            third = i32(third | ((codes[32 * k + i] >> 2) << k))
        out[at + i] = np.uint8(third)


@njit(inline="always", error_model="numpy")
def _put_q3_k(x, start, searched, s, lane, out, at, small, codes):
    """One super-block of Q3_K from the scales of its 16 sub-blocks; False on overflow."""
    peak, _ = largest_scale(s, lane, 16)
    inverse = f32(f32(-32.0) / peak) if peak != f32(0.0) else f32(0.0)
    half = f32_to_f16_bits(f32(f32(1.0) / inverse)) if peak != f32(0.0) else np.uint16(0)
    put_u16(out, at + 108, half)
    wide = f16_bits_to_f32(half)
    for k in range(16):
        # ggml keeps the nearest integer in a byte before it cuts it to six bits.
        byte = np.int8(nearest(f32(inverse * s[SCALE * LANES + lane + k])))
        small[k] = max(i32(-32), min(i32(31), i32(byte))) + 32 if peak != f32(0.0) else i32(0)
        scale = f32(wide * f32(small[k] - 32))
        nothing = s[MAGNITUDE * LANES + lane + k] < NOTHING
        for i in range(16):
            kept = i32(0) if nothing else i32(searched[i * LANES + lane + k]) + 4
            tried = i32(code_between(f32(x[start + 16 * k + i] / scale), -4, 3)) + 4
            codes[16 * k + i] = kept if scale == f32(0.0) else tried
    put_six_bit_scales(small, out, at + 96)
    put_third_bits(codes, out, at)
    put_two_bits(codes, out, at + 32)
    return is_finite_half(half)


@kernel()
def q3_k(x, out):
    """Q3_K, 110 bytes: 256 third bits, 256 low two bits, 16 scales of 6 bits, one scale."""
    t, s = np.empty(32 * LANES, np.float32), np.empty(STATE_ROWS * LANES, np.float32)
    searched, small = np.empty(16 * LANES, np.float32), np.empty(16, np.int32)
    codes = np.empty(WIDTH, np.int32)
    fits = within_limit(x)
    for begin in range(0, x.size, 16 * LANES):
        lanes = min(LANES, (x.size - begin) // 16)
        transpose(x, begin, lanes, 16, t)
        weigh_by_square(t, lanes, 16)
        _fit(t, t[16 * LANES :], searched, s, lanes)
        for lane in range(0, lanes, 16):
            start = begin + 16 * lane
            at = start // WIDTH * 110
            fits = _put_q3_k(x, start, searched, s, lane, out, at, small, codes) and fits
    return fits
