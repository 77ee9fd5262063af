"""Which ggml type each tensor of a legacy file gets.

The rules are those of llama.cpp's quantizer of August 2023 (`llama.cpp` at commit `dadbed9`), but
that the output matrix of a format of 32-weight blocks is of the format's type.
"""

from __future__ import annotations

from collections.abc import Sequence

from remerge.quantize.blocks.sizes import SIZES
from remerge.quantize.core.format import Format
from remerge.quantize.core.mixture import Layout, type_by_rules


def choose_type(part: str, layer: int, shape: Sequence[int], form: Format, layout: Layout) -> str:
    """The type of a tensor: vectors stay F32; `shape` is the tensor's own, columns last."""
    if len(shape) < 2:
        return "F32"
    width = SIZES[form.type].width
    if width == 256 and layer < 0:
        if any(size % width for size in shape):
            return "F16" if part == "output" else "Q4_0"
        return "Q6_K" if part == "output" else form.type
    return type_by_rules(form, part, layer, layout)
