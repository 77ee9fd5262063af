"""Sums of tensors with one factor each: the last pass of most merge methods.

>>> combine_chunk(base, from_base, records(models), factors, width, axis, divisor, part)

    s = Σ c·v       v = x, or x − b
    y = rn(s), rn(s / D), or rn(b + s)

Every operation is one float32 rounding, models from the left from +0.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    OVERFLOW,
    RECORDS,
    all_finite,
    narrow_block,
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel

_inline = njit(inline="always", error_model="numpy")


@_inline
def load_block(tensor, start, count, subtract, base_f32, out_f32):
    """Compute x, or x − b with `subtract`; False if one is not finite."""
    if subtract:
        return subtract_block(tensor, start, count, base_f32, out_f32)
    widen_block(tensor, start, count, out_f32)
    return all_finite(out_f32, count)


@kernel(
    "int64(tensor, boolean, tensor[::1], float32[:,::1], int64, int64, float32, part)", **RECORDS
)
def combine_chunk(base, from_base, models, factors, width, axis, divisor, part):
    """Combine a part of one tensor.

    base       TENSOR; v = x − b and y = b + s with `from_base`
    models     TENSOR [m]
    factors    float32 [k, m]: the factors of vector number `flat index // width` (axis 1) or
               `flat index % width` (axis 0), modulo k
    divisor    D, 1 for none

    Returns OK, BAD_INPUT or OVERFLOW.
    """
    begin, end, block = part.begin, part.end, part.block
    base_f32 = np.empty(block, np.float32)
    value_f32 = np.empty(block, np.float32)
    total_f32 = np.empty(block, np.float32)
    one = np.float32(1.0)
    vectors = factors.shape[0]
    for start in range(begin, end, block):
        count = min(block, end - start)
        if from_base:
            widen_block(base, start, count, base_f32)
            if not all_finite(base_f32, count):
                return BAD_INPUT
        for j in range(count):
            total_f32[j] = np.float32(0.0)
        for i in range(models.size):
            if not load_block(models[i], start, count, from_base, base_f32, value_f32):
                return BAD_INPUT
            if vectors == 1:
                factor = factors[0, i]
                for j in range(count):
                    total_f32[j] = np.float32(total_f32[j] + np.float32(factor * value_f32[j]))
            elif axis == 1:
                position = 0
                while position < count:
                    vector = (start + position) // width
                    stop = min(count, (vector + 1) * width - start)
                    factor = factors[vector % vectors, i]
                    for j in range(position, stop):
                        total_f32[j] = np.float32(total_f32[j] + np.float32(factor * value_f32[j]))
                    position = stop
            else:
                column = start % width
                for j in range(count):
                    factor = factors[column, i]
                    total_f32[j] = np.float32(total_f32[j] + np.float32(factor * value_f32[j]))
                    column = column + 1
                    column = 0 if column == width else column
        if divisor != one:
            for j in range(count):
                total_f32[j] = np.float32(total_f32[j] / divisor)
        if from_base:
            for j in range(count):
                total_f32[j] = np.float32(base_f32[j] + total_f32[j])
        if not narrow_block(total_f32, count, part, start - begin):
            return OVERFLOW
    return OK


@kernel("int64(tensor, boolean, float32, part)", **RECORDS)
def scale_chunk(model, is_scaled, scale, part):
    """Compute rn(x), or rn(scale·x) with `is_scaled`, of a part; see `combine_chunk`."""
    begin, end, block = part.begin, part.end, part.block
    value_f32 = np.empty(block, np.float32)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(model, start, count, value_f32)
        if not all_finite(value_f32, count):
            return BAD_INPUT
        if is_scaled:
            for j in range(count):
                value_f32[j] = np.float32(value_f32[j] * scale)
        if not narrow_block(value_f32, count, part, start - begin):
            return OVERFLOW
    return OK
