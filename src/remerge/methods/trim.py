"""The trim step of TIES: which entries of each task vector are among its k largest.

>>> trims = find_trims(base, donors, size, keeps=[k1, k2])

A magnitude |δ| is a float32 whose bits order like the number itself. A small sample tells between
which two magnitudes the k-th largest lies, all but certainly; one pass over base and donors counts
what lies above and collects what lies between, about one entry in fifty; the k-th largest is then a
selection among those. Counting proves the guess: where the sample misled, a histogram gives bounds
that cannot fail, and the pass is made again. So the result is exact, whatever the sample.

Entries equal to the threshold are kept in ascending flat index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remerge.kernels.blocks import (
    BAD_INPUT,
    OK,
    RECORDS,
    RawTensor,
    collect_block,
    magnitude_bits,
    records,
    subtract_block,
    widen_block,
)
from remerge.kernels.compiled import kernel
from remerge.kernels.halves import u32

#: Bits of the largest finite float32, and how many magnitudes there are below and with it.
MAX_FINITE = 0x7F7FFFFF
LOW_BITS = 15
HIGH_BINS = 1 << 16
LOW_BINS = 1 << LOW_BITS
_BLOCK = 2048
_DIGIT = 11
#: Entries up to which all are collected: selecting among them costs less than sampling.
SMALL = 1 << 15
_SAMPLE_RUN = 32
_SAMPLE_RUNS = (1 << 7, 1 << 14)
#: Sampled is one run in this many elements, within the limits above.
_SAMPLE_EVERY = 1 << 13
#: Standard deviations of a sampled rank that the bounds allow for; neighbours are not independent.
_CAUTION = 6.0
_SPARE = 4


@dataclass(frozen=True)
class Trim:
    """Keep entries with |δ| bits above `threshold`, and its equals up to flat index `last`."""

    threshold: int
    last: int


KEEP_NOTHING = Trim(0xFFFFFFFE, -1)


#: The threshold's bits are in [low, high].
_BOUNDS = np.dtype([("low", np.uint32), ("high", np.uint32)], align=True)


@dataclass(frozen=True)
class _Bounds:
    """The threshold's bits are in [low, high], as far as anybody knows yet."""

    low: int
    high: int


@kernel(
    "int64(tensor, tensor[::1], int64, bounds[::1], int64[::1], int64[:,::1], uint32[:,::1],"
    " int64[::1])",
    **RECORDS,
    bounds=_BOUNDS,
)
def _scan(base, donors, size, bounds, above, within, collected, filled):
    """Count and collect all elements of every donor's |δ|, in flat order.

    above[i]       += entries with bits > bounds[i].high
    within[i, b]    = entries with bounds[i].low ≤ bits ≤ bounds[i].high in block b
    collected[i, :] = the bits of those, where low < high; filled[i] says how many, also when there
                      was no room for all
    Returns OK, or BAD_INPUT for a δ that is Inf or NaN.
    """
    base_f32 = np.empty(_BLOCK, np.float32)
    delta_f32 = np.empty(_BLOCK, np.float32)
    room = collected.shape[1]
    for start in range(0, size, _BLOCK):
        block = start // _BLOCK
        count = min(_BLOCK, size - start)
        widen_block(base, start, count, base_f32)
        for i in range(donors.size):
            if not subtract_block(donors[i], start, count, base_f32, delta_f32):
                return BAD_INPUT
            low = bounds[i].low
            high = bounds[i].high
            over = u32(0)
            reach = u32(0)
            for j in range(count):
                magnitude = magnitude_bits(delta_f32[j])
                over = u32(over + (u32(1) if magnitude > high else u32(0)))
                reach = u32(reach + (u32(1) if magnitude >= low else u32(0)))
            inside = np.int64(reach) - np.int64(over)
            above[i] += over
            within[i, block] = inside
            position = filled[i]
            filled[i] = position + inside
            if low < high and inside > 0 and position + count < room:
                collect_block(delta_f32, count, low, high, collected[i], position)
    return OK


