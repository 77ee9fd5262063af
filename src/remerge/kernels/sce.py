"""SCE: variance across donors, energy of what is selected, and the weighted merge."""

from __future__ import annotations

import numpy as np
from numba import njit

from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    OVERFLOW,
    magnitude_bits,
    narrow_block,
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel
from remerge.kernels.sums import add_products

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
def _load(base, base_code, models, model_codes, start, count, base_f32, parts):
    widen_block(base, base_code, start, count, base_f32)
    fine = True
    for i in range(models.size):
        fine &= subtract_block(models[i], model_codes[i], start, count, base_f32, parts[i])
    return fine


@_inline
def _select(parts, start, count, threshold, last, mean_f32, variance_f32):
    """Zero the entries of every donor whose variance is not among the largest."""
    _variances(parts, count, mean_f32, variance_f32)
    for i in range(parts.shape[0]):
        part = parts[i]
        for j in range(count):
            bits = magnitude_bits(variance_f32[j])
            keep = (bits > threshold) | ((bits == threshold) & (start + j <= last))
            part[j] = part[j] if keep else np.float32(0.0)


@kernel("int64(uint64, int64, uint64[::1], int64[::1], int64, int64, float32[::1])")
def variance_chunk(base, base_code, models, model_codes, begin, end, out_f32):
    """The variance of task vectors at elements [begin, end); OK or BAD_INPUT."""
    base_f32 = np.empty(_BLOCK, np.float32)
    mean_f32 = np.empty(_BLOCK, np.float32)
    parts = np.empty((models.size, _BLOCK), np.float32)
    for start in range(begin, end, _BLOCK):
        count = min(_BLOCK, end - start)
        if not _load(base, base_code, models, model_codes, start, count, base_f32, parts):
            return BAD_INPUT
        _variances(parts, count, mean_f32, out_f32[start - begin :])
    return OK


@kernel(
    "int64(uint64, int64, uint64[::1], int64[::1], boolean, uint32, int64, int64, int64,"
    " float64[:,::1])"
)
def energy_chunk(base, base_code, models, model_codes, selects, threshold, last, begin, end, lanes):
    """Add δ̂² of elements [begin, end) to lanes[i]; begin a multiple of 8. OK or BAD_INPUT."""
    base_f32 = np.empty(_BLOCK, np.float32)
    mean_f32 = np.empty(_BLOCK, np.float32)
    variance_f32 = np.empty(_BLOCK, np.float32)
    parts = np.empty((models.size, _BLOCK), np.float32)
    for start in range(begin, end, _BLOCK):
        count = min(_BLOCK, end - start)
        if not _load(base, base_code, models, model_codes, start, count, base_f32, parts):
            return BAD_INPUT
        if selects:
            _select(parts, start, count, threshold, last, mean_f32, variance_f32)
        for i in range(models.size):
            add_products(parts[i], parts[i], count, 0, lanes[i])
    return OK


@kernel(
    "int64(uint64, int64, uint64[::1], int64[::1], boolean, uint32, int64, float32[::1], float32,"
    " int64, int64, uint64, int64, int64)"
)
def sce_chunk(
    base,
    base_code,
    models,
    model_codes,
    selects,
    threshold,
    last,
    weights,
    floor,
    begin,
    end,
    out,
    out_code,
    block,
):
    """Merge elements [begin, end) of one tensor; the first result goes to the address `out`.

    selects          keep only entries whose variance is kept by the Trim (threshold, last)
    weights, floor   float32

    Returns OK, BAD_INPUT or OVERFLOW.
    """
    base_f32 = np.empty(block, np.float32)
    mean_f32 = np.empty(block, np.float32)
    variance_f32 = np.empty(block, np.float32)
    score_f32 = np.empty(block, np.float32)
    parts = np.empty((models.size, block), np.float32)
    zero = np.float32(0.0)
    one = np.float32(1.0)
    for start in range(begin, end, block):
        count = min(block, end - start)
        if not _load(base, base_code, models, model_codes, start, count, base_f32, parts):
            return BAD_INPUT
        if selects:
            _select(parts, start, count, threshold, last, mean_f32, variance_f32)
        for j in range(count):
            score_f32[j] = zero
            mean_f32[j] = zero
            variance_f32[j] = zero
        for i in range(models.size):
            part = parts[i]
            for j in range(count):
                score_f32[j] = np.float32(score_f32[j] + part[j])
        for i in range(models.size):
            part = parts[i]
            weight = weights[i]
            for j in range(count):
                turned = part[j] if score_f32[j] >= zero else np.float32(-part[j])
                agrees = turned > zero
                term = np.float32(weight * part[j])
                mean_f32[j] = np.float32(mean_f32[j] + (term if agrees else zero))
                variance_f32[j] = np.float32(variance_f32[j] + (weight if agrees else zero))
        for j in range(count):
            divisor = max(variance_f32[j], floor)
            by = one if divisor == zero else divisor
            mean = np.float32(mean_f32[j] / by)
            base_f32[j] = np.float32(base_f32[j] + (zero if divisor == zero else mean))
        if not narrow_block(base_f32, count, out_code, out, start - begin):
            return OVERFLOW
    return OK
