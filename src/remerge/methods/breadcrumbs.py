"""Model Breadcrumbs: drop the smallest and the largest entries of each task vector.

    k = floor(density·n),   g = min(floor(γ·n), n − k)
    kept are the entries at positions g … g + k − 1 in descending order of |δ|

Source: Davari and Belilovsky 2023, "Model Breadcrumbs" (arXiv 2312.06795).
"""

from __future__ import annotations

import math

from remerge.arithmetic.task_vectors import KEEP_WINDOW
from remerge.methods.method import Inputs, Method, Parameter, Values
from remerge.methods.stream import bad_number
from remerge.methods.task_vectors import (
    COMMON,
    ELECT,
    Kept,
    density_parameter,
    normalize_parameters,
    require_divisor,
    rescale_parameter,
    thinning,
)
from remerge.methods.trim import find_trims


def window(density: float, gamma: float, size: int) -> tuple[int, int]:
    """How many of the largest entries are dropped, and how many of the next are kept."""
    count = math.floor(density * size)
    return min(math.floor(gamma * size), size - count), count


def kept_by_rank(inputs: Inputs, values: Values) -> Kept:
    """The window of each donor, from two trims."""
    assert inputs.base is not None
    windows = [
        window(density, gamma, inputs.size)
        for density, gamma in zip(values["density"], values["gamma"], strict=True)
    ]
    donors = [donor.raw for donor in inputs.models]
    keeps = [top + count for top, count in windows] + [top for top, _ in windows]
    trims = find_trims(inputs.base.raw, donors * 2, inputs.size, keeps)
    if trims is None:
        raise bad_number(inputs)
    m = len(donors)
    return Kept(
        KEEP_WINDOW,
        trims=tuple((trims[i], trims[m + i]) for i in range(m)),
        counts=tuple(count for _, count in windows),
    )


_add, _add_agreeing = thinning(kept_by_rank, lambda values: bool(values["rescale"]))
_PARAMETERS = (
    *COMMON,
    density_parameter(),
    Parameter(
        "gamma",
        "float",
        "share of the largest entries to drop",
        default=0.01,
        low=0.0,
        high=1.0,
        scope="model",
    ),
    *normalize_parameters(False),
    rescale_parameter(False),
)
BREADCRUMBS = Method(
    name="breadcrumbs",
    title="Model Breadcrumbs",
    source="Davari and Belilovsky 2023, arXiv 2312.06795",
    base="required",
    models=(1, None),
    parameters=_PARAMETERS,
    compute=_add,
    examine=require_divisor,
)
BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    title="Model Breadcrumbs with TIES",
    source="Davari and Belilovsky 2023, arXiv 2312.06795",
    base="required",
    models=(1, None),
    parameters=(*_PARAMETERS, ELECT),
    compute=_add_agreeing,
    examine=require_divisor,
)
