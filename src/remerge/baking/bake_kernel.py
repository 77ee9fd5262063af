"""Baking a low-rank adapter into a weight, rows at a time.

>>> bake_rows(weight.record, columns, a_f64, b_f64, scale, part)

    D[i,j] = Σ_k B[i,k]·A[k,j]        float64, k ascending from +0
    W'     = rn(f64(W) + s·D)         product and sum rounded in float64, then once to the output

A product of two float32 numbers is exact in float64, so it does not matter whether a processor
fuses it with the sum; only the order of k does, and it is fixed. Source: Hu et al. 2021 (arXiv
2106.09685), section 4.1; the scale is the one peft defines.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    OVERFLOW,
    RECORDS,
    all_finite,
    narrow_block,
    pointer,
    widen_block,
)
from remerge.kernels.compiled import kernel
from remerge.kernels.halves import F32, f64_to_odd_f32

_inline = njit(inline="always", error_model="numpy")


@_inline
def low_rank_row(a_f64, b_row_f64, start, count, row_f64):
    """row[j] = Σ_k b_row[k]·A[k, start+j]: the rows that four at a time leave over."""
    for j in range(count):
        row_f64[j] = 0.0
    for k in range(b_row_f64.size):
        b0 = b_row_f64[k]
        a0 = a_f64[k, start : start + count]
        for j in range(count):
            row_f64[j] = row_f64[j] + b0 * a0[j]


@_inline
def low_rank_four(a_f64, b_f64, first, start, count, rows_f64):
    """Rows of B from `first` on: what is read of A serves four of them, and four k are a pass."""
    rank = b_f64.shape[1]
    r0, r1, r2, r3 = rows_f64[0], rows_f64[1], rows_f64[2], rows_f64[3]
    for j in range(count):
        r0[j] = r1[j] = r2[j] = r3[j] = 0.0
    k = 0
    while k + 4 <= rank:
        b, c = b_f64[first, k : k + 4], b_f64[first + 1, k : k + 4]
        d, e = b_f64[first + 2, k : k + 4], b_f64[first + 3, k : k + 4]
        b0, b1, b2, b3 = b[0], b[1], b[2], b[3]
        c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
        d0, d1, d2, d3 = d[0], d[1], d[2], d[3]
        e0, e1, e2, e3 = e[0], e[1], e[2], e[3]
        a0 = a_f64[k, start : start + count]
        a1 = a_f64[k + 1, start : start + count]
        a2 = a_f64[k + 2, start : start + count]
        a3 = a_f64[k + 3, start : start + count]
        for j in range(count):
            x0, x1, x2, x3 = a0[j], a1[j], a2[j], a3[j]
            r0[j] = r0[j] + b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
            r1[j] = r1[j] + c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
            r2[j] = r2[j] + d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3
            r3[j] = r3[j] + e0 * x0 + e1 * x1 + e2 * x2 + e3 * x3
        k += 4
    while k < rank:
        a0 = a_f64[k, start : start + count]
        for i in range(4):
            b0 = b_f64[first + i, k]
            for j in range(count):
                rows_f64[i, j] = rows_f64[i, j] + b0 * a0[j]
        k += 1


@_inline
def low_rank_rows_from(a_f64, b_f64, row, last, start, count, rows_f64):
    """Four rows of B·A from `row` on, one where fewer are left before `last`; returns how many."""
    if row + 4 <= last:
        low_rank_four(a_f64, b_f64, row, start, count, rows_f64)
        return 4
    low_rank_row(a_f64, b_f64[row], start, count, rows_f64[0])
    return 1


@_inline
def _add_row(weight, element, count, scale, row_f64, weight_f32, part, position):
    """W' of `count` weights from `element` on, stored at `position` of the PART; a status."""
    widen_block(weight, element, count, weight_f32)
    if not all_finite(weight_f32, count):
        return BAD_INPUT
    if part.code == F32:
        out_f32 = carray(
            pointer(part.address + np.uint64(4) * np.uint64(position)), count, np.float32
        )
        for j in range(count):
            out_f32[j] = np.float32(np.float64(weight_f32[j]) + scale * row_f64[j])
        return OK if all_finite(out_f32, count) else OVERFLOW
    for j in range(count):
        weight_f32[j] = f64_to_odd_f32(np.float64(weight_f32[j]) + scale * row_f64[j])
    return OK if narrow_block(weight_f32, count, part, position) else OVERFLOW


@kernel("int64(tensor, int64, float64[:,::1], float64[:,::1], float64, part)", **RECORDS)
def bake_rows(weight, columns, a_f64, b_f64, scale, part):
    """Bake some rows of one weight.

    weight   TENSOR of shape [rows, columns]
    a_f64    float64 [r, columns] and `b_f64` float64 [rows, r]: A and B, widened from float32
    scale    float64
    part     begin and end are rows, block is columns a step

    Returns OK, BAD_INPUT (some weight is NaN or Inf) or OVERFLOW (some W' is beyond the output
    type). A and B are checked by the caller.
    """
    first_row, last_row, block = part.begin, part.end, part.block
    weight_f32 = np.empty(block, np.float32)
    rows_f64 = np.empty((4, block), np.float64)
    # Columns outside: a strip of A stays in the cache while all rows use it.
    for start in range(0, columns, block):
        count = min(block, columns - start)
        row = first_row
        while row < last_row:
            rows = low_rank_rows_from(a_f64, b_f64, row, last_row, start, count, rows_f64)
            for i in range(rows):
                element = (row + i) * columns + start
                position = element - first_row * columns
                status = _add_row(
                    weight, element, count, scale, rows_f64[i], weight_f32, part, position
                )
                if status != OK:
                    return status
            row += rows
    return OK
