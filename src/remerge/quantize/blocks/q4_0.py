"""The simple block formats of ggml: 32 weights, one scale, and in Q4_1 and Q5_1 one offset.

>>> q8_0(values_f32, out_u8)

Each kernel is a function of the 32 numbers alone, every operation rounded to float32 by itself, so
the bytes are the same on any machine. They equal those of ggml's reference quantizer
(`ggml/src/ggml-quants.c`), with one exception: a block whose scale is so small (under 2⁻¹²⁶)
that its inverse is infinite becomes zeros here, where ggml converts infinities to integers, which
C leaves undefined. The float16 scale of such a block is zero either way.

All take finite `x` float32 [32·n] and fill `out` uint8 [n·bytes]; they return False if a scale is
too large for float16.
"""

# numba infers the types; `min` and `max` would differ from these selections for NaN and −0.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: FURB136

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.blocks import all_finite as block_is_finite
from remerge.kernels.compiled import kernel
from remerge.kernels.halves import f32_to_f16_bits, u32

WIDTH = 32
f32 = np.float32


@njit(inline="always", error_model="numpy")
def put_u16(out, position, bits):
    """Store `bits` (uint16) little-endian at `out[position]`."""
    out[position] = np.uint8(bits & np.uint16(0xFF))
    out[position + 1] = np.uint8(bits >> np.uint16(8))


@njit(inline="always", error_model="numpy")
def is_finite_half(bits):
    return (bits & np.uint16(0x7C00)) != np.uint16(0x7C00)


@njit(inline="always", error_model="numpy")
def _inverse(scale):
    """1/scale, or 0 where that is not finite."""
    inverse = f32(f32(1.0) / scale)
    return inverse if abs(inverse) <= f32(3.4028235e38) else f32(0.0)


@kernel()
def all_finite(x):
    """Whether no element of `x` is NaN or Inf."""
    return block_is_finite(x, x.size)


@njit(inline="always", error_model="numpy")
def _peak(bits, start):
    """Largest magnitude of 32 numbers, as bits."""
    highest = u32(0)
    for i in range(WIDTH):
        highest = u32(max(highest, u32(bits[start + i] & u32(0x7FFFFFFF))))
    return highest


@njit(inline="always", error_model="numpy")
def _signed_peak(x, bits, start):
    """The first of 32 numbers that has the largest magnitude; +0 where all are zeros."""
    highest = _peak(bits, start)
    if highest == u32(0):
        return f32(0.0)
    for i in range(WIDTH):
        if u32(bits[start + i] & u32(0x7FFFFFFF)) == highest:
            return x[start + i]
    return f32(0.0)


