"""DELLA: drop entries of task vectors at random, small ones more often, within each row.

    p = (density − ε) + 2·u·ε,   u from 0 for the smallest entry of a row to 1 for the largest
    kept with probability p;   δ̂ = δ·f32(1/p), or matched to the L1 norm of δ

Source: Deep et al. 2024, "DELLA-Merging" (arXiv 2406.11617).
"""

from __future__ import annotations

import numpy as np

from remerge.arithmetic.philox import draw_key
from remerge.arithmetic.ranks import DRAW, della_table
from remerge.arithmetic.task_vectors import KEEP_TABLE
from remerge.errors import RecipeError, printable
from remerge.kernels.blocks import OK
from remerge.methods.method import Inputs, Method, Parameter, Values
from remerge.methods.task_vectors import (
    COMMON,
    ELECT,
    RESCALE_NORM,
    SEED,
    Kept,
    asks_for_l1,
    density_parameter,
    normalize_parameters,
    require_divisor,
    rescale_parameter,
    thinning,
)


def kept_by_probability(inputs: Inputs, values: Values) -> Kept:
    """A table of factors by donor, filled from the ranks within rows."""
    assert inputs.base is not None
    base, donors = inputs.base.raw.record, [donor.raw.record for donor in inputs.models]
    by_probability = values["rescale"] and values["rescale_norm"] == "density"
    draws = np.array(
        [
            (density, epsilon, draw_key(values["seed"], i, inputs.name), by_probability)
            for i, (density, epsilon) in enumerate(
                zip(values["density"], values["epsilon"], strict=True)
            )
        ],
        DRAW,
    )

    def fill(i: int, begin: int, end: int, table: np.ndarray) -> int:
        if values["density"][i] == 1.0:
            table[: end - begin] = 1
            return OK
        return della_table(base, donors[i], begin, end, inputs.row, draws[i], table)

    return Kept(KEEP_TABLE, fill_table=fill)


_add, _add_agreeing = thinning(kept_by_probability, asks_for_l1)


def _examine(values: Values, where: str) -> None:
    require_divisor(values, where)
    for density, epsilon in zip(values["density"], values["epsilon"], strict=True):
        if density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            raise RecipeError(
                f"{printable(where)}: density {density:g} ± epsilon {epsilon:g} leaves (0, 1); "
                "choose a smaller epsilon"
            )


_PARAMETERS = (
    *COMMON,
    density_parameter(zero=False),
    Parameter(
        "epsilon",
        "float",
        "how far the probability goes from the density, either way",
        default=0.15,
        low=0.0,
        high=0.5,
        scope="model",
    ),
    rescale_parameter(True),
    RESCALE_NORM,
    SEED,
)
DELLA = Method(
    name="della",
    title="DELLA",
    source="Deep et al. 2024, arXiv 2406.11617",
    base="required",
    models=(1, None),
    parameters=(*_PARAMETERS, *normalize_parameters(True), ELECT),
    compute=_add_agreeing,
    examine=_examine,
)
DELLA_LINEAR = Method(
    name="della_linear",
    title="DELLA without consensus",
    source="Deep et al. 2024, arXiv 2406.11617",
    base="required",
    models=(1, None),
    parameters=(*_PARAMETERS, *normalize_parameters(False)),
    compute=_add,
    examine=_examine,
)
