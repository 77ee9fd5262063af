"""Arithmetic that updates of weights share: low-rank rows, norms, the rounding of float64.

>>> low_rank_rows(a_f64, b_f64, first, last, rows_f64)
>>> round_f64(values_f64, part)

Every product and sum is rounded to float64 by itself and in the order written.
"""

from __future__ import annotations

import math

import numpy as np

from remerge.arithmetic.sums import LANES
from remerge.baking.bake_kernel import low_rank_rows_from
from remerge.kernels.blocks import RECORDS, all_finite, narrow_block
from remerge.kernels.compiled import kernel
from remerge.kernels.halves import F32, f64_to_odd_f32

_BLOCK = 512


@kernel("void(float64[:,::1], float64[:,::1], int64, int64, float64[:,::1])")
def low_rank_rows(a_f64, b_f64, first, last, rows_f64):
    """rows[i - first, j] = Σ_k B[i,k]·A[k,j], k ascending from +0.

    a_f64     float64 [r, columns] and `b_f64` float64 [rows, r]
    rows_f64  float64 [last - first, columns], filled
    """
    columns = a_f64.shape[1]
    block_f64 = np.empty((4, _BLOCK), np.float64)
    for start in range(0, columns, _BLOCK):
        count = min(_BLOCK, columns - start)
        row = first
        while row < last:
            rows = low_rank_rows_from(a_f64, b_f64, row, last, start, count, block_f64)
            for i in range(rows):
                for j in range(count):
                    rows_f64[row - first + i, start + j] = block_f64[i, j]
            row += rows


@kernel("void(float64[:,::1], float64[:,::1])")
def add_row_squares(values_f64, lanes_f64):
    """lanes[i, j mod 8] += values[i, j]², j ascending."""
    for i in range(values_f64.shape[0]):
        for j in range(values_f64.shape[1]):
            square = values_f64[i, j] * values_f64[i, j]
            lanes_f64[i, j % LANES] = lanes_f64[i, j % LANES] + square


@kernel("void(float64[:,::1], int64, float64[:,::1])")
def add_column_squares(values_f64, first, lanes_f64):
    """lanes[i mod 8, j] += values[i - first, j]², i ascending from `first`."""
    for i in range(values_f64.shape[0]):
        lane = (first + i) % LANES
        for j in range(values_f64.shape[1]):
            square = values_f64[i, j] * values_f64[i, j]
            lanes_f64[lane, j] = lanes_f64[lane, j] + square


def norms_of(lanes: np.ndarray) -> np.ndarray:
    """Return the square root of the exact sum of each row of lanes [n, 8], as float64 [n]."""
    return np.array([math.sqrt(math.fsum(row)) for row in lanes.tolist()], np.float64)


@kernel("boolean(float64[::1], part)", **RECORDS)
def round_f64(values_f64, part):
    """Round float64 values once to the type of the PART; they are all of its results.

    Returns whether every stored number is finite.
    """
    values_f32 = np.empty(part.block, np.float32)
    for start in range(0, values_f64.size, part.block):
        count = min(part.block, values_f64.size - start)
        for j in range(count):
            if part.code == F32:
                values_f32[j] = np.float32(values_f64[start + j])
            else:
                values_f32[j] = f64_to_odd_f32(values_f64[start + j])
        if not all_finite(values_f32, count):
            return False
        if not narrow_block(values_f32, count, part, start):
            return False
    return True
