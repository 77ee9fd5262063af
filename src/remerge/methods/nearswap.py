"""NearSwap: the model where it lies within t of the base, ever less of it beyond.

w = min(t / |x − b|, 1),   y = rn(w·x + (1 − w)·b)

Source: alchemonaut 2024, QuartetAnemoi-70B.
"""

from __future__ import annotations

import numpy as np

from remerge.arithmetic.nearswap import nearswap_chunk
from remerge.methods.method import Chunks, Inputs, Method, Parameter, Values
from remerge.methods.stream import in_chunks


def compute(inputs: Inputs, values: Values) -> Chunks:
    """Merge one tensor."""
    assert inputs.base is not None
    base, model = inputs.base.raw.record, inputs.models[0].raw.record
    t = np.float32(values["t"])
    yield from in_chunks(inputs, lambda part: nearswap_chunk(base, model, t, part))
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
