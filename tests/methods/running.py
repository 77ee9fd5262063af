"""A merge method on whole arrays; without a test library, so that it runs under emulation too."""

from __future__ import annotations

from typing import Any

import numpy as np

from remerge.kernels.blocks import RawTensor
from remerge.methods.method import Input, Inputs
from remerge.methods.registry import METHODS
from tests.kernels.reference import CODES

#: A type and little-endian bytes.
Typed = tuple[str, np.ndarray]
NAME = "model.layers.3.mlp.up_proj.weight"


def inputs_of(family: dict, base: bool, block: int = 512, name: str = NAME) -> Inputs:
    def entry(label: str, tensor: Typed) -> Input:
        return Input(label, RawTensor(np.ascontiguousarray(tensor[1]), CODES[tensor[0]]))

    return Inputs(
        name,
        family["shape"],
        family["dtype"],
        entry("base", family["base"]) if base else None,
        tuple(entry(f"m{i}", tensor) for i, tensor in enumerate(family["models"])),
        block,
    )


def merged(method: str, inputs: Inputs, given: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The bytes and statistics of a method; NumericError as it raises it."""
    values = METHODS[method].resolve(given, len(inputs.models))
    chunks = METHODS[method].compute(inputs, values)
    data = b""
    while True:
        try:
            data += next(chunks).tobytes()
        except StopIteration as end:
            return data, end.value
