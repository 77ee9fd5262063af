"""SCE: variance across donors, energy of what is selected, and the weighted merge."""

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.arithmetic.sums import add_products
from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    OVERFLOW,
    RECORDS,
    magnitude_bits,
    narrow_block,
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel

#: Whether entries are selected, and which: those that the `Trim` of variances keeps.
SELECTION = np.dtype(
    [("selects", np.bool_), ("threshold", np.uint32), ("last", np.int64)], align=True
)
_BLOCK = 512
_inline = njit(inline="always", error_model="numpy")


@_inline
def _variances(parts, count, mean_f32, out_f32):
    """Compute ((Σ (δ_i − μ)²) / m) with μ = (Σ δ_i) / m, each operation rounded to float32."""
    models = np.float32(parts.shape[0])
    for j in range(count):
        mean_f32[j] = np.float32(0.0)
        out_f32[j] = np.float32(0.0)
    for i in range(parts.shape[0]):
        part = parts[i]
        for j in range(count):
            mean_f32[j] = np.float32(mean_f32[j] + part[j])
    for j in range(count):
        mean_f32[j] = np.float32(mean_f32[j] / models)
    for i in range(parts.shape[0]):
        part = parts[i]
        for j in range(count):
            away = np.float32(part[j] - mean_f32[j])
            out_f32[j] = np.float32(out_f32[j] + np.float32(away * away))
    for j in range(count):
        out_f32[j] = np.float32(out_f32[j] / models)


@_inline
def _load(base, models, start, count, base_f32, parts):
    widen_block(base, start, count, base_f32)
    fine = True
    for i in range(models.size):
        fine &= subtract_block(models[i], start, count, base_f32, parts[i])
    return fine


@_inline
def _select(selection, parts, start, count, mean_f32, variance_f32):
    """Zero the entries of every donor whose variance is not among the largest."""
    threshold, last = selection.threshold, selection.last
    _variances(parts, count, mean_f32, variance_f32)
    for i in range(parts.shape[0]):
        part = parts[i]
        for j in range(count):
            bits = magnitude_bits(variance_f32[j])
            keep = (bits > threshold) | ((bits == threshold) & (start + j <= last))
            part[j] = part[j] if keep else np.float32(0.0)


@kernel("int64(tensor, tensor[::1], int64, int64, float32[::1])", **RECORDS)
def variance_chunk(base, models, begin, end, out_f32):
    """The variance of task vectors at elements [begin, end); OK or BAD_INPUT."""
    base_f32 = np.empty(_BLOCK, np.float32)
    mean_f32 = np.empty(_BLOCK, np.float32)
    parts = np.empty((models.size, _BLOCK), np.float32)
    for start in range(begin, end, _BLOCK):
        count = min(_BLOCK, end - start)
        if not _load(base, models, start, count, base_f32, parts):
            return BAD_INPUT
        _variances(parts, count, mean_f32, out_f32[start - begin :])
    return OK


@kernel(
    "int64(tensor, tensor[::1], selection, int64, int64, float64[:,::1])",
    **RECORDS,
    selection=SELECTION,
)
def energy_chunk(base, models, selection, begin, end, lanes):
    """Add δ̂² of elements [begin, end) to lanes[i]; begin a multiple of 8. OK or BAD_INPUT."""
    base_f32 = np.empty(_BLOCK, np.float32)
    mean_f32 = np.empty(_BLOCK, np.float32)
    variance_f32 = np.empty(_BLOCK, np.float32)
    parts = np.empty((models.size, _BLOCK), np.float32)
    for start in range(begin, end, _BLOCK):
        count = min(_BLOCK, end - start)
        if not _load(base, models, start, count, base_f32, parts):
            return BAD_INPUT
        if selection.selects:
            _select(selection, parts, start, count, mean_f32, variance_f32)
        for i in range(models.size):
            add_products(parts[i], parts[i], count, 0, lanes[i])
    return OK


@kernel(
    "int64(tensor, tensor[::1], selection, float32[::1], float32, part)",
    **RECORDS,
    selection=SELECTION,
)
def sce_chunk(base, models, selection, weights, floor, part):
    """Merge a part of one tensor; `weights` [m] and `floor` are float32.

    Returns OK, BAD_INPUT or OVERFLOW.
    """
    begin, end, block = part.begin, part.end, part.block
    base_f32 = np.empty(block, np.float32)
    mean_f32 = np.empty(block, np.float32)
    variance_f32 = np.empty(block, np.float32)
    score_f32 = np.empty(block, np.float32)
    parts = np.empty((models.size, block), np.float32)
    zero = np.float32(0.0)
    one = np.float32(1.0)
    for start in range(begin, end, block):
        count = min(block, end - start)
        if not _load(base, models, start, count, base_f32, parts):
            return BAD_INPUT
        if selection.selects:
            _select(selection, parts, start, count, mean_f32, variance_f32)
        for j in range(count):
            score_f32[j] = zero
            mean_f32[j] = zero
            variance_f32[j] = zero
        for i in range(models.size):
            delta = parts[i]
            for j in range(count):
                score_f32[j] = np.float32(score_f32[j] + delta[j])
        for i in range(models.size):
            delta = parts[i]
            weight = weights[i]
            for j in range(count):
                turned = delta[j] if score_f32[j] >= zero else np.float32(-delta[j])
                agrees = turned > zero
                term = np.float32(weight * delta[j])
                mean_f32[j] = np.float32(mean_f32[j] + (term if agrees else zero))
                variance_f32[j] = np.float32(variance_f32[j] + (weight if agrees else zero))
        for j in range(count):
            divisor = max(variance_f32[j], floor)
            by = one if divisor == zero else divisor
            mean = np.float32(mean_f32[j] / by)
            base_f32[j] = np.float32(base_f32[j] + (zero if divisor == zero else mean))
        if not narrow_block(base_f32, count, part, start - begin):
            return OVERFLOW
    return OK
