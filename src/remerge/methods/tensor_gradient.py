"""The blend of the gradient merge of 2023 as an entry of the merge table.

    y = rn((1 − r)·x_1 + r·x_2);   r = 0 and r = 1 copy

Source: the BlockMerge_Gradient script of 2023. Which tensor has which ratio is resolved before.
"""

from __future__ import annotations

from remerge.methods.gradient_kernel import blend_chunk
from remerge.methods.method import Chunks, Inputs, Method, Parameter, Values
from remerge.methods.stream import in_chunks


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Blend one tensor."""
    first, second = (model.raw.record for model in inputs.models)
    ratio = values["ratio"]
    yield from in_chunks(inputs, lambda part: blend_chunk(first, second, ratio, part))
    return {"ratio": values["ratio"]}


METHOD = Method(
    name="gradient",
    title="Gradient merge",
    source="BlockMerge_Gradient, 2023",
    base="none",
    models=(2, 2),
    parameters=(
        Parameter("ratio", "float", "share of the second model", required=True, low=0.0, high=1.0),
    ),
    compute=compute,
)
