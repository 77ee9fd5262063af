"""DARE: drop entries of task vectors at random, rescale the rest; added up, or with TIES' signs.

    kept with probability density;   δ̂ = δ·f32(1/density), or matched to the L1 norm of δ

Source: Yu et al. 2023, "Language models are super Mario" (arXiv 2311.03099). The draws are those of
`remerge.arithmetic.philox`: a function of seed, tensor, donor and index.
"""

from __future__ import annotations

import math

from remerge.arithmetic.philox import ALL, draw_key
from remerge.arithmetic.task_vectors import KEEP_RANDOM
from remerge.methods.method import Inputs, Method, Values
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


def kept_at_random(inputs: Inputs, values: Values) -> Kept:
    """Each entry of a donor with the donor's density as its probability."""
    densities = values["density"]
    by_density = values["rescale"] and values["rescale_norm"] == "density"
    return Kept(
        KEEP_RANDOM,
        keys=tuple(draw_key(values["seed"], i, inputs.name) for i in range(len(densities))),
        draw_limits=tuple(math.floor(density * ALL) for density in densities),
        factors=tuple(1.0 / d if by_density and 0.0 < d < 1.0 else None for d in densities),
    )


_add, _add_agreeing = thinning(kept_at_random, asks_for_l1)
_PARAMETERS = (
    *COMMON,
    density_parameter(),
    *normalize_parameters(False),
    rescale_parameter(True),
    RESCALE_NORM,
    SEED,
)
DARE_LINEAR = Method(
    name="dare_linear",
    title="DARE",
    source="Yu et al. 2023, arXiv 2311.03099",
    base="required",
    models=(1, None),
    parameters=_PARAMETERS,
    compute=_add,
    examine=require_divisor,
)
DARE_TIES = Method(
    name="dare_ties",
    title="DARE with TIES",
    source="Yu et al. 2023, arXiv 2311.03099",
    base="required",
    models=(1, None),
    parameters=(*_PARAMETERS, ELECT),
    compute=_add_agreeing,
    examine=require_divisor,
)
