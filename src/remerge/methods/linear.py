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


def sum_of_weights(weights: Sequence[float]) -> np.float32:
    """The sum of the weights as float32 numbers: exact, rounded to float64, then to float32."""
    return np.float32(math.fsum(float(np.float32(weight)) for weight in weights))


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if inputs.size:
        divisor = np.float32(1)
        if values["normalize"]:
            divisor = sum_of_weights(values["weight"])
        yield from weighted_sum(inputs, values["weight"], divisor=divisor)
    return {}


def _examine(values: Values, where: str) -> None:
    if values["normalize"] and abs(sum_of_weights(values["weight"])) < NO_SUM:
        raise RecipeError(
            f"{printable(where)}: the weights of linear sum to 0; set normalize: false for a sum"
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
