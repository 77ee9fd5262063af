"""Exact order statistics of numbers that are computed as they are read.

>>> trim = kth_largest(keys, size, k)

Keys are float32 numbers ≥ 0, whose bits order like the numbers. Two passes that count find the k-th
largest to the bit, and a third the place of the last of its equals that is among the k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from remerge.kernels.compiled import kernel
from remerge.kernels.halves import u32
from remerge.methods.trim import KEEP_NOTHING, Trim

_LOW_BITS = 15
_CHUNK = 1 << 18

#: Fills float32 [end − begin] with the keys of elements [begin, end) of the flattened tensor.
Keys = Callable[[int, int, np.ndarray], None]


@kernel("void(float32[::1], int64, int64[::1])")
def _count(keys: np.ndarray, upper: int, histogram: np.ndarray) -> None:
    """Count the upper bits of keys; for upper ≥ 0 the lower bits of those with these upper ones."""
    bits = keys.view(np.uint32)
    if upper < 0:
        for j in range(bits.size):
            histogram[bits[j] >> u32(_LOW_BITS)] += 1
    else:
        for j in range(bits.size):
            if np.int64(bits[j] >> u32(_LOW_BITS)) == upper:
                histogram[bits[j] & u32((1 << _LOW_BITS) - 1)] += 1


def _chunks(keys: Keys, size: int) -> Iterator[tuple[int, np.ndarray]]:
    buffer = np.empty(min(size, _CHUNK), np.float32)
    for begin in range(0, size, _CHUNK):
        end = min(begin + _CHUNK, size)
        keys(begin, end, buffer[: end - begin])
        yield begin, buffer[: end - begin]


def ascending(keys: Keys, size: int, positions: Sequence[int]) -> list[int]:
    """The bits of the keys at `positions` (from 0) of ascending order."""
    upper = np.zeros(1 << (32 - _LOW_BITS), np.int64)
    for _, chunk in _chunks(keys, size):
        _count(chunk, -1, upper)
    ends = np.cumsum(upper)
    highs = [int(np.searchsorted(ends, position, side="right")) for position in positions]
    lowers = {high: np.zeros(1 << _LOW_BITS, np.int64) for high in highs}
    for _, chunk in _chunks(keys, size):
        for high, histogram in lowers.items():
            _count(chunk, high, histogram)
    found = []
    for position, high in zip(positions, highs, strict=True):
        rest = position - (int(ends[high - 1]) if high else 0)
        low = int(np.searchsorted(np.cumsum(lowers[high]), rest, side="right"))
        found.append(high << _LOW_BITS | low)
    return found


def kth_largest(keys: Keys, size: int, k: int) -> Trim:
    """What keeps exactly the k largest keys, equal ones by ascending flat index."""
    if k <= 0:
        return KEEP_NOTHING
    if k >= size:
        return Trim(0, size)
    (threshold,) = ascending(keys, size, [size - k])
    value = np.uint32(threshold).view(np.float32)
    above = sum(int(np.count_nonzero(chunk > value)) for _, chunk in _chunks(keys, size))
    left = k - above
    for begin, chunk in _chunks(keys, size):
        places = np.flatnonzero(chunk == value)
        if places.size >= left:
            return Trim(threshold, begin + int(places[left - 1]))
        left -= places.size
    raise AssertionError("fewer keys than were counted")
