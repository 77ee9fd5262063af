"""Model Stock: between the base and the mean of models, as far as their task vectors agree.

    t = N·C / (1 + (N − 1)·C),   C the mean cosine between task vectors
    y = rn(t·mean(x) + (1 − t)·b)

Source: Jang et al. 2024, "Model Stock" (arXiv 2403.19522).
"""

from __future__ import annotations

import numpy as np

from remerge.arithmetic.stock import interpolation_shares, stock_chunk
from remerge.arithmetic.sums import row_sums
from remerge.kernels.blocks import records
from remerge.methods.method import FLOOR, Chunks, Inputs, Method, Parameter, Values
from remerge.methods.slerp import significant
from remerge.methods.stream import bad_number, in_chunks, spans


def _shares(inputs: Inputs, width: int, floor: float) -> np.ndarray:
    """The share t of the mean, of each vector of `width`: float64 [vectors]."""
    assert inputs.base is not None
    models = [model.raw for model in inputs.models]
    parts = []
    whole = [(0, inputs.size)] if width == inputs.size else spans(inputs.size, width)
    for begin, end in whole:
        sums = row_sums(inputs.base.raw, models, begin, end, width)
        if sums is None:
            raise bad_number(inputs)
        shares = np.empty(len(sums), np.float64)
        interpolation_shares(sums, len(models), floor, shares)
        parts.append(shares)
    return np.concatenate(parts)


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    if not inputs.size:
        return {}
    assert inputs.base is not None
    base = inputs.base.raw.record
    models = records([model.raw for model in inputs.models])
    width = inputs.row if values["filter_wise"] else inputs.size
    found = _shares(inputs, width, values["floor"])
    shares = np.stack([found, 1.0 - found], axis=1).astype(np.float32)
    yield from in_chunks(inputs, lambda part: stock_chunk(base, models, shares, width, part))
    if values["filter_wise"]:
        return {"t": [significant(float(found.min())), significant(float(found.max()))]}
    return {"t": significant(float(found[0]))}


METHOD = Method(
    name="model_stock",
    title="Model Stock",
    source="Jang et al. 2024, arXiv 2403.19522",
    base="required",
    models=(2, None),
    parameters=(
        Parameter("filter_wise", "bool", "one t a row, not one a tensor", default=False),
        FLOOR,
    ),
    compute=compute,
)
