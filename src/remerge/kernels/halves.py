"""Conversions between 16-bit and 32-bit floats, the same bits on every processor.

Processors disagree on what they offer for half precision, so the conversions are shifts and selects
on integers, which LLVM vectorises. Where the compiler's target has F16C, whose two instructions are
exactly these conversions (flush-to-zero does not touch them), `load_f16` and `store_f16` are those
instructions; a target without it would call a library function that does not exist in this process.
A test compares both over all 65536 halves.

The codes F16, BF16, F32 are those of `remerge.tensors.dtypes.KERNEL_CODE`. Widening is exact.
Narrowing rounds to nearest, ties to even, once (IEEE 754-2019, 4.3.1); what is too large for the
target becomes Inf, which the callers report as an error.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

F16, BF16, F32 = 0, 1, 2

_inline = njit(inline="always", error_model="numpy")


# numba widens uint32 arithmetic to uint64: `u32` brings each step back, so that vectors stay full.
u32 = np.uint32


@_inline
def f16_bits_to_f32(half):
    """The float32 equal to the float16 with the bits `half` (uint16)."""
    bits = u32(half)
    sign = u32(u32(bits & u32(0x8000)) << u32(16))
    magnitude = u32(u32(bits & u32(0x7FFF)) << u32(13))
    exponent = u32(magnitude & u32(0x0F800000))
    normal = u32(magnitude + u32(0x38000000))
    special = u32(magnitude + u32(0x70000000))
    # A subnormal half m·2⁻²⁴ is (2⁻¹⁴ + m·2⁻²⁴) − 2⁻¹⁴: exact, and never a subnormal float32.
    shifted = u32(magnitude + u32(0x38800000)).view(np.float32)
    subnormal = np.float32(shifted - np.float32(6.103515625e-05)).view(np.uint32)
    result = subnormal if exponent == u32(0) else normal
    result = special if exponent == u32(0x0F800000) else result
    return u32(result | sign).view(np.float32)


@_inline
def bf16_bits_to_f32(half):
    """The float32 equal to the bfloat16 with the bits `half` (uint16)."""
    return u32(u32(half) << u32(16)).view(np.float32)


@_inline
def f32_to_f16_bits(value):
    """Bits of the float16 nearest to the float32 `value`, ties to even; NaN stays NaN."""
    bits = np.float32(value).view(np.uint32)
    sign = u32(u32(bits >> u32(16)) & u32(0x8000))
    magnitude = u32(bits & u32(0x7FFFFFFF))
    # Normal result: add half of the unit dropped, less one if the kept part is even.
    odd = u32(u32(magnitude >> u32(13)) & u32(1))
    normal = u32(u32(u32(magnitude - u32(0x38000000 - 0x0FFF)) + odd) >> u32(13))
    # Subnormal result: 0.5 + |value| rounds |value| to a multiple of 2⁻²⁴ in the last bits.
    lifted = np.float32(magnitude.view(np.float32) + np.float32(0.5))
    subnormal = u32(lifted.view(np.uint32) - u32(0x3F000000))
    result = subnormal if magnitude < u32(0x38800000) else normal
    result = u32(0x7C00) if magnitude >= u32(0x47800000) else result
    result = u32(0x7E00) if magnitude > u32(0x7F800000) else result
    return np.uint16(u32(result | sign))


@_inline
def f32_to_bf16_bits(value):
    """Bits of the bfloat16 nearest to the float32 `value`, ties to even; NaN stays NaN."""
    bits = np.float32(value).view(np.uint32)
    odd = u32(u32(bits >> u32(16)) & u32(1))
    rounded = u32(u32(u32(bits + u32(0x7FFF)) + odd) >> u32(16))
    quiet = u32(u32(bits >> u32(16)) | u32(0x40))
    is_nan = u32(bits & u32(0x7FFFFFFF)) > u32(0x7F800000)
    return np.uint16(quiet if is_nan else rounded)


@_inline
def f64_to_odd_f32(value):
    """The float64 `value` cut to float32 by round-to-odd.

    Rounding the result to a type with at least two bits fewer then equals rounding `value` itself
    once (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008, theorem 1), so
    a float64 reaches float16 and bfloat16 without rounding twice.
    """
    nearest = np.float32(value)
    bits = nearest.view(np.uint32)
    error = value - np.float64(nearest)
    # Too far from zero: step back to the truncated value; its last bit then stands for the rest.
    too_far = (value > 0.0 and error < 0.0) or (value < 0.0 and error > 0.0)
    cut = u32(bits - u32(1)) if too_far else bits
    return u32(cut | (u32(1) if error != 0.0 else u32(0))).view(np.float32)


@intrinsic
def _f16_to_f32_instruction(_typing_context, bits):
    def generate(_context, builder, _signature, arguments):
        half = builder.bitcast(arguments[0], ir.HalfType())
        return builder.fpext(half, ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _f32_to_f16_instruction(_typing_context, value):
    def generate(_context, builder, _signature, arguments):
        half = builder.fptrunc(arguments[0], ir.HalfType())
        return builder.bitcast(half, ir.IntType(16))

    return types.uint16(types.float32), generate


def target_has(feature: str) -> bool:
    """Whether the processor that numba compiles for has `feature`, in LLVM's words."""
    _triple, _name, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{feature}" in features.split(",")


load_f16 = _f16_to_f32_instruction if target_has("f16c") else f16_bits_to_f32
store_f16 = _f32_to_f16_instruction if target_has("f16c") else f32_to_f16_bits
