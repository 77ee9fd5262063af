"""The merge methods of `docs/contract.md` as plain code, entry by entry or nearly so.

Every function takes float32 arrays in the shape of the tensor and gives float32 before the one
rounding to the output type. NumPy rounds every float32 operation by itself. Nothing is imported
from the library.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

import numpy as np

F = np.float32
Arrays = Sequence[np.ndarray]


class Refused(Exception):
    """The contract makes this an error."""


def finite(arrays: Arrays) -> None:
    if not all(np.isfinite(a).all() for a in arrays):
        raise Refused("not finite")


# Reductions and scalar functions


def S(left: np.ndarray, right: np.ndarray) -> float:
    """Sum of products in eight lanes, added exactly."""
    lanes = [0.0] * 8
    for j, (x, y) in enumerate(zip(left.ravel(), right.ravel(), strict=True)):
        lanes[j % 8] += float(x) * float(y)
    return math.fsum(lanes)


def S_terms(terms: Sequence[float]) -> float:
    lanes = [0.0] * 8
    for j, term in enumerate(terms):
        lanes[j % 8] += term
    return math.fsum(lanes)


def _series(x: Decimal, n: int) -> Decimal:
    """Σ (−1)^i x^(n+2i) / (n+2i)!"""
    term = x if n else Decimal(1)
    total = term
    while abs(term) > Decimal(10) ** -75:
        n += 2
        term = -term * x * x / (n * (n - 1))
        total += term
    return total


def sin(x: float) -> float:
    if x == 0 or abs(x) < 1e-100:
        return x
    with localcontext() as context:
        context.prec = 90
        return float(_series(Decimal(x), 1))


def cos(x: float) -> float:
    with localcontext() as context:
        context.prec = 90
        return float(_series(Decimal(x), 0))


def acos(x: float) -> float:
    """By bisection of cos, then Newton."""
    with localcontext() as context:
        context.prec = 90
        target = Decimal(x)
        if target == 1:
            return 0.0
        low, high = Decimal(0), Decimal("3.1415926535897932384626433832795028841971693993752")
        if target == -1:
            return float(high)
        for _ in range(140):
            middle = (low + high) / 2
            if _series(middle, 0) > target:
                low = middle
            else:
                high = middle
        return float((low + high) / 2)


def cut(value: float) -> float:
    return min(1.0, max(-1.0, value))


def descending(values: np.ndarray) -> list[int]:
    flat = values.ravel()
    return sorted(range(flat.size), key=lambda j: (-abs(flat[j]), j))


def f32(value: float) -> np.float32:
    return F(value)


def sum_weights(weights: Sequence[float]) -> np.float32:
    return f32(math.fsum(float(f32(w)) for w in weights))


def total(terms: Arrays, like: np.ndarray) -> np.ndarray:
    result = np.zeros_like(like)
    for term in terms:
        result = result + term
    return result


# Random draws


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    c = [counter % 2**32, counter >> 32, 0, 0]
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (right >> 32) ^ c[1] ^ k0,
            right % 2**32,
            (left >> 32) ^ c[3] ^ k1,
            left % 2**32,
        ]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def draw(seed: int, position: int, name: str, j: int) -> int:
    digest = hashlib.sha256(
        str(seed).encode() + b"\0" + str(position).encode() + b"\0" + name.encode()
    ).digest()
    key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little"))
    return philox(j // 4, key)[j % 4]


# Methods


def linear(models: Arrays, weight: Sequence[float], normalize: bool) -> np.ndarray:
    finite(models)
    s = total([f32(w) * x for w, x in zip(weight, models, strict=True)], models[0])
    return s / sum_weights(weight) if normalize else s


def passthrough(model: np.ndarray, scale: float | None) -> np.ndarray:
    finite([model])
    return model if scale is None else model * f32(scale)


def task_vectors(
    base: np.ndarray,
    models: Arrays,
    keep: Sequence[np.ndarray] | None,
    factors: Sequence[np.ndarray | np.float32 | None],
    weight: Sequence[float],
    lam: float,
    normalize: bool,
    consensus: str,
    divide_by: str = "magnitudes",
) -> np.ndarray:
    """The shared steps; `keep` are masks."""
    shares = [abs(w) for w in weight] if divide_by == "magnitudes" else weight
    finite([base, *models])
    deltas = [x - base for x in models]
    finite(deltas)
    parts = []
    for i, delta in enumerate(deltas):
        part = delta if keep is None else np.where(keep[i], delta, F(0))
        factor = factors[i]
        if factor is not None:
            if np.ndim(factor) == 0 and not np.isfinite(factor):
                raise Refused("factor")
            part = part * factor
        parts.append(f32(weight[i]) * part)
    if consensus == "none":
        M = total(parts, base)
        D = sum_weights(shares)
        D = F(1) if abs(D) < 1e-8 else D
        if normalize:
            M = M / D
    else:
        counted = [(p > 0).astype(F) - (p < 0).astype(F) for p in parts]
        signs = counted if consensus == "count" else parts
        s = total(signs, base)
        agrees = [np.where(s >= 0, p > 0, p < 0) for p in parts]
        M = total([np.where(a, p, F(0)) for a, p in zip(agrees, parts, strict=True)], base)
        if normalize:
            D = total(
                [np.where(a, f32(w), F(0)) for a, w in zip(agrees, shares, strict=True)], base
            )
            M = M / np.where(D == 0, F(1), D)
    return base + f32(lam) * M


def l1_factor(delta: np.ndarray, keep: np.ndarray) -> np.float32 | None:
    before = S_terms([float(abs(d)) for d in delta.ravel()])
    after = S_terms(
        [float(abs(d)) if k else 0.0 for d, k in zip(delta.flat, keep.flat, strict=True)]
    )
    return None if before < 1e-7 or after < 1e-7 else f32(before / after)


def first_of(delta: np.ndarray, begin: int, count: int) -> np.ndarray:
    mask = np.zeros(delta.size, bool)
    mask[descending(delta)[begin : begin + count]] = True
    return mask.reshape(delta.shape)


def kept_by_ties(delta: np.ndarray, density: float) -> np.ndarray:
    return first_of(delta, 0, math.floor(density * delta.size))


def kept_by_breadcrumbs(delta: np.ndarray, density: float, gamma: float) -> np.ndarray:
    k = math.floor(density * delta.size)
    return first_of(delta, min(math.floor(gamma * delta.size), delta.size - k), k)


def kept_by_dare(shape: tuple, density: float, seed: int, position: int, name: str) -> np.ndarray:
    size = math.prod(shape)
    limit = math.floor(density * 2**32)
    draws = [draw(seed, position, name, j) for j in range(size)]
    return np.array([d < limit for d in draws], bool).reshape(shape)


def rows_of(values: np.ndarray) -> list[slice]:
    """Rows as slices of the flattened tensor."""
    if values.ndim < 2:
        return [slice(0, values.size)]
    width = values.shape[-1]
    return [slice(b, b + width) for b in range(0, values.size, width)]


def kept_by_della(
    delta: np.ndarray, density: float, epsilon: float, seed: int, position: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The mask, and 1/p of each entry as float32."""
    mask, inverse = np.ones(delta.size, bool), np.ones(delta.size, F)
    if density == 1:
        return mask.reshape(delta.shape), inverse.reshape(delta.shape)
    for row in rows_of(delta):
        values = delta.ravel()[row]
        length = values.size
        for place, at in enumerate(descending(values)):
            u = (length - 1 - place) / (length - 1) if length > 1 else 0.0
            p = (density - epsilon) + (u * 2.0) * epsilon
            j = row.start + at
            mask[j] = draw(seed, position, name, j) < math.floor(p * 2**32)
            inverse[j] = f32(1.0 / p)
    return mask.reshape(delta.shape), inverse.reshape(delta.shape)


def arc(t: float, c: float) -> tuple[float, float]:
    angle = acos(c)
    return sin((1.0 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)


def slerp(x0: np.ndarray, x1: np.ndarray, t: float) -> np.ndarray:
    finite([x0, x1])
    n0, n1 = math.sqrt(S(x0, x0)), math.sqrt(S(x1, x1))
    n0, n1 = n0 if n0 > 1e-8 else 1.0, n1 if n1 > 1e-8 else 1.0
    c = cut(S(x0, x1) / (n0 * n1))
    c0, c1 = (1.0 - t, t) if abs(c) > 0.9995 else arc(t, c)
    return total([f32(c0) * x0, f32(c1) * x1], x0)
