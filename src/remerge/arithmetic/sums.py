"""Reductions over tensors: the same sum for every block size, thread count and instruction set.

>>> gram = gram_of(base, models, size)

A term is computed in float64 from float32 values, where a product is exact. Element j is added to
lane j mod 8, in order; the eight lanes are added exactly and rounded once, as `math.fsum` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit

from remerge.arithmetic.combine import load_block
from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    RECORDS,
    RawTensor,
    all_finite,
    records,
    widen_block,
)
from remerge.kernels.compiled import kernel

LANES = 8
_BLOCK = 2048

_inline = njit(inline="always", error_model="numpy")


@_inline
def add_products(left, right, count, phase, lanes):
    """lanes[(phase + j) % 8] += left[j]·right[j] in float64, j in order."""
    head = min(count, (LANES - phase) % LANES)
    for j in range(head):
        lanes[phase + j] += np.float64(left[j]) * np.float64(right[j])
    whole = head + (count - head) // LANES * LANES
    for j in range(head, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(left[j + lane]) * np.float64(right[j + lane])
    for j in range(whole, count):
        lanes[j - whole] += np.float64(left[j]) * np.float64(right[j])


@_inline
def add_magnitudes(values, count, lanes):
    """lanes[j % 8] += |values[j]| in float64, j in order."""
    whole = count - count % LANES
    for j in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(abs(values[j + lane]))
    for j in range(whole, count):
        lanes[j - whole] += np.float64(abs(values[j]))


@njit(nogil=True, error_model="numpy")
def fsum8(lanes):
    """The exact sum of eight float64, rounded once: as `math.fsum` (Shewchuk 1997).

    All finite, and none so large that a partial sum overflows.
    """
    partials = np.empty(LANES + 1, np.float64)
    used = 0
    for i in range(LANES):
        x = lanes[i]
        kept = 0
        for k in range(used):
            y = partials[k]
            if abs(x) < abs(y):
                x, y = y, x
            high = x + y
            low = y - (high - x)
            if low != 0.0:
                partials[kept] = low
                kept += 1
            x = high
        partials[kept] = x
        used = kept + 1
    # From the largest down until a sum is inexact; then half a unit may have to follow the rest.
    high = partials[used - 1]
    place = used - 1
    low = 0.0
    while place > 0:
        x = high
        place -= 1
        y = partials[place]
        high = x + y
        low = y - (high - x)
        if low != 0.0:
            break
    if place > 0 and (
        (low < 0.0 and partials[place - 1] < 0.0) or (low > 0.0 and partials[place - 1] > 0.0)
    ):
        twice = low * 2.0
        x = high + twice
        if twice == x - high:
            high = x
    return high + 0.0


@_inline
def _load(base, from_base, models, start, count, base_f32, values):
    """Compute v of each model into values[i]; False if a number is not finite."""
    if from_base:
        widen_block(base, start, count, base_f32)
        if not all_finite(base_f32, count):
            return False
    for i in range(models.size):
        if not load_block(models[i], start, count, from_base, base_f32, values[i]):
            return False
    return True


@kernel("int64(tensor, boolean, tensor[::1], int64, int64, int64, float64[:,:,::1])", **RECORDS)
def _gram_rows(base, from_base, models, begin, end, width, lanes):
    """Add v_i·v_k of elements [begin, end) to lanes[vector, pair, lane], i ≤ k ordered by i, k.

    `width` elements a vector, vectors counted from the one that `begin` begins.
    """
    count_models = models.size
    base_f32 = np.empty(_BLOCK, np.float32)
    values = np.empty((count_models, _BLOCK), np.float32)
    for row in range((end - begin + width - 1) // width):
        for offset in range(0, min(width, end - begin - row * width), _BLOCK):
            start = begin + row * width + offset
            count = min(_BLOCK, width - offset, end - start)
            if not _load(base, from_base, models, start, count, base_f32, values):
                return BAD_INPUT
            pair = 0
            for i in range(count_models):
                for k in range(i, count_models):
                    add_products(values[i], values[k], count, 0, lanes[row, pair])
                    pair += 1
    return OK


@kernel("int64(tensor, boolean, tensor[::1], int64, int64, float64[:,:,::1])", **RECORDS)
def _gram_columns(base, from_base, models, size, width, lanes):
    """Add v_i·v_k of the vectors along the first axis to lanes[column, pair, lane]."""
    count_models = models.size
    base_f32 = np.empty(_BLOCK, np.float32)
    values = np.empty((count_models, _BLOCK), np.float32)
    for row in range(size // width):
        lane = row % LANES
        for offset in range(0, width, _BLOCK):
            start = row * width + offset
            count = min(_BLOCK, width - offset)
            if not _load(base, from_base, models, start, count, base_f32, values):
                return BAD_INPUT
            pair = 0
            for i in range(count_models):
                for k in range(i, count_models):
                    for j in range(count):
                        product = np.float64(values[i, j]) * np.float64(values[k, j])
                        lanes[offset + j, pair, lane] += product
                    pair += 1
    return OK


@kernel("void(float64[:,:,::1], float64[:,::1])")
def _add_lanes(lanes, sums):
    for vector in range(lanes.shape[0]):
        for pair in range(lanes.shape[1]):
            sums[vector, pair] = fsum8(lanes[vector, pair])


def pairs(models: int) -> list[tuple[int, int]]:
    """The pairs i ≤ k in the order of sums: by i, then by k."""
    return [(i, k) for i in range(models) for k in range(i, models)]


def gram_of(
    base: RawTensor | None, models: Sequence[RawTensor], size: int
) -> dict[tuple[int, int], float] | None:
    """S(v_i·v_k) over the tensors, by (i, k) and (k, i); None if some number is not finite.

    v = x, or x − b with a base.
    """
    lanes = np.zeros((1, len(pairs(len(models))), LANES), np.float64)
    status = _gram_rows(*_arguments(base, models), 0, size, max(size, 1), lanes)
    if status != OK:
        return None
    found = {}
    for (i, k), row in zip(pairs(len(models)), lanes[0].tolist(), strict=True):
        found[i, k] = found[k, i] = math.fsum(row)
    return found


def row_sums(
    base: RawTensor | None, models: Sequence[RawTensor], begin: int, end: int, width: int
) -> np.ndarray | None:
    """S(v_i·v_k) of each row of `width` in [begin, end): float64 [rows, pairs]; None as above."""
    rows, count = (end - begin) // width, len(pairs(len(models)))
    lanes = np.zeros((rows, count, LANES), np.float64)
    if _gram_rows(*_arguments(base, models), begin, end, width, lanes) != OK:
        return None
    sums = np.empty((rows, count), np.float64)
    _add_lanes(lanes, sums)
    return sums


def column_sums(
    base: RawTensor | None, models: Sequence[RawTensor], size: int, width: int
) -> np.ndarray | None:
    """S(v_i·v_k) along the first axis: float64 [width, pairs]; None if a number is not finite."""
    count = len(pairs(len(models)))
    lanes = np.zeros((width, count, LANES), np.float64)
    if _gram_columns(*_arguments(base, models), size, width, lanes) != OK:
        return None
    sums = np.empty((width, count), np.float64)
    _add_lanes(lanes, sums)
    return sums


def _arguments(
    base: RawTensor | None, models: Sequence[RawTensor]
) -> tuple[np.void, bool, np.ndarray]:
    return (models[0] if base is None else base).record, base is not None, records(models)
