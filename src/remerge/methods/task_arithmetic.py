"""Task arithmetic: the base plus the weighted sum of task vectors.

    y = rn(b + λ·Σ w_i·(x_i − b))

Source: Ilharco et al. 2022, "Editing models with task arithmetic" (arXiv 2212.04089).
"""

from __future__ import annotations

from remerge.methods.method import Chunks, Inputs, Method, Values
from remerge.methods.task_vectors import (
    COMMON,
    Kept,
    add_task_vectors,
    normalize_parameters,
    require_divisor,
)


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if inputs.size:
        yield from add_task_vectors(inputs, values, Kept())
    return {}


METHOD = Method(
    name="task_arithmetic",
    title="Task arithmetic",
    source="Ilharco et al. 2022, arXiv 2212.04089",
    base="required",
    models=(1, None),
    parameters=(*COMMON, *normalize_parameters(False)),
    compute=compute,
    examine=require_divisor,
)
