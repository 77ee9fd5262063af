"""NearSwap: where base and model lie near each other, the model; else mostly the base.

d = |x − b|, w = min(t / d, 1), y = rn(w·x + (1 − w)·b); d = 0 copies the base.
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
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel


@kernel("int64(tensor, tensor, float32, part)", **RECORDS)
def nearswap_chunk(base, model, t, part):
    """Merge a part of one tensor; return OK, BAD_INPUT or OVERFLOW."""
    begin, end, block = part.begin, part.end, part.block
    base_f32 = np.empty(block, np.float32)
    value_f32 = np.empty(block, np.float32)
    delta_f32 = np.empty(block, np.float32)
    zero = np.float32(0.0)
    one = np.float32(1.0)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(base, start, count, base_f32)
        widen_block(model, start, count, value_f32)
        fine = subtract_block(model, start, count, base_f32, delta_f32)
        if not fine or not all_finite(base_f32, count):
            return BAD_INPUT
        for j in range(count):
            distance = np.float32(abs(delta_f32[j]))
            by = one if distance == zero else distance
            weight = np.float32(t / by)
            weight = min(weight, one)
            share = np.float32(weight * value_f32[j])
            mixed = np.float32(share + np.float32(np.float32(one - weight) * base_f32[j]))
            base_f32[j] = base_f32[j] if distance == zero else mixed
        if not narrow_block(base_f32, count, part, start - begin):
            return OVERFLOW
    return OK