@kernel("UniTuple(int64, 2)(uint32[::1], int64, int64, int64)")
def _kth_largest(values, low, high, k):
    """The k-th largest of `values`, all in [low, high], and how many of its equals are among k.

    Digit by digit from the top, by counting.
    """
    counts = np.empty(1 << _DIGIT, np.int64)
    shift = 0
    while (high - low) >> shift:
        shift += 1
    found = 0
    while shift > 0:
        digit = min(_DIGIT, shift)
        shift -= digit
        counts[:] = 0
        mask = (1 << digit) - 1
        for value in values:
            rest = (np.int64(value) - low) >> shift
            if rest >> digit == found:
                counts[rest & mask] += 1
        place = mask
        while counts[place] < k:
            k -= counts[place]
            place -= 1
        found = found << digit | place
    return low + found, k


@kernel("void(tensor, tensor, int64, int64, int64, uint32[::1])", **RECORDS)
def _sample(base, donor, size, runs, run, bits):
    """bits[:] = |δ| bits of `runs` runs of `run` neighbours, spread over the tensor."""
    base_f32 = np.empty(run, np.float32)
    delta_f32 = np.empty(run, np.float32)
    stride = size // runs
    for r in range(runs):
        # A jitter from the golden ratio: a fixed stride would meet the same columns in every row.
        start = r * stride + (r * 2654435769) % (stride - run + 1)
        widen_block(base, start, run, base_f32)
        subtract_block(donor, start, run, base_f32, delta_f32)
        for j in range(run):
            bits[r * run + j] = magnitude_bits(delta_f32[j])


@kernel("void(tensor, tensor, int64, int64, int64[::1])", **RECORDS)
def _count_magnitudes(base, donor, size, high, histogram):
    """Add to `histogram` the upper bits of all |δ|.

    For high ≥ 0, the lower bits of those whose upper bits are `high`.
    """
    delta_f32 = np.empty(_BLOCK, np.float32)
    base_f32 = np.empty(_BLOCK, np.float32)
    bits = np.empty(_BLOCK, np.uint32)
    for start in range(0, size, _BLOCK):
        count = min(_BLOCK, size - start)
        widen_block(base, start, count, base_f32)
        subtract_block(donor, start, count, base_f32, delta_f32)
        for j in range(count):
            bits[j] = magnitude_bits(delta_f32[j])
        if high < 0:
            for j in range(count):
                histogram[bits[j] >> LOW_BITS] += 1
        else:
            for j in range(count):
                if bits[j] >> LOW_BITS == high:
                    histogram[bits[j] & (LOW_BINS - 1)] += 1


def find_trims(
    base: RawTensor, donors: Sequence[RawTensor], size: int, keeps: Sequence[int]
) -> list[Trim] | None:
    """How to keep exactly `keeps[i]` entries of δ_i = f32(donors[i]) − f32(base), the largest.

    All tensors hold `size` elements. None if some δ is Inf or NaN. Source: Yadav et al. 2023
    (arXiv 2306.01708), section 3.2, step 1; the rule for equal magnitudes is this project's own.
    """
    trims: dict[int, Trim] = {}
    bounds: dict[int, _Bounds] = {}
    for i, keep in enumerate(keeps):
        if keep >= size:
            trims[i] = Trim(0, size)
        elif keep <= 0:
            trims[i] = KEEP_NOTHING
        elif size <= SMALL:
            bounds[i] = _Bounds(0, MAX_FINITE)
        else:
            bounds[i] = _bounds_from_sample(base, donors[i], size, keep)
    for certain in (False, True):
        if not bounds:
            break
        if certain:
            bounds = {i: _bounds_from_histogram(base, donors[i], size, keeps[i]) for i in bounds}
        found = _select(base, donors, size, keeps, bounds)
        if found is None:
            return None
        trims |= found
        bounds = {i: b for i, b in bounds.items() if i not in found}
    return [trims[i] for i in range(len(donors))]


