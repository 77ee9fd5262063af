"""The formulas of the merges, written as plainly as NumPy allows. The kernels must equal them.

Nothing here is meant to be fast. Every function takes and returns whole arrays; float32 arithmetic
is NumPy's, which rounds every operation by itself. Types are named as in safetensors: F16, BF16,
F32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: Type: (bits of precision with the hidden one, exponent of the least unit, largest number).
FORMATS = {
    "F16": (11, -24, 65504.0),
    "BF16": (8, -133, float.fromhex("0x1.FEp127")),
    "F32": (24, -149, float.fromhex("0x1.FFFFFEp127")),
}
CODES = {"F16": 0, "BF16": 1, "F32": 2}


def decode(raw_u8: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers in little-endian bytes, as float32 [n]: exact for every type."""
    if dtype == "F16":
        return raw_u8.view("<f2").astype(np.float32)
    if dtype == "BF16":
        return (raw_u8.view("<u2").astype(np.uint32) * np.uint32(65536)).view(np.float32)
    return raw_u8.view("<f4").copy()


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """Nearest numbers of the type, ties to even, as float64; Inf for what is too large."""
    precision, least, largest = FORMATS[dtype]
    wide = np.asarray(values, np.float64)
    _, exponent = np.frexp(wide)
    unit = np.maximum(exponent - precision, least)
    # Dividing by a power of two is exact, and rint rounds halves to even.
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(wide, -unit)), unit)
        too_large = np.abs(rounded) > largest
        rounded = np.where(too_large, np.copysign(np.inf, wide), rounded)
    return np.where(np.isfinite(wide), rounded, wide)


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes of `round_to(values, dtype)`."""
    rounded = round_to(values, dtype).ravel()
    if dtype == "F16":
        return rounded.astype("<f2").view(np.uint8)
    as_f32 = rounded.astype("<f4")
    if dtype == "BF16":
        return (as_f32.view("<u4") >> np.uint32(16)).astype("<u2").view(np.uint8)
    return as_f32.view(np.uint8)


def trim(delta: np.ndarray, keep: int) -> np.ndarray:
    """`delta` with all but its `keep` largest magnitudes set to 0; of equals the first are kept."""
    order = sorted(range(delta.size), key=lambda index: (-abs(delta[index]), index))
    trimmed = np.zeros_like(delta)
    for index in order[:keep]:
        trimmed[index] = delta[index]
    return trimmed


def ties(
    base: np.ndarray,
    donors: Sequence[np.ndarray],
    densities: Sequence[float],
    weights: Sequence[float],
    lam: float = 1.0,
    normalize: bool = True,
    elect: str = "sum",
) -> np.ndarray:
    """TIES of float32 arrays [n] → float32 [n], before the one rounding to the output type."""
    zero = np.float32(0)
    with np.errstate(all="ignore"):
        deltas = [donor - base for donor in donors]
        if not all(np.isfinite(delta).all() for delta in deltas):
            raise FloatingPointError("a task vector is not finite")
        kept = [
            trim(delta, math.floor(density * delta.size))
            for delta, density in zip(deltas, densities, strict=True)
        ]
        result = np.empty_like(base)
        kept = [-delta if w < 0 else delta for w, delta in zip(weights, kept, strict=True)]
        for j in range(base.size):
            column = [(np.float32(abs(w)), d[j]) for w, d in zip(weights, kept, strict=True)]
            score = zero
            for w, d in column:
                score = score + (np.sign(d) if elect == "count" else w * d)
            positive = score >= 0
            total, divisor = zero, zero
            for w, d in column:
                if (d > 0) if positive else (d < 0):
                    total = total + w * d
                    divisor = divisor + w
            if not normalize:
                divisor = np.float32(1)
            mean = total / divisor if divisor != 0 else zero
            result[j] = base[j] + np.float32(lam) * mean
        return result


def blend(first: np.ndarray, second: np.ndarray, ratio: float) -> np.ndarray:
    """(1 − r)·x1 + r·x2 in float32; both ends copy."""
    if ratio == 0:
        return first
    if ratio == 1:
        return second
    with np.errstate(all="ignore"):
        return np.float32(1 - ratio) * first + np.float32(ratio) * second


def bake(weight: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    """W + s·Σ_k B[:,k]·A[k,:] in float64, k ascending: float32 [o, i], [r, i], [o, r] → [o, i]."""
    total = np.zeros(weight.shape, np.float64)
    for k in range(a.shape[0]):
        total = total + np.outer(b[:, k].astype(np.float64), a[k].astype(np.float64))
    return weight.astype(np.float64) + np.float64(scale) * total


def gradient_ratios(values: Sequence[float], count: int) -> list[float]:
    """The second model's share for each of `count` tensors, as the script of 2023 spaces it."""
    sections = len(values) - 1
    length = count // sections
    ratios: list[float] = []
    for i in range(sections):
        ratios.extend(np.linspace(values[i], values[i + 1], length).tolist())
    while len(ratios) < count:
        ratios.append(values[-1])
    return ratios
