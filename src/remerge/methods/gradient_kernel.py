"""The gradient merge of two models, block by block.

>>> blend_chunk(address(first_u8), code1, address(second_u8), code2, ratio, begin, end, ...)

    y = rn((1 − r)·x1 + r·x2)

r and 1 − r are computed in float64 and rounded to float32 once; both products and the sum are one
float32 rounding each. r = 0 and r = 1 copy, so that a negative zero keeps its sign. Source of the
method: the BlockMerge_Gradient script of 2023, whose ratio is likewise the share of the second
model.
"""

from __future__ import annotations

import numpy as np

from remerge.kernels.blocks import BAD_INPUT, OK, OVERFLOW, all_finite, narrow_block, widen_block
from remerge.kernels.compiled import kernel


@kernel("int64(uint64, int64, uint64, int64, float64, int64, int64, uint64, int64, int64)")
def blend_chunk(first, first_code, second, second_code, ratio, begin, end, out, out_code, block):
    """Blend elements [begin, end) of one tensor; the first result goes to the address `out`.

    first, second  addresses where the two models' whole tensors begin
    ratio          share of the second model, float64 in [0, 1]
    block          elements a step; does not change the result

    Returns OK, BAD_INPUT (some input is NaN or Inf) or OVERFLOW (some y is beyond the output type).
    """
    first_f32 = np.empty(block, np.float32)
    second_f32 = np.empty(block, np.float32)
    share2 = np.float32(ratio)
    share1 = np.float32(1.0 - ratio)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(first, first_code, start, count, first_f32)
        widen_block(second, second_code, start, count, second_f32)
        if not all_finite(first_f32, count) or not all_finite(second_f32, count):
            return BAD_INPUT
        if ratio == 1.0:
            first_f32[:count] = second_f32[:count]
        elif ratio != 0.0:
            for j in range(count):
                part1 = np.float32(share1 * first_f32[j])
                part2 = np.float32(share2 * second_f32[j])
                first_f32[j] = np.float32(part1 + part2)
        if not narrow_block(first_f32, count, out_code, out, start - begin):
            return OVERFLOW
    return OK