def _bounds_from_sample(base: RawTensor, donor: RawTensor, size: int, keep: int) -> _Bounds:
    runs = min(max(size // _SAMPLE_EVERY, _SAMPLE_RUNS[0]), _SAMPLE_RUNS[1])
    bits = np.empty(runs * _SAMPLE_RUN, np.uint32)
    _sample(base.record, donor.record, size, runs, _SAMPLE_RUN, bits)
    bits.sort()
    share = keep / size
    margin = _CAUTION * math.sqrt(bits.size * share * (1 - share)) + _SPARE
    rank = bits.size * (1 - share)
    below, beyond = math.floor(rank - margin), math.ceil(rank + margin)
    low = int(bits[below]) if below >= 0 else 0
    high = int(bits[beyond]) if beyond < bits.size else MAX_FINITE
    return _Bounds(min(low, MAX_FINITE), min(high, MAX_FINITE))


def _bounds_from_histogram(base: RawTensor, donor: RawTensor, size: int, keep: int) -> _Bounds:
    """The threshold itself, by two passes that count."""
    inputs = (base.record, donor.record, size)
    upper = np.zeros(HIGH_BINS, np.int64)
    _count_magnitudes(*inputs, -1, upper)
    high, above = _bin_of_kth(upper, keep)
    lower = np.zeros(LOW_BINS, np.int64)
    _count_magnitudes(*inputs, high, lower)
    low, _ = _bin_of_kth(lower, keep - above)
    threshold = high << LOW_BITS | low
    return _Bounds(threshold, threshold)


def _bin_of_kth(histogram: np.ndarray, k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest entry, and how many entries lie in the bins above it."""
    from_top = np.cumsum(histogram[::-1])
    position = int(np.searchsorted(from_top, k))
    above = int(from_top[position - 1]) if position else 0
    return len(histogram) - 1 - position, above


def _select(
    base: RawTensor,
    donors: Sequence[RawTensor],
    size: int,
    keeps: Sequence[int],
    bounds: dict[int, _Bounds],
) -> dict[int, Trim] | None:
    """The trims of those donors in `bounds` whose bounds hold, by one pass over all of them."""
    chosen = list(bounds)
    tensors = [donors[i] for i in chosen]
    count = len(chosen)
    above, filled = np.zeros(count, np.int64), np.zeros(count, np.int64)
    within = np.zeros((count, -(-size // _BLOCK)), np.int64)
    room = (size if size <= SMALL else size // 16) + _BLOCK + 1
    collected = np.empty((count, room), np.uint32)
    limits = np.array([(bounds[i].low, bounds[i].high) for i in chosen], _BOUNDS)
    status = _scan(base.record, records(tensors), size, limits, above, within, collected, filled)
    if status != OK:
        return None
    trims = {}
    for row, i in enumerate(chosen):
        inside, left = int(filled[row]), keeps[i] - int(above[row])
        single = bounds[i].low == bounds[i].high
        if not 1 <= left <= inside or not (single or inside + _BLOCK < room):
            continue
        if single:
            threshold = bounds[i].low
            equal = within[row]
        else:
            order = collected[row, :inside]
            threshold, left = _kth_largest(order, bounds[i].low, bounds[i].high, left)
            equal = _sums(order == threshold, within[row])
        trims[i] = Trim(threshold, _place_of_tie(base, tensors[row], size, threshold, equal, left))
    return trims


def _sums(flags: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """How many of the consecutive groups of `lengths` in `flags` are true."""
    totals = np.concatenate(([0], np.cumsum(flags)))
    ends = np.cumsum(lengths)
    return totals[ends] - totals[ends - lengths]


def _place_of_tie(
    base: RawTensor, donor: RawTensor, size: int, threshold: int, equal: np.ndarray, left: int
) -> int:
    """Flat index of the `left`-th of the threshold's equals; `equal` counts them by block."""
    ends = np.cumsum(equal)
    if left == ends[-1]:
        return size
    block = int(np.searchsorted(ends, left))
    start = block * _BLOCK
    stop = min(start + _BLOCK, size)
    delta = base.part_f32(start, stop)
    delta = donor.part_f32(start, stop) - delta
    places = np.flatnonzero((delta.view(np.uint32) & np.uint32(0x7FFFFFFF)) == threshold)
    return start + int(places[left - (int(ends[block - 1]) if block else 0) - 1])