@kernel()
def q8_0(x, out):
    """Q8_0: float16 scale max|x|/127, then 32 int8 codes, halves rounded away from zero."""
    bits = x.view(np.uint32)
    fits = True
    for block in range(x.size // WIDTH):
        start, at = block * WIDTH, block * 34
        scale = f32(u32(_peak(bits, start)).view(np.float32) / f32(127.0))
        inverse = _inverse(scale)
        half = f32_to_f16_bits(scale)
        fits = fits and is_finite_half(half)
        put_u16(out, at, half)
        for i in range(WIDTH):
            value = f32(x[start + i] * inverse)
            size = abs(value)
            whole = np.int32(size)
            code = np.int32(whole + np.int32(f32(size - f32(whole)) >= f32(0.5)))
            out[at + 2 + i] = np.uint8(code if value >= f32(0.0) else np.int32(-code))
    return fits


@njit(inline="always", error_model="numpy")
def _centered_codes(x, start, i, inverse, middle):
    """Codes of numbers `i` and `i + 16` of a block, 0 to 2·middle − 1, where `middle` is zero."""
    most, half = np.int32(2 * middle - 1), f32(middle + 0.5)
    low = np.int32(f32(f32(x[start + i] * inverse) + half))
    high = np.int32(f32(f32(x[start + 16 + i] * inverse) + half))
    return min(most, low), min(most, high)


@njit(inline="always", error_model="numpy")
def _codes_above(x, start, i, least, inverse, most):
    """Codes of numbers `i` and `i + 16` of a block, 0 for `least` and at most `most`."""
    low = np.int32(f32(f32(f32(x[start + i] - least) * inverse) + f32(0.5)))
    high = np.int32(f32(f32(f32(x[start + 16 + i] - least) * inverse) + f32(0.5)))
    return min(np.int32(most), low), min(np.int32(most), high)


@kernel()
def q4_0(x, out):
    """Q4_0: float16 scale −max/8 (max: what is largest in magnitude), then 32 codes of 4 bits."""
    bits = x.view(np.uint32)
    fits = True
    for block in range(x.size // WIDTH):
        start, at = block * WIDTH, block * 18
        scale = f32(_signed_peak(x, bits, start) / f32(-8.0))
        inverse = _inverse(scale)
        half = f32_to_f16_bits(scale)
        fits = fits and is_finite_half(half)
        put_u16(out, at, half)
        for i in range(16):
            low, high = _centered_codes(x, start, i, inverse, 8)
            out[at + 2 + i] = np.uint8(low | (high << np.int32(4)))
    return fits


@njit(inline="always", error_model="numpy")
def _range(x, start):
    """Least and largest of 32 numbers."""
    least, most = x[start], x[start]
    for i in range(1, WIDTH):
        value = x[start + i]
        least = value if value < least else least
        most = value if value > most else most
    return least, most


@kernel()
def q4_1(x, out):
    """Q4_1: float16 scale (max − min)/15 and offset min, then 32 codes of 4 bits."""
    fits = True
    for block in range(x.size // WIDTH):
        start, at = block * WIDTH, block * 20
        least, most = _range(x, start)
        scale = f32(f32(most - least) / f32(15.0))
        inverse = _inverse(scale)
        half, offset = f32_to_f16_bits(scale), f32_to_f16_bits(least)
        fits = fits and is_finite_half(half) and is_finite_half(offset)
        put_u16(out, at, half)
        put_u16(out, at + 2, offset)
        for i in range(16):
            low, high = _codes_above(x, start, i, least, inverse, 15)
            out[at + 4 + i] = np.uint8(low | (high << np.int32(4)))
    return fits


@njit(inline="always", error_model="numpy")
def _put_five_bits(out, at, low, high, i, fifth):
    """Store codes `i` and `i + 16`: four bits of each at `out[at + i]`, the fifth ones returned."""
    out[at + i] = np.uint8((low & np.int32(15)) | ((high & np.int32(15)) << np.int32(4)))
    fifth = u32(fifth | u32(u32(low >> np.int32(4)) << u32(i)))
    return u32(fifth | u32(u32(high >> np.int32(4)) << u32(i + 16)))


@kernel()
def q5_0(x, out):
    """Q5_0: float16 scale −max/16, 32 fifth bits, then 32 codes of 4 bits."""
    bits = x.view(np.uint32)
    fits = True
    for block in range(x.size // WIDTH):
        start, at = block * WIDTH, block * 22
        scale = f32(_signed_peak(x, bits, start) / f32(-16.0))
        inverse = _inverse(scale)
        half = f32_to_f16_bits(scale)
        fits = fits and is_finite_half(half)
        put_u16(out, at, half)
        fifth = u32(0)
        for i in range(16):
            low, high = _centered_codes(x, start, i, inverse, 16)
            fifth = _put_five_bits(out, at + 6, low, high, i, fifth)
        put_u16(out, at + 2, np.uint16(fifth & u32(0xFFFF)))
        put_u16(out, at + 4, np.uint16(fifth >> u32(16)))
    return fits


@kernel()
def q5_1(x, out):
    """Q5_1: float16 scale (max − min)/31 and offset min, 32 fifth bits, then 32 codes of 4 bits."""
    fits = True
    for block in range(x.size // WIDTH):
        start, at = block * WIDTH, block * 24
        least, most = _range(x, start)
        scale = f32(f32(most - least) / f32(31.0))
        inverse = _inverse(scale)
        half, offset = f32_to_f16_bits(scale), f32_to_f16_bits(least)
        fits = fits and is_finite_half(half) and is_finite_half(offset)
        put_u16(out, at, half)
        put_u16(out, at + 2, offset)
        fifth = u32(0)
        for i in range(16):
            low, high = _codes_above(x, start, i, least, inverse, 31)
            fifth = _put_five_bits(out, at + 8, low, high, i, fifth)
        put_u16(out, at + 4, np.uint16(fifth & u32(0xFFFF)))
        put_u16(out, at + 6, np.uint16(fifth >> u32(16)))
    return fits
