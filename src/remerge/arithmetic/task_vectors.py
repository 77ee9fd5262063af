"""Task vectors, thinned out and added to the base: task arithmetic and its kin.

>>> add_chunk(base, records(models), donors, rule, table, part, kept)

Per element, every operation one float32 rounding, donors from the left from +0:

    δ̂ = x − b where kept, else 0;   δ̂ = δ̂·f;   p = w·δ̂
    s = Σ p, or the count of signs; those agree whose p has the sign of s (without consensus: all)
    M = Σ_agreeing p,   M = M / D,   y = rn(b + λ·M)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.arithmetic.philox import philox_block
from remerge.arithmetic.sums import add_magnitudes
from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    OVERFLOW,
    RECORDS,
    all_finite,
    magnitude_bits,
    narrow_block,
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel
from remerge.kernels.halves import u32

#: How agreement is found.
NONE, SUM, COUNT = 0, 1, 2
#: Which entries are kept: all, a window of ranks, at random, or as a table of factors says.
KEEP_ALL, KEEP_WINDOW, KEEP_RANDOM, KEEP_TABLE = 0, 1, 2, 3

#: What is kept of a donor's task vector, and its factors.
#: limits, lasts  of KEEP_WINDOW: kept is what the first `Trim` keeps and the second (last < 0:
#:                none) does not
#: key            of KEEP_RANDOM: kept are the entries whose draw is below `draw_limit`
#: rescale        factor of what is kept; 1: nothing is multiplied
#: share          what the donor adds to the divisor of the entries on which it agrees
DONOR = np.dtype(
    [
        ("limits", np.uint32, (2,)),
        ("lasts", np.int64, (2,)),
        ("key", np.uint32, (2,)),
        ("draw_limit", np.int64),
        ("rescale", np.float32),
        ("weight", np.float32),
        ("share", np.float32),
    ],
    align=True,
)
#: How donors are added up.
#: kind       KEEP_ALL, KEEP_WINDOW, KEEP_RANDOM or KEEP_TABLE
#: consensus  NONE, SUM or COUNT
#: normalize  divide by the weights that agree; without consensus by `divisor`
RULE = np.dtype(
    [
        ("kind", np.int64),
        ("consensus", np.int64),
        ("lam", np.float32),
        ("divisor", np.float32),
        ("normalize", np.bool_),
    ],
    align=True,
)

_inline = njit(inline="always", error_model="numpy")


@_inline
def _cut(delta_f32, start, count, threshold, last, inside):
    """Zero the entries that are not `inside` the trim (threshold, last), or those that are."""
    for j in range(count):
        bits = magnitude_bits(delta_f32[j])
        is_in = (bits > threshold) | ((bits == threshold) & (start + j <= last))
        delta_f32[j] = delta_f32[j] if is_in == inside else np.float32(0.0)


@_inline
def _thin(kind, donor, table_f32, start, count, delta_f32, draw_u32):
    """Zero the entries of a donor's δ that are not kept; a table's factors are applied as well.

    Returns how many are kept.
    """
    kept = count
    if kind == KEEP_WINDOW:
        _cut(delta_f32, start, count, donor.limits[0], donor.lasts[0], True)
        if donor.lasts[1] >= 0:
            _cut(delta_f32, start, count, donor.limits[1], donor.lasts[1], False)
    elif kind == KEEP_RANDOM:
        limit = donor.draw_limit
        philox_block(donor.key[0], donor.key[1], start, count, draw_u32)
        highest = u32(limit - np.int64(1))
        if limit == 0:
            kept = 0
            for j in range(count):
                delta_f32[j] = np.float32(0.0)
        else:
            kept = 0
            for j in range(count):
                is_kept = draw_u32[j] <= highest
                kept += 1 if is_kept else 0
                delta_f32[j] = delta_f32[j] if is_kept else np.float32(0.0)
    elif kind == KEEP_TABLE:
        kept = 0
        for j in range(count):
            factor = table_f32[j]
            is_kept = factor != np.float32(0.0)
            kept += 1 if is_kept else 0
            scaled = np.float32(delta_f32[j] * factor)
            delta_f32[j] = scaled if is_kept else np.float32(0.0)
    return kept


@kernel(
    "int64(tensor, tensor, int64, donor, float32[::1], int64, int64, float64[:,::1])",
    **RECORDS,
    donor=DONOR,
)
def measure_chunk(base, model, kind, donor, table, begin, end, lanes):
    """Add |δ| and |δ̂| of elements [begin, end) to lanes[0] and lanes[1]; OK or BAD_INPUT.

    begin a multiple of 8, `table` for the elements from `begin` on; else as in `add_chunk`.
    """
    block = 512
    base_f32 = np.empty(block, np.float32)
    delta_f32 = np.empty(block, np.float32)
    draw_u32 = np.empty(block, np.uint32)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(base, start, count, base_f32)
        if not subtract_block(model, start, count, base_f32, delta_f32):
            return BAD_INPUT
        add_magnitudes(delta_f32, count, lanes[0])
        _thin(kind, donor, table[start - begin :], start, count, delta_f32, draw_u32)
        add_magnitudes(delta_f32, count, lanes[1])
    return OK


@kernel(
    "int64(tensor, tensor[::1], donor[::1], rule, float32[:,::1], part, int64[::1])",
    **RECORDS,
    donor=DONOR,
    rule=RULE,
)
def add_chunk(base, models, donors, rule, table, part, kept):
    """Merge a part of one tensor, in steps of a multiple of 4 elements.

    donors  DONOR [m]
    table   float32 [m, elements of the part]: of KEEP_TABLE the factor of each entry, 0 for one
            that is dropped
    kept    int64 [m], added to: entries kept

    Returns OK, BAD_INPUT or OVERFLOW.
    """
    begin, end, block = part.begin, part.end, part.block
    kind, consensus, normalize = rule.kind, rule.consensus, rule.normalize
    lam, divisor = rule.lam, rule.divisor
    count_models = models.size
    base_f32 = np.empty(block, np.float32)
    deltas = np.empty((count_models, block), np.float32)
    draw_u32 = np.empty(block + 4, np.uint32)
    score_f32 = np.empty(block, np.float32)
    total_f32 = np.empty(block, np.float32)
    divisor_f32 = np.empty(block, np.float32)
    zero = np.float32(0.0)
    one = np.float32(1.0)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(base, start, count, base_f32)
        if not all_finite(base_f32, count):
            return BAD_INPUT
        for j in range(count):
            score_f32[j] = zero
            total_f32[j] = zero
        for i in range(count_models):
            delta = deltas[i]
            if not subtract_block(models[i], start, count, base_f32, delta):
                return BAD_INPUT
            kept[i] += _thin(
                kind, donors[i], table[i, start - begin :], start, count, delta, draw_u32
            )
            rescale = donors[i].rescale
            if rescale != one:
                for j in range(count):
                    delta[j] = np.float32(delta[j] * rescale)
            weight = donors[i].weight
            for j in range(count):
                delta[j] = np.float32(weight * delta[j])
            if consensus == SUM:
                for j in range(count):
                    score_f32[j] = np.float32(score_f32[j] + delta[j])
            elif consensus == COUNT:
                for j in range(count):
                    sign = (one if delta[j] > zero else zero) - (one if delta[j] < zero else zero)
                    score_f32[j] = np.float32(score_f32[j] + sign)
            else:
                for j in range(count):
                    total_f32[j] = np.float32(total_f32[j] + delta[j])
        if consensus != NONE:
            for j in range(count):
                divisor_f32[j] = zero
            for i in range(count_models):
                delta = deltas[i]
                share = donors[i].share
                for j in range(count):
                    turned = delta[j] if score_f32[j] >= zero else np.float32(-delta[j])
                    agrees = turned > zero
                    total_f32[j] = np.float32(total_f32[j] + (delta[j] if agrees else zero))
                    divisor_f32[j] = np.float32(divisor_f32[j] + (share if agrees else zero))
            if normalize:
                for j in range(count):
                    by = divisor_f32[j]
                    total_f32[j] = np.float32(total_f32[j] / (one if by == zero else by))
        elif normalize:
            for j in range(count):
                total_f32[j] = np.float32(total_f32[j] / divisor)
        for j in range(count):
            base_f32[j] = np.float32(base_f32[j] + np.float32(lam * total_f32[j]))
        if not narrow_block(base_f32, count, part, start - begin):
            return OVERFLOW
    return OK
