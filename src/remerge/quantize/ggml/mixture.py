"""Which ggml type each tensor of a legacy file gets."""

from __future__ import annotations

from collections.abc import Sequence

from remerge.quantize.core.format import Format
from remerge.quantize.core.mixture import Layout, type_by_rules


def choose_type(part: str, layer: int, shape: Sequence[int], form: Format, layout: Layout) -> str:
    """The type of a tensor: vectors stay F32; `shape` is the tensor's own, columns last."""
    return "F32" if len(shape) < 2 else type_by_rules(form, part, layer, layout)
