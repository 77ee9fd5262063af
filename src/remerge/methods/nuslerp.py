"""NuSLERP: slerp of two models or task vectors, whole or vector by vector, by weights.

    t = w_2 / (w_1 + w_2);   for each vector as slerp;   y = rn(M), or rn(b + M) with a base

Source: mergekit's nuslerp, whose meanings of `nuslerp_flatten` and `nuslerp_row_wise` these are.
"""

from __future__ import annotations

import math

import numpy as np

from remerge.arithmetic.scalars import acos
from remerge.arithmetic.sums import column_sums, row_sums
from remerge.methods.method import WEIGHT, Chunks, Inputs, Method, Parameter, Values
from remerge.methods.slerp import arc, clamped, significant
from remerge.methods.stream import bad_number, spans
from remerge.methods.weighted import weighted_sum

#: Norms count as at least this.
LEAST_NORM = 1e-7
#: Vectors are colinear where 1 − cos² is not above this.
COLINEAR = 1e-16
NO_WEIGHT = 1e-6


def share_of_second(weights: tuple[float, ...]) -> float:
    """The share t of the second model."""
    whole = math.fsum(weights)
    return 0.5 if abs(whole) < NO_WEIGHT else weights[1] / whole


def factors_of(square1: float, product: float, square2: float, t: float) -> tuple[float, float]:
    """The factors of two vectors, from their products with themselves and each other."""
    norm1, norm2 = max(math.sqrt(square1), LEAST_NORM), max(math.sqrt(square2), LEAST_NORM)
    cosine = clamped(product / (norm1 * norm2))
    if 1.0 - cosine * cosine <= COLINEAR:
        return 1.0 - t, t
    return arc(t, acos(cosine))


def _sums(inputs: Inputs, along: str) -> np.ndarray:
    """S(v_1·v_1), S(v_1·v_2), S(v_2·v_2) of each vector: float64 [vectors, 3]."""
    base = None if inputs.base is None else inputs.base.raw
    models = [model.raw for model in inputs.models]
    if along == "columns":
        # Along the first axis: a tensor of more than two axes has as many vectors as the rest.
        width = inputs.size // inputs.shape[0]
        found = column_sums(base, models, inputs.size, width)
        parts = [found]
    elif along == "rows":
        parts = [
            row_sums(base, models, begin, end, inputs.row)
            for begin, end in spans(inputs.size, inputs.row)
        ]
    else:
        parts = [row_sums(base, models, 0, inputs.size, inputs.size)]
    if any(part is None for part in parts):
        raise bad_number(inputs)
    return np.concatenate([part for part in parts if part is not None])


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if not inputs.size:
        return {}
    along = "columns" if values["nuslerp_row_wise"] else "rows"
    if values["nuslerp_flatten"] or len(inputs.shape) < 2:
        along = "tensor"
    t = share_of_second(values["weight"])
    sums = _sums(inputs, along)
    factors = np.array([factors_of(a, ab, b, t) for a, ab, b in sums.tolist()], np.float64)
    width = inputs.size // inputs.shape[0] if along == "columns" else None
    yield from weighted_sum(
        inputs,
        factors,
        from_base=inputs.base is not None,
        axis=0 if along == "columns" else 1,
        width=width,
    )
    if along != "tensor":
        return {}
    square1, product, square2 = sums[0].tolist()
    norms = math.sqrt(square1) * math.sqrt(square2)
    return {"cosine": significant(product / norms if norms else 0.0)}


METHOD = Method(
    name="nuslerp",
    title="NuSLERP",
    source="mergekit",
    base="optional",
    models=(2, 2),
    parameters=(
        WEIGHT,
        Parameter("nuslerp_flatten", "bool", "the tensor is one vector", default=True),
        Parameter(
            "nuslerp_row_wise", "bool", "vectors along the first axis, not the last", default=False
        ),
    ),
    compute=compute,
)
