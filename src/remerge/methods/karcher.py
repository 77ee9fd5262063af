"""Karcher mean of directions, at the mean length.

The unit vectors of v models span at most v dimensions. So the iteration runs on the coordinates
that the Cholesky factor of their Gram matrix gives, and tensors are read twice, however many
iterations it takes. Source: mergekit's karcher; Karcher 1977 for the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from remerge.arithmetic.scalars import acos, cos, sin
from remerge.arithmetic.sums import gram_of
from remerge.methods.method import Chunks, Inputs, Method, Parameter, Values
from remerge.methods.passthrough import copied
from remerge.methods.slerp import clamped, significant
from remerge.methods.stream import bad_number
from remerge.methods.weighted import weighted_sum

#: Squares of pivots not above this count as 0: the model lies in the span of those before it.
_NO_PIVOT = 2.0**-40


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    total = 0.0
    for x, y in zip(left, right, strict=True):
        total += x * y
    return total


def _coordinates(cosines: list[list[float]]) -> list[list[float]]:
    """The rows of the Cholesky factor of a matrix of cosines."""
    count = len(cosines)
    rows = [[0.0] * count for _ in range(count)]
    for i in range(count):
        for k in range(i):
            if rows[k][k]:
                rows[i][k] = (cosines[i][k] - _dot(rows[i][:k], rows[k][:k])) / rows[k][k]
        pivot = 1.0 - _dot(rows[i][:i], rows[i][:i])
        rows[i][i] = math.sqrt(pivot) if pivot > _NO_PIVOT else 0.0
    return rows


def _mean(units: list[list[float]], max_iter: int, tol: float) -> tuple[list[float], int]:
    """The Karcher mean of points on a sphere with equal weights, and the iterations it took."""
    share = 1.0 / len(units)
    place = [0.0] * len(units)
    for unit in units:
        place = [z + share * u for z, u in zip(place, unit, strict=True)]
    length = math.sqrt(_dot(place, place))
    place = list(units[0]) if length < tol else [z / length for z in place]
    for iteration in range(max_iter):
        tangent = [0.0] * len(units)
        for unit in units:
            cosine = clamped(_dot(place, unit))
            angle = acos(cosine)
            if angle < tol:
                continue
            factor = share * (angle / sin(angle))
            tangent = [
                t + factor * (u - cosine * z) for t, u, z in zip(tangent, unit, place, strict=True)
            ]
        step = math.sqrt(_dot(tangent, tangent))
        if step < tol:
            return place, iteration
        ahead, aside = cos(step), sin(step)
        place = [ahead * z + aside * (t / step) for z, t in zip(place, tangent, strict=True)]
        length = math.sqrt(_dot(place, place))
        if length > tol:
            place = [z / length for z in place]
    return place, max_iter


def factors_of(
    gram: dict[tuple[int, int], float], models: int, max_iter: int, tol: float
) -> tuple[list[float], int] | None:
    """The factor of each model and the iterations; None where no norm is above `tol`."""
    norms = [math.sqrt(gram[i, i]) for i in range(models)]
    valid = [i for i in range(models) if norms[i] > tol]
    if not valid:
        return None
    cosines = [[clamped(gram[i, k] / (norms[i] * norms[k])) for k in valid] for i in valid]
    units = _coordinates(cosines)
    place, iterations = _mean(units, max_iter, tol)
    share = [0.0] * len(valid)
    for i in reversed(range(len(valid))):
        rest = 0.0
        for k in range(i + 1, len(valid)):
            rest += units[k][i] * share[k]
        share[i] = (place[i] - rest) / units[i][i] if units[i][i] else 0.0
    average = 0.0
    for norm in norms:
        average += (1.0 / models) * norm
    factors = [0.0] * models
    for part, i in zip(share, valid, strict=True):
        factors[i] = (average * part) / norms[i]
    return factors, iterations


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if not inputs.size:
        return {}
    count = len(inputs.models)
    if count == 1:
        yield from copied(inputs)
        return {}
    gram = gram_of(None, [model.raw for model in inputs.models], inputs.size)
    if gram is None:
        raise bad_number(inputs)
    found = factors_of(gram, count, values["max_iter"], values["tol"])
    factors, iterations = ([0.0] * count, 0) if found is None else found
    yield from weighted_sum(inputs, factors)
    return {"factors": [significant(factor) for factor in factors], "iterations": iterations}


METHOD = Method(
    name="karcher",
    title="Karcher mean",
    source="mergekit; Karcher 1977",
    base="none",
    models=(1, None),
    parameters=(
        Parameter("max_iter", "int", "iterations at most", default=10, low=0, high=100_000),
        Parameter(
            "tol", "float", "step at which it stops", default=1e-5, low=0.0, high=1.0,
            without=(0.0,),
        ),
    ),
    compute=compute,
)  # fmt: skip
