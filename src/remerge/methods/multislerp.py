"""Multi-SLERP: the weighted mean of directions, at the weighted mean of lengths.

    r_i = W_i / (‖v_i‖ + eps),   N = ‖Σ r_i·v_i‖,   y = rn(Σ (A·r_i/N)·v_i),   A = Σ ‖v_i‖·W_i

v are the models, or task vectors with a base. Source: Goddard 2025, "Multi-SLERP"; its step in the
tangent space is zero by construction. All from the Gram matrix, so tensors are read twice.
"""

from __future__ import annotations

import math

from remerge.arithmetic.sums import gram_of
from remerge.errors import NumericError, RecipeError, printable
from remerge.methods.method import WEIGHT, Chunks, Inputs, Method, Parameter, Values
from remerge.methods.passthrough import copied
from remerge.methods.slerp import significant
from remerge.methods.stream import bad_number
from remerge.methods.weighted import weighted_sum


def factors_of(
    gram: dict[tuple[int, int], float], weights: list[float], eps: float
) -> list[float] | None:
    """The factor of each v; None where the weighted directions cancel and there are over two."""
    models = range(len(weights))
    norms = [math.sqrt(gram[i, i]) for i in models]
    r = [weights[i] / (norms[i] + eps) for i in models]
    square = 0.0
    for i in models:
        q = 0.0
        for k in models:
            q += r[k] * gram[i, k]
        square += r[i] * q
    length = math.sqrt(max(0.0, square))
    if length < eps:
        return weights if len(weights) == 2 else None
    average = 0.0
    for k in models:
        average += norms[k] * weights[k]
    return [(average * r[i]) / length for i in models]


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if not inputs.size:
        return {}
    if len(inputs.models) == 1:
        yield from copied(inputs)
        return {}
    weights = list(values["weight"])
    if values["normalize_weights"]:
        whole = math.fsum(weights)
        weights = [weight / whole for weight in weights]
    base = None if inputs.base is None else inputs.base.raw
    gram = gram_of(base, [model.raw for model in inputs.models], inputs.size)
    if gram is None:
        raise bad_number(inputs)
    factors = factors_of(gram, weights, values["eps"])
    if factors is None:
        raise NumericError(
            f"tensor {printable(inputs.name)!r}: the weighted directions of multislerp cancel; "
            "choose other weights"
        )
    yield from weighted_sum(inputs, factors, from_base=inputs.base is not None)
    return {"factors": [significant(factor) for factor in factors]}


def _examine(values: Values, where: str) -> None:
    if values["normalize_weights"] and math.fsum(values["weight"]) == 0:
        raise RecipeError(f"{printable(where)}: the weights of multislerp sum to 0")


METHOD = Method(
    name="multislerp",
    title="Multi-SLERP",
    source="Goddard 2025, goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    base="optional",
    models=(1, None),
    parameters=(
        WEIGHT,
        Parameter("normalize_weights", "bool", "make the weights sum to 1", default=True),
        Parameter("eps", "float", "added to norms", default=1e-8, low=0.0, high=1.0),
    ),
    compute=compute,
    examine=_examine,
)
