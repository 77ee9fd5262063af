"""TIES as an entry of the merge table, with mergekit's names of parameters.

The kernels and diagnostics are those of `remerge ties`. With `rescale`, or divided by weights of
which some are negative, the steps are those of the methods on task vectors; the trim is the same.
Source: Yadav et al. 2023 (arXiv 2306.01708).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from remerge.arithmetic.task_vectors import KEEP_WINDOW
from remerge.errors import RecipeError
from remerge.kernels.blocks import DEFAULT_BLOCK, records
from remerge.methods.method import Chunks, Inputs, Method, Values
from remerge.methods.stream import bad_number, in_chunks
from remerge.methods.task_vectors import (
    COMMON,
    ELECT,
    ELECTIONS,
    Kept,
    add_task_vectors,
    density_parameter,
    normalize_parameters,
    require_divisor,
    rescale_parameter,
)
from remerge.methods.ties_kernel import LANES, donor_records, merge_chunk, rule_record
from remerge.methods.trim import KEEP_NOTHING, Trim, find_trims


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if not inputs.size:
        return {}
    assert inputs.base is not None
    base, donors = inputs.base.raw, [donor.raw for donor in inputs.models]
    keeps = [math.floor(density * inputs.size) for density in values["density"]]
    trims = find_trims(base, donors, inputs.size, keeps)
    if trims is None:
        raise bad_number(inputs)
    signed = values["divide_by"] == "weights" and min(values["weight"]) < 0
    if values["rescale"] or signed:
        none = Trim(KEEP_NOTHING.threshold, -1)
        kept = Kept(KEEP_WINDOW, trims=tuple((t, none) for t in trims), counts=tuple(keeps))
        consensus = ELECTIONS[values["elect"]]
        return (yield from add_task_vectors(inputs, values, kept, consensus, values["rescale"]))
    yield from _ties(inputs, values, trims)
    return {"kept": keeps}


def _ties(inputs: Inputs, values: Values, trims: list[Trim]) -> Chunks:
    assert inputs.base is not None
    base, models = inputs.base.raw.record, records([donor.raw for donor in inputs.models])
    count = len(models)
    gram, projections = np.zeros((count * count, LANES)), np.zeros((count, LANES))
    counts = np.zeros(3 + count, np.int64)
    donors = donor_records(trims, values["weight"])
    rule = rule_record(values["lambda"], values["normalize"], values["elect"], inputs.size)

    def run(part: np.void) -> int:
        return merge_chunk(base, models, donors, rule, part, gram, projections, counts)

    # The kernel takes blocks that divide the run of its diagnostics.
    yield from in_chunks(replace(inputs, block=DEFAULT_BLOCK), run)
    return {}


def _examine(values: Values, where: str) -> None:
    weights = values["weight"]
    if weights and all(np.float32(weight) == 0 for weight in weights):
        raise RecipeError(f"{where}: the weights of all models are 0")
    require_divisor(values, where)


METHOD = Method(
    name="ties",
    title="TIES",
    source="Yadav et al. 2023, arXiv 2306.01708",
    base="required",
    models=(1, None),
    parameters=(
        *COMMON,
        density_parameter(zero=False),
        *normalize_parameters(True),
        rescale_parameter(False),
        ELECT,
    ),
    compute=compute,
    examine=_examine,
)
