"""The gradient merge of two models, block by block.

>>> blend_chunk(first.record, second.record, ratio, part)

    y = rn((1 − r)·x1 + r·x2)

r and 1 − r are computed in float64 and rounded to float32 once; both products and the sum are one
float32 rounding each. r = 0 and r = 1 copy, so that a negative zero keeps its sign. Source of the
method: the BlockMerge_Gradient script of 2023, whose ratio is likewise the share of the second
model.
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


@kernel("int64(tensor, tensor, float64, part)", **RECORDS)
def blend_chunk(first, second, ratio, part):
    """Blend a part of one tensor; `ratio` is the share of the second, float64 in [0, 1].

    Returns OK, BAD_INPUT (some input is NaN or Inf) or OVERFLOW (some y is beyond the output type).
    """
    begin, end, block = part.begin, part.end, part.block
    first_f32 = np.empty(block, np.float32)
    second_f32 = np.empty(block, np.float32)
    share2 = np.float32(ratio)
    share1 = np.float32(1.0 - ratio)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(first, start, count, first_f32)
        widen_block(second, start, count, second_f32)
        if not all_finite(first_f32, count) or not all_finite(second_f32, count):
            return BAD_INPUT
        if ratio == 1.0:
            first_f32[:count] = second_f32[:count]
        elif ratio != 0.0:
            for j in range(count):
                part1 = np.float32(share1 * first_f32[j])
                part2 = np.float32(share2 * second_f32[j])
                first_f32[j] = np.float32(part1 + part2)
        if not narrow_block(first_f32, count, part, start - begin):
            return OVERFLOW
    return OK
