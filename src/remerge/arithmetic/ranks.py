"""Ranks within rows, and the probabilities that della makes of them.

>>> della_table(base, model, begin, end, width, draw, table)

Within a row entries are ordered by magnitude, largest first, equal ones by index. The entry at
position ρ of L is kept with p = (density − ε) + 2·(L − 1 − ρ)/(L − 1)·ε. Source: Deep et al. 2024,
"DELLA-Merging" (arXiv 2406.11617).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.arithmetic.philox import philox_block
from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    RECORDS,
    magnitude_bits,
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel

#: How a donor's entries are drawn: density and ε of the formula above, the key of the draws, and
#: whether what is kept is divided by its probability.
DRAW = np.dtype(
    [
        ("density", np.float64),
        ("epsilon", np.float64),
        ("key", np.uint32, (2,)),
        ("by_probability", np.bool_),
    ],
    align=True,
)
_DIGIT = 11
_BINS = 1 << _DIGIT
_BLOCK = 512


@njit(nogil=True, error_model="numpy")
def _order(bits, count, order, spare, counts):
    """order[:count] = indices of `bits` from the largest down, of equals the first first.

    A radix sort by three digits of 11 bits; the sign bit is 0.
    """
    for j in range(count):
        order[j] = j
    for step in range(3):
        shift = np.uint32(step * _DIGIT)
        counts[:] = 0
        for j in range(count):
            counts[_BINS - 1 - ((bits[j] >> shift) & np.uint32(_BINS - 1))] += 1
        place = 0
        for b in range(_BINS):
            here = counts[b]
            counts[b] = place
            place += here
        for r in range(count):
            index = order[r]
            b = _BINS - 1 - ((bits[index] >> shift) & np.uint32(_BINS - 1))
            spare[counts[b]] = index
            counts[b] += 1
        for r in range(count):
            order[r] = spare[r]


@kernel("int64(tensor, tensor, int64, int64, int64, draw, float32[::1])", **RECORDS, draw=DRAW)
def della_table(base, model, begin, end, width, draw, table):
    """Fill `table` for elements [begin, end), whole rows of `width`: 0 for what is dropped.

    For what is kept f32(1/p) with `draw.by_probability`, else 1. Returns OK or BAD_INPUT.
    """
    density, epsilon, by_probability = draw.density, draw.epsilon, draw.by_probability
    key0, key1 = draw.key[0], draw.key[1]
    bits = np.empty(width, np.uint32)
    order = np.empty(width, np.int32)
    spare = np.empty(width, np.int32)
    counts = np.empty(_BINS, np.int64)
    limits = np.empty(width, np.int64)
    inverses = np.empty(width, np.float32)
    base_f32 = np.empty(_BLOCK, np.float32)
    delta_f32 = np.empty(_BLOCK, np.float32)
    draw_u32 = np.empty(_BLOCK + 8, np.uint32)
    for rank in range(width):
        share = np.float64(0.0)
        if width > 1:
            share = np.float64(width - 1 - rank) / np.float64(width - 1)
        twice = np.float64(share * 2.0)
        p = np.float64((density - epsilon) + np.float64(twice * epsilon))
        limits[rank] = np.int64(np.floor(p * 4294967296.0))
        inverses[rank] = np.float32(1.0 / p) if by_probability else np.float32(1.0)
    for row in range(begin, end, width):
        for start in range(row, row + width, _BLOCK):
            count = min(_BLOCK, row + width - start)
            widen_block(base, start, count, base_f32)
            if not subtract_block(model, start, count, base_f32, delta_f32):
                return BAD_INPUT
            for j in range(count):
                bits[start - row + j] = magnitude_bits(delta_f32[j])
        _order(bits, width, order, spare, counts)
        for rank in range(width):
            spare[order[rank]] = rank
        for start in range(row, row + width, _BLOCK):
            count = min(_BLOCK, row + width - start)
            ahead = start % 4
            philox_block(key0, key1, start - ahead, count + ahead, draw_u32)
            for j in range(count):
                rank = spare[start - row + j]
                kept = np.int64(draw_u32[j + ahead]) < limits[rank]
                table[start - begin + j] = inverses[rank] if kept else np.float32(0.0)
    return OK
