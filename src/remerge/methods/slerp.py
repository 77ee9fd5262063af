"""Slerp: along the arc from the base to one model, tensors as vectors.

    θ = acos(x_0·x_1 / (‖x_0‖·‖x_1‖))
    y = rn(sin((1 − t)·θ)/sin θ · x_0 + sin(t·θ)/sin θ · x_1)

Source: Shoemake 1985, "Animating rotation with quaternion curves"; thresholds as in mergekit.
"""

from __future__ import annotations

import math
from dataclasses import replace

from remerge.arithmetic.scalars import acos, sin
from remerge.arithmetic.sums import gram_of
from remerge.methods.method import Chunks, Inputs, Method, Parameter, Values
from remerge.methods.stream import bad_number
from remerge.methods.weighted import weighted_sum

#: Directions nearer than this, or as nearly opposite, are interpolated linearly.
COLINEAR = 0.9995
#: A norm not above this counts as 1.
NO_NORM = 1e-8

T = Parameter("t", "float", "share of the way to the model", required=True, low=0.0, high=1.0)


def arc(t: float, angle: float) -> tuple[float, float]:
    """The factors of both ends at share `t` of an arc of `angle`."""
    whole = sin(angle)
    return sin((1.0 - t) * angle) / whole, sin(t * angle) / whole


def clamped(value: float) -> float:
    """`value` cut to [−1, 1]."""
    return min(1.0, max(-1.0, value))


def significant(value: float) -> float:
    """Six digits, for statistics."""
    return float(f"{value:.6g}")


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if not inputs.size:
        return {}
    assert inputs.base is not None
    t = values["t"]
    ends = (inputs.base, *inputs.models)
    sums = gram_of(None, [end.raw for end in ends], inputs.size)
    if sums is None:
        raise bad_number(inputs)
    norms = [norm if norm > NO_NORM else 1.0 for norm in (math.sqrt(sums[i, i]) for i in (0, 1))]
    cosine = clamped(sums[0, 1] / (norms[0] * norms[1]))
    factors = (1.0 - t, t) if abs(cosine) > COLINEAR else arc(t, acos(cosine))
    yield from weighted_sum(replace(inputs, base=None, models=ends), factors)
    return {"cosine": significant(cosine)}


METHOD = Method(
    name="slerp",
    title="SLERP",
    source="Shoemake 1985",
    base="required",
    models=(1, 1),
    parameters=(T,),
    compute=compute,
)
