"""Passthrough: one model as it is, or times a scale.

    y = rn(x),   y = rn(x·f32(scale))

Source: mergekit, as the method by which layers of several models are stacked.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from remerge.arithmetic.combine import scale_chunk
from remerge.methods.method import Chunks, Inputs, Method, Parameter, Values
from remerge.methods.stream import in_chunks


def copied(inputs: Inputs, scale: float | None = None) -> Iterator[np.ndarray]:
    """Yield the bytes of the first model in the output type, times `scale` where there is one."""
    model = inputs.models[0].raw.record
    factor = np.float32(1 if scale is None else scale)

    def run(part: np.void) -> int:
        return scale_chunk(model, scale is not None, factor, part)

    yield from in_chunks(inputs, run)


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Copy or scale one tensor."""
    yield from copied(inputs, values["scale"][0])
    return {}


METHOD = Method(
    name="passthrough",
    title="Passthrough",
    source="mergekit",
    base="none",
    models=(1, 1),
    parameters=(Parameter("scale", "float", "factor of the tensor", scope="model"),),
    compute=compute,
)
