"""NearSwap: the model where it lies within t of the base, ever less of it beyond.

w = min(t / |x − b|, 1),   y = rn(w·x + (1 − w)·b)

Source: alchemonaut 2024, QuartetAnemoi-70B.
"""

from __future__ import annotations

import numpy as np

from remerge.kernels.blocks import address
from remerge.kernels.nearswap import nearswap_chunk
from remerge.methods.method import Chunks, Inputs, Method, Parameter, Values
from remerge.methods.stream import in_chunks
from remerge.tensors.dtypes import KERNEL_CODE


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    assert inputs.base is not None
    base, model = inputs.base.raw, inputs.models[0].raw

    def run(begin: int, end: int, out: np.uint64) -> int:
        return nearswap_chunk(
            address(base.raw_u8),
            base.code,
            address(model.raw_u8),
            model.code,
            np.float32(values["t"]),
            begin,
            end,
            out,
            KERNEL_CODE[inputs.dtype],
            inputs.block,
        )

    yield from in_chunks(inputs, run)
    return {}


METHOD = Method(
    name="nearswap",
    title="NearSwap",
    source="alchemonaut 2024, QuartetAnemoi-70B",
    base="required",
    models=(1, 1),
    parameters=(
        Parameter("t", "float", "distance within which the model wins", required=True, low=0.0),
    ),
    compute=compute,
)
