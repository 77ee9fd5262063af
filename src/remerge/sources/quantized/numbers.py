"""Numbers of quantized checkpoints as float32, and float32 as the types that models are written in.

>>> widened(np.array([0x38], np.uint8), "F8_E4M3")
array([1.], dtype=float32)

Every step is one IEEE operation on NumPy arrays, so the bits are the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

_BYTES = np.arange(256, dtype=np.uint8)


def _e4m3() -> F32:
    """OCP 8-bit E4M3: bias 7, no infinities, all ones is NaN (OFP8 1.0, table 1)."""
    exponent, fraction = (_BYTES >> 3 & 15).astype(np.int32), (_BYTES & 7).astype(np.float64)
    normal = np.ldexp(1 + fraction / 8, exponent - 7)
    size = np.where(exponent == 0, np.ldexp(fraction / 8, -6), normal)
    size = np.where(_BYTES & 0x7F == 0x7F, np.nan, size)
    return np.where(_BYTES & 0x80, -size, size).astype(np.float32)


def _e8m0() -> F32:
    """OCP exponents: 2 to the power of the byte less 127; 255 is NaN (MX 1.0, section 5.4.1)."""
    powers = np.ldexp(np.float32(1), _BYTES[:255].astype(np.int32) - 127)
    return np.append(powers, np.float32(np.nan))


#: float32 of every byte, by the names of safetensors. E5M2 is the upper half of a float16.
_TABLES: dict[str, F32] = {
    "F8_E4M3": _e4m3(),
    "F8_E5M2": (_BYTES.astype(np.uint16) << np.uint16(8)).view(np.float16).astype(np.float32),
    "F8_E8M0": _e8m0(),
}
#: E2M1, by its four bits: the sign first (MX 1.0, table 5).
E2M1: F32 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate([E2M1, -E2M1])

#: Types whose values `widened` gives; an element of the second tuple is a byte.
FLOATS = ("F16", "BF16", "F32")
EIGHT_BIT_FLOATS = ("F8_E4M3", "F8_E5M2")


def widened(data: NDArray[np.uint8], dtype: str) -> F32:
    """Return little-endian bytes of a type as float32, exactly.

    Args:
        data: uint8 of any number of whole elements; only single-byte types keep its shape.
        dtype: F16, BF16, F32, I8, F8_E4M3, F8_E5M2 or F8_E8M0, as safetensors calls them.

    Returns:
        The values; NaN and Inf as they are.
    """
    if dtype in _TABLES:
        return _TABLES[dtype][data]
    if dtype == "I8":
        return data.view(np.int8).astype(np.float32)
    if dtype == "F16":
        return data.view("<f2").astype(np.float32)
    if dtype == "BF16":
        return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return data.view("<f4").astype(np.float32)


def narrowed(values: F32, dtype: str) -> NDArray[np.uint8]:
    """Return little-endian bytes of F16, BF16 or F32, rounded to nearest, ties to even.

    What is too large becomes Inf: see `first_beyond`.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return flat.astype("<f2").view(np.uint8)
    if dtype == "BF16":
        bits = flat.view(np.uint32)
        odd = bits >> np.uint32(16) & np.uint32(1)
        halves = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2")
        return halves.view(np.uint8)
    return flat.astype("<f4").view(np.uint8)


def first_beyond(data: NDArray[np.uint8], dtype: str) -> int | None:
    """Return the place of the first element of F16, BF16 or F32 bytes that is no finite number."""
    if dtype == "F32":
        found = np.flatnonzero(data.view("<u4") & 0x7F800000 == 0x7F800000)
    else:
        mask = 0x7C00 if dtype == "F16" else 0x7F80
        found = np.flatnonzero(data.view("<u2") & mask == mask)
    return int(found[0]) if found.size else None


def unpacked(words: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return unsigned numbers of 1, 2, 4 or 8 bits, the lowest bits of each byte first.

    Args:
        words: uint8 [..., n].
        bits: How many make a number.

    Returns:
        uint8 [..., n * 8 / bits].
    """
    if bits == 8:
        return words
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = words[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return parts.reshape(*words.shape[:-1], words.shape[-1] * len(shifts))


def ceil_div(whole: int, part: int) -> int:
    """Return how many parts cover the whole."""
    return -(-whole // part)
