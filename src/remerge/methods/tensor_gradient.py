"""The blend of the gradient merge of 2023 as an entry of the merge table.

    y = rn((1 − r)·x_1 + r·x_2);   r = 0 and r = 1 copy

Source: the BlockMerge_Gradient script of 2023. Which tensor has which ratio is resolved before.
"""

from __future__ import annotations

import numpy as np

from remerge.kernels.blocks import address
from remerge.methods.gradient_kernel import blend_chunk
from remerge.methods.method import Chunks, Inputs, Method, Parameter, Values
from remerge.methods.stream import in_chunks
from remerge.tensors.dtypes import KERNEL_CODE


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Blend one tensor."""
    first, second = (model.raw for model in inputs.models)

    def run(begin: int, end: int, out: np.uint64) -> int:
        return blend_chunk(
            address(first.raw_u8),
            first.code,
            address(second.raw_u8),
            second.code,
            values["ratio"],
            begin,
            end,
            out,
            KERNEL_CODE[inputs.dtype],
            inputs.block,
        )

    yield from in_chunks(inputs, run)
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
