"""Which ggml type each tensor of a GGUF file gets.

The rules are those of llama.cpp's quantizer (`llama_tensor_get_type` in `src/llama-quant.cpp`)
without an importance matrix: those of the format, and around them what holds for every format.
"""

from __future__ import annotations

from collections.abc import Sequence

from remerge.quantize.blocks.sizes import SIZES
from remerge.quantize.core.format import Format
from remerge.quantize.core.mixture import Layout, type_by_rules

#: What stands in for a type when the columns are no multiple of its 256.
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
#: The full-width types, which have no mixture.
_PLAIN = ("F16", "BF16", "F32")
#: Matrices that llama.cpp reads in float32 whatever the format: routers, learned positions.
_PRECISE = ("ffn_gate_inp", "position_embd")


def _wanted(part: str, layer: int, columns: int, form: Format, layout: Layout) -> str:
    """The type by the mixture alone, whatever the number of columns."""
    if form.type in _PLAIN:
        return form.type
    if part == "output" or (layout.tied and part == "token_embd"):
        if columns % SIZES[form.type].width or form.type == "Q8_0":
            return "Q8_0"
        return "Q6_K"
    name = type_by_rules(form, part, layer, layout)
    # Eighty layers with grouped queries: the value matrices are an eighth, one more bit is cheap.
    grouped_70b = layout.layers == 80 and layout.heads != layout.kv_heads
    if part == "attn_v" and grouped_70b and name == "Q4_K":
        return "Q5_K"
    return name


def choose_type(part: str, layer: int, shape: Sequence[int], form: Format, layout: Layout) -> str:
    """The type of a tensor: vectors stay F32, matrices follow the mixture and its fallbacks.

    `part` is its place in a layer (`attn_q`) or in the model (`output`, then `layer` is −1),
    `shape` its own, columns last.
    """
    if len(shape) < 2 or part in _PRECISE:
        return "F32"
    name = _wanted(part, layer, shape[-1], form, layout)
    if shape[-1] % SIZES[name].width:
        name = _FALLBACK.get(name, "F16")
        if shape[-1] % SIZES[name].width:
            name = "F16"
    return name
