"""The rest of the merge methods of `docs/contract.md` as plain code; see `reference.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.methods.reference import (
    Arrays,
    F,
    Refused,
    S,
    S_terms,
    acos,
    arc,
    cos,
    cut,
    descending,
    f32,
    finite,
    first_of,
    rows_of,
    sin,
    total,
)


def vectors_of(shape: tuple[int, ...], flatten: bool, row_wise: bool) -> list[np.ndarray]:
    """Flat indices of the entries of each vector."""
    index = np.arange(math.prod(shape)).reshape(shape)
    if flatten or index.ndim < 2:
        return [index.ravel()]
    if row_wise:
        return list(index.reshape(shape[0], -1).T)
    return list(index.reshape(-1, shape[-1]))


def task(base: np.ndarray | None, models: Arrays) -> list[np.ndarray]:
    finite(models if base is None else [base, *models])
    vectors = list(models) if base is None else [x - base for x in models]
    finite(vectors)
    return vectors


def nuslerp(
    base: np.ndarray | None,
    models: Arrays,
    weight: Sequence[float],
    flatten: bool,
    row_wise: bool,
) -> np.ndarray:
    v1, v2 = task(base, models)
    W = math.fsum(weight)
    t = 0.5 if abs(W) < 1e-6 else weight[1] / W
    M = np.zeros(v1.size, F)
    for index in vectors_of(v1.shape, flatten, row_wise):
        a, b = v1.ravel()[index], v2.ravel()[index]
        n1, n2 = max(math.sqrt(S(a, a)), 1e-7), max(math.sqrt(S(b, b)), 1e-7)
        c = cut(S(a, b) / (n1 * n2))
        c1, c2 = (1.0 - t, t) if 1.0 - c * c <= 1e-16 else arc(t, c)
        M[index] = total([f32(c1) * a, f32(c2) * b], a)
    M = M.reshape(v1.shape)
    return M if base is None else base + M


def multislerp(
    base: np.ndarray | None,
    models: Arrays,
    weight: Sequence[float],
    normalize: bool,
    eps: float = 1e-8,
) -> np.ndarray:
    if len(models) == 1:
        finite(models)
        return models[0]
    v = task(base, models)
    m = range(len(v))
    F_sum = math.fsum(weight)
    W = [w / F_sum for w in weight] if normalize else list(weight)
    G = {(i, k): S(v[min(i, k)], v[max(i, k)]) for i in m for k in m}
    n = [math.sqrt(G[i, i]) for i in m]
    r = [W[i] / (n[i] + eps) for i in m]
    square = 0.0
    for i in m:
        q = 0.0
        for k in m:
            q += r[k] * G[i, k]
        square += r[i] * q
    N = math.sqrt(max(0.0, square))
    if eps > N:
        if len(v) > 2:
            raise Refused("cancels")
        c = W
    else:
        A = 0.0
        for k in m:
            A += n[k] * W[k]
        c = [(A * r[i]) / N for i in m]
    M = total([f32(c[i]) * v[i] for i in m], v[0])
    return M if base is None else base + M


def plain_dot(a: Sequence[float], b: Sequence[float]) -> float:
    result = 0.0
    for x, y in zip(a, b, strict=True):
        result += x * y
    return result


def karcher(models: Arrays, max_iter: int, tol: float) -> np.ndarray:
    finite(models)
    if len(models) == 1:
        return models[0]
    m = len(models)
    n = [math.sqrt(S(x, x)) for x in models]
    valid = [i for i in range(m) if n[i] > tol]
    v = len(valid)
    if not v:
        return np.zeros_like(models[0])
    g = [[cut(S(models[min(i, k)], models[max(i, k)]) / (n[i] * n[k])) for k in valid]
         for i in valid]  # fmt: skip
    L = [[0.0] * v for _ in range(v)]
    for i in range(v):
        for k in range(i):
            if L[k][k] != 0:
                L[i][k] = (g[i][k] - plain_dot(L[i][:k], L[k][:k])) / L[k][k]
        P = 1.0 - plain_dot(L[i][:i], L[i][:i])
        if P > 2.0**-40:
            L[i][i] = math.sqrt(P)
    z = [0.0] * v
    for i in range(v):
        z = [z[j] + (1.0 / v) * L[i][j] for j in range(v)]
    N = math.sqrt(plain_dot(z, z))
    z = L[0][:] if tol > N else [x / N for x in z]
    for _ in range(max_iter):
        T = [0.0] * v
        for i in range(v):
            d = cut(plain_dot(z, L[i]))
            angle = acos(d)
            if angle >= tol:
                f = (1.0 / v) * (angle / sin(angle))
                T = [T[j] + f * (L[i][j] - d * z[j]) for j in range(v)]
        tau = math.sqrt(plain_dot(T, T))
        if tau < tol:
            break
        z = [cos(tau) * z[j] + sin(tau) * (T[j] / tau) for j in range(v)]
        N = math.sqrt(plain_dot(z, z))
        if tol < N:
            z = [x / N for x in z]
    a = [0.0] * v
    for i in range(v - 1, -1, -1):
        rest = 0.0
        for k in range(i + 1, v):
            rest += L[k][i] * a[k]
        a[i] = (z[i] - rest) / L[i][i] if L[i][i] != 0 else 0.0
    scale = 0.0
    for k in range(m):
        scale += (1.0 / m) * n[k]
    c = [0.0] * m
    for place, i in enumerate(valid):
        c[i] = (scale * a[place]) / n[i]
    return total([f32(c[i]) * models[i] for i in range(m)], models[0])


def model_stock(base: np.ndarray, models: Arrays, filter_wise: bool, floor: float) -> np.ndarray:
    deltas = task(base, models)
    N = len(models)
    result = np.empty(base.size, F)
    for row in rows_of(base) if filter_wise else [slice(0, base.size)]:
        d = [x.ravel()[row] for x in deltas]
        n = [math.sqrt(S(x, x)) for x in d]
        cosines, count = 0.0, 0
        for i in range(N):
            for k in range(i + 1, N):
                divisor = max(n[i] * n[k], floor)
                cosines += cut(S(d[i], d[k]) / divisor) if divisor != 0 else 0.0
                count += 1
        C = cosines / count
        E = 1.0 + (N - 1) * C
        t = 0.0 if abs(E) < 1e-6 else (N * C) / E
        mean = total([x.ravel()[row] for x in models], base.ravel()[row]) / F(N)
        result[row] = f32(t) * mean + f32(1.0 - t) * base.ravel()[row]
    return result.reshape(base.shape)


def sce(base: np.ndarray, models: Arrays, select_topk: float, floor: float) -> np.ndarray:
    deltas = task(base, models)
    m = len(deltas)
    if select_topk < 1:
        mean = total(deltas, base) / F(m)
        V = total([(d - mean) * (d - mean) for d in deltas], base) / F(m)
        k = math.floor(int((V != 0).sum()) * select_topk)
        mask = first_of(V, 0, k)
        deltas = [np.where(mask, d, F(0)) for d in deltas]
    E = [S(d, d) / base.size for d in deltas]
    F_sum = math.fsum(E)
    w = [1.0 / m] * m if F_sum == 0 or F_sum < floor else [e / F_sum for e in E]
    s = total(deltas, base)
    agrees = [np.where(s >= 0, d > 0, d < 0) for d in deltas]
    A = total([np.where(a, f32(x) * d, F(0)) for a, x, d in zip(agrees, w, deltas, strict=True)],
              base)  # fmt: skip
    D = total([np.where(a, f32(x), F(0)) for a, x in zip(agrees, w, strict=True)], base)
    D = np.maximum(D, f32(floor))
    return base + np.where(D == 0, F(0), A / np.where(D == 0, F(1), D))


def nearswap(base: np.ndarray, model: np.ndarray, t: float) -> np.ndarray:
    (delta,) = task(base, [model])
    d = np.abs(delta)
    w = np.minimum(f32(t) / np.where(d == 0, F(1), d), F(1))
    return np.where(d == 0, base, w * model + (F(1) - w) * base)


def EXP(x: float) -> float:
    if x < -708:
        return 0.0
    k = float(round(x * float.fromhex("0x1.71547652b82fep+0")))
    r = (x - k * float.fromhex("0x1.62e42feep-1")) - k * float.fromhex("0x1.a39ef35793c76p-33")
    result = 1.0 / math.factorial(13)
    for i in range(12, -1, -1):
        result = result * r + 1.0 / math.factorial(i)
    return math.ldexp(result, int(k))


def LOG(y: float) -> float:
    m, e = math.frexp(y)
    if m < float.fromhex("0x1.6a09e667f3bcdp-1"):
        m, e = 2 * m, e - 1
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 1.0 / 21
    for i in range(9, -1, -1):
        series = series * z + 1.0 / (2 * i + 1)
    low, high = float.fromhex("0x1.a39ef35793c76p-33"), float.fromhex("0x1.62e42feep-1")
    return ((2.0 * s) * series + e * low) + e * high


def softmax(row: np.ndarray) -> list[float]:
    top = float(row.max())
    e = [EXP(float(x) - top) for x in row]
    return [x / S_terms(e) + 1e-8 for x in e]


def arcee_fusion(base: np.ndarray, model: np.ndarray) -> np.ndarray:
    (delta,) = task(base, [model])
    importance = np.empty(base.size, F)
    for row in rows_of(base):
        p, q = softmax(model.ravel()[row]), softmax(base.ravel()[row])
        K = S_terms([x * LOG(x / y) for x, y in zip(p, q, strict=True)])
        importance[row] = np.abs(delta.ravel()[row]) * f32(max(K, 0.0))
    order = list(reversed(descending(importance)))
    q1, q2, q3 = (importance[order[math.floor(q * (base.size - 1))]] for q in (0.25, 0.5, 0.75))
    threshold = q2 + F(1.5) * (q3 - q1)
    return np.where(importance.reshape(base.shape) >= threshold, base + delta, base)
