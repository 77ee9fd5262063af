"""Linear: the weighted mean of models, or their weighted sum.

    s = Σ f32(w_i)·x_i,   y = rn(s / D),   D = f32(Σ w_i)

Source: Wortsman et al. 2022, "Model soups" (arXiv 2203.05482).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from remerge.errors import RecipeError, printable
from remerge.methods.method import WEIGHT, Chunks, Inputs, Method, Parameter, Values
from remerge.methods.weighted import weighted_sum

#: A sum of weights nearer to 0 than this divides nothing.
NO_SUM = 1e-8
#: The share of the sum of their magnitudes below which a sum of weights divides nothing.
NEARLY_ZERO = 1e-6


def sum_of_weights(weights: Sequence[float]) -> np.float32:
    """The sum of the weights as float32 numbers: exact, rounded to float64, then to float32."""
    return np.float32(math.fsum(float(np.float32(weight)) for weight in weights))


def nearly_zero(weights: Sequence[float]) -> bool:
    """Whether weights of different signs sum to so little that a quotient is noise."""
    given = [float(np.float32(weight)) for weight in weights]
    return abs(math.fsum(given)) < NEARLY_ZERO * math.fsum(map(abs, given))


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if inputs.size:
        divisor = np.float32(1)
        if values["normalize"]:
            divisor = sum_of_weights(values["weight"])
        yield from weighted_sum(inputs, values["weight"], divisor=divisor)
    return {}


def _examine(values: Values, where: str) -> None:
    weights = values["weight"]
    small = abs(sum_of_weights(weights)) < NO_SUM or nearly_zero(weights)
    if values["normalize"] and small:
        raise RecipeError(
            f"{printable(where)}: the weights of linear sum to 0 or nearly so; set normalize: "
            "false for a sum"
        )


METHOD = Method(
    name="linear",
    title="Linear",
    source="Wortsman et al. 2022, arXiv 2203.05482",
    base="none",
    models=(1, None),
    parameters=(
        WEIGHT,
        Parameter("normalize", "bool", "divide by the sum of the weights", default=True),
    ),
    compute=compute,
    examine=_examine,
)
