"""The last pass of Model Stock: between the base and the mean of the models.

y = rn(f32(t)·((Σ x_i) / f32(N)) + f32(1 − t)·b), t per tensor or per row, each operation rounded.
"""

from __future__ import annotations

import numpy as np

from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    OVERFLOW,
    RECORDS,
    all_finite,
    narrow_block,
    widen_block,
)
from remerge.kernels.compiled import kernel


@kernel("int64(tensor, tensor[::1], float32[:,::1], int64, part)", **RECORDS)
def stock_chunk(base, models, shares, width, part):
    """Merge a part of one tensor.

    shares  float32 [k, 2]: f32(t) and f32(1 − t) of vector `flat index // width`, modulo k

    Returns OK, BAD_INPUT or OVERFLOW.
    """
    begin, end, block = part.begin, part.end, part.block
    base_f32 = np.empty(block, np.float32)
    value_f32 = np.empty(block, np.float32)
    total_f32 = np.empty(block, np.float32)
    count_models = np.float32(models.size)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(base, start, count, base_f32)
        if not all_finite(base_f32, count):
            return BAD_INPUT
        for j in range(count):
            total_f32[j] = np.float32(0.0)
        for i in range(models.size):
            widen_block(models[i], start, count, value_f32)
            if not all_finite(value_f32, count):
                return BAD_INPUT
            for j in range(count):
                total_f32[j] = np.float32(total_f32[j] + value_f32[j])
        position = 0
        while position < count:
            vector = (start + position) // width
            stop = min(count, (vector + 1) * width - start)
            share = shares[vector % shares.shape[0], 0]
            rest = shares[vector % shares.shape[0], 1]
            for j in range(position, stop):
                mean = np.float32(total_f32[j] / count_models)
                merged = np.float32(share * mean)
                total_f32[j] = np.float32(merged + np.float32(rest * base_f32[j]))
            position = stop
        if not narrow_block(total_f32, count, part, start - begin):
            return OVERFLOW
    return OK


@kernel("void(float64[:,::1], int64, float64, float64[::1])")
def interpolation_shares(sums, models, floor, shares):
    """Fill shares[r] with t of row r, from S(δ_i·δ_k) by `pairs`: float64 [rows, pairs]."""
    for row in range(sums.shape[0]):
        total = np.float64(0.0)
        count = 0
        place = 0
        for i in range(models):
            own = place
            for k in range(i, models):
                if k > i:
                    other = 0
                    for before in range(k):
                        other += models - before
                    norms = np.float64(np.sqrt(sums[row, own]) * np.sqrt(sums[row, other]))
                    divisor = max(norms, floor)
                    cosine = np.float64(0.0)
                    if divisor != 0.0:
                        cosine = sums[row, place] / divisor
                        cosine = min(1.0, max(-1.0, cosine))
                    total += cosine
                    count += 1
                place += 1
        mean = total / np.float64(count)
        scale = np.float64(1.0 + np.float64(models - 1) * mean)
        t = np.float64(0.0)
        if abs(scale) >= 1e-6:
            t = np.float64(np.float64(models) * mean) / scale
        shares[row] = t
