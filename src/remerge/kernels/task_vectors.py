"""Task vectors, thinned out and added to the base: task arithmetic and its kin.

>>> add_chunk(base, base_code, addresses(models), codes(models), masks, …)

Per element, every operation one float32 rounding, donors from the left from +0:

    δ̂ = x − b where kept, else 0;   δ̂ = δ̂·f;   p = w·δ̂
    s = Σ p, or the count of signs; those agree whose p has the sign of s (without consensus: all)
    M = Σ_agreeing p,   M = M / D,   y = rn(b + λ·M)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    OVERFLOW,
    all_finite,
    magnitude_bits,
    narrow_block,
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel
from remerge.kernels.halves import u32
from remerge.kernels.philox import philox_block
from remerge.kernels.sums import add_magnitudes

#: How agreement is found.
NONE, SUM, COUNT = 0, 1, 2
#: Which entries are kept: all, a window of ranks, at random, or as a table of factors says.
KEEP_ALL, KEEP_WINDOW, KEEP_RANDOM, KEEP_TABLE = 0, 1, 2, 3

_inline = njit(inline="always", error_model="numpy")


@_inline
def _cut(delta_f32, start, count, threshold, last, inside):
    """Zero the entries that are not `inside` the trim (threshold, last), or those that are."""
    for j in range(count):
        bits = magnitude_bits(delta_f32[j])
        is_in = (bits > threshold) | ((bits == threshold) & (start + j <= last))
        delta_f32[j] = delta_f32[j] if is_in == inside else np.float32(0.0)


@_inline
def _thin(kind, limits, lasts, key, limit, table_f32, start, count, delta_f32, draw_u32):
    """Zero the entries of a donor's δ that are not kept; a table's factors are applied as well.

    Returns how many are kept.
    """
    kept = count
    if kind == KEEP_WINDOW:
        _cut(delta_f32, start, count, limits[0], lasts[0], True)
        if lasts[1] >= 0:
            _cut(delta_f32, start, count, limits[1], lasts[1], False)
    elif kind == KEEP_RANDOM:
        philox_block(key[0], key[1], start, count, draw_u32)
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
    "int64(uint64, int64, uint64, int64, int64, uint32[::1], int64[::1], uint32[::1], int64,"
    " float32[::1], int64, int64, float64[:,::1])"
)
def measure_chunk(
    base, base_code, model, model_code, kind, limits, lasts, key, limit, table, begin, end, lanes
):
    """Add |δ| and |δ̂| of elements [begin, end) to lanes[0] and lanes[1]; OK or BAD_INPUT.

    begin a multiple of 8, `table` for the elements from `begin` on; else as in `add_chunk`.
    """
    block = 512
    base_f32 = np.empty(block, np.float32)
    delta_f32 = np.empty(block, np.float32)
    draw_u32 = np.empty(block, np.uint32)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(base, base_code, start, count, base_f32)
        if not subtract_block(model, model_code, start, count, base_f32, delta_f32):
            return BAD_INPUT
        add_magnitudes(delta_f32, count, lanes[0])
        _thin(
            kind, limits, lasts, key, limit, table[start - begin :], start, count, delta_f32,
            draw_u32,
        )  # fmt: skip
        add_magnitudes(delta_f32, count, lanes[1])
    return OK


@kernel(
    "int64(uint64, int64, uint64[::1], int64[::1], int64, uint32[:,::1], int64[:,::1],"
    " uint32[:,::1], int64[::1], float32[:,::1], float32[::1], float32[::1], float32[::1], float32,"
    " boolean, float32, int64, int64, int64, uint64, int64, int64, int64[::1])"
)
def add_chunk(
    base,
    base_code,
    models,
    model_codes,
    kind,
    limits,
    lasts,
    keys,
    draw_limits,
    table,
    rescales,
    weights,
    shares,
    lam,
    normalize,
    divisor,
    consensus,
    begin,
    end,
    out,
    out_code,
    block,
    kept,
):
    """Merge elements [begin, end) of one tensor; the first result goes to the address `out`.

    kind         KEEP_ALL, KEEP_WINDOW, KEEP_RANDOM or KEEP_TABLE
    limits       uint32 [m, 2] and `lasts` int64 [m, 2]: kept is what the first `Trim` keeps and the
                 second (last < 0: none) does not
    keys         uint32 [m, 2] of the draws; kept are those below `draw_limits` int64 [m]
    table        float32 [m, end − begin]: the factor of each entry, 0 for one that is dropped
    rescales     float32 [m]; 1: nothing is multiplied
    weights      float32 [m]
    shares       float32 [m]: what the weights add to the divisor of an entry, with consensus
    divisor      D without consensus
    block        elements a step, a multiple of 4; does not change the result
    kept         int64 [m], added to: entries kept

    Returns OK, BAD_INPUT or OVERFLOW.
    """
    count_models = models.size
    base_f32 = np.empty(block, np.float32)
    parts = np.empty((count_models, block), np.float32)
    draw_u32 = np.empty(block + 4, np.uint32)
    score_f32 = np.empty(block, np.float32)
    total_f32 = np.empty(block, np.float32)
    divisor_f32 = np.empty(block, np.float32)
    zero = np.float32(0.0)
    one = np.float32(1.0)
    for start in range(begin, end, block):
        count = min(block, end - start)
        widen_block(base, base_code, start, count, base_f32)
        if not all_finite(base_f32, count):
            return BAD_INPUT
        for j in range(count):
            score_f32[j] = zero
            total_f32[j] = zero
        for i in range(count_models):
            part = parts[i]
            if not subtract_block(models[i], model_codes[i], start, count, base_f32, part):
                return BAD_INPUT
            kept[i] += _thin(
                kind,
                limits[i],
                lasts[i],
                keys[i],
                draw_limits[i],
                table[i, start - begin :],
                start,
                count,
                part,
                draw_u32,
            )
            rescale = rescales[i]
            if rescale != one:
                for j in range(count):
                    part[j] = np.float32(part[j] * rescale)
            weight = weights[i]
            for j in range(count):
                part[j] = np.float32(weight * part[j])
            if consensus == SUM:
                for j in range(count):
                    score_f32[j] = np.float32(score_f32[j] + part[j])
            elif consensus == COUNT:
                for j in range(count):
                    sign = (one if part[j] > zero else zero) - (one if part[j] < zero else zero)
                    score_f32[j] = np.float32(score_f32[j] + sign)
            else:
                for j in range(count):
                    total_f32[j] = np.float32(total_f32[j] + part[j])
        if consensus != NONE:
            for j in range(count):
                divisor_f32[j] = zero
            for i in range(count_models):
                part = parts[i]
                share = shares[i]
                for j in range(count):
                    turned = part[j] if score_f32[j] >= zero else np.float32(-part[j])
                    agrees = turned > zero
                    total_f32[j] = np.float32(total_f32[j] + (part[j] if agrees else zero))
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
        if not narrow_block(base_f32, count, out_code, out, start - begin):
            return OVERFLOW
    return OK
