"""Which ggml type each tensor of a GGUF file gets.

The rules are those of llama.cpp's quantizer (`src/llama-quant.cpp` of v0.5.0) without an importance
matrix: those of the format, and around them what holds for every format.
"""

from __future__ import annotations

from collections.abc import Sequence

from remerge.errors import CheckpointError
from remerge.quantize.blocks.sizes import SIZES
from remerge.quantize.core.format import Format
from remerge.quantize.core.mixture import Layout, kind_of, type_by_rules

#: What stands in for a type when the columns are no multiple of its 256.
_FALLBACK = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}
#: The full-width types, which have no mixture.
_PLAIN = ("F16", "BF16", "F32")
_EMBEDDINGS = ("token_embd", "per_layer_token_embd")
#: Beginnings, or parts, of names of matrices that stay as they are: small, or more than weights.
_KEPT = (
    "_norm",
    "ffn_gate_inp",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "position_embd",
    "token_types",
    "ssm_conv1d",
    "shortconv.conv",
    "time_mix_first",
    "time_mix_w0",
    "time_mix_w1",
    "time_mix_w2",
    "time_mix_v0",
    "time_mix_v1",
    "time_mix_v2",
    "time_mix_a0",
    "time_mix_a1",
    "time_mix_a2",
    "time_mix_g1",
    "time_mix_g2",
    "time_mix_decay_w1",
    "time_mix_decay_w2",
    "time_mix_lerp_fused",
    "attn_rel_b",
)
#: File types that give the output projection more bits in a model of eight experts.
_EIGHT_EXPERTS = (10, 11, 12, 14, 15, 25, 30)


#: Architectures whose model of eighty layers llama.cpp takes for one of seventy billion weights.
_SEVENTY = ("qwen2",)


def _has_70b_values(layout: Layout) -> bool:
    """Whether the value projections are an eighth of the others, so that one more bit is cheap."""
    grouped = layout.architecture == "llama" and layout.heads != layout.kv_heads
    return layout.layers == 80 and (grouped or layout.architecture in _SEVENTY)


def _wanted(part: str, layer: int, columns: int, form: Format, layout: Layout) -> str:
    """The type by the mixture alone, whatever the number of columns."""
    if form.type in _PLAIN:
        return form.type
    if part == "output" or (layout.tied and part in _EMBEDDINGS):
        if (
            layout.architecture == "falcon"
            or columns % SIZES[form.type].width
            or form.type == "Q8_0"
        ):
            return "Q8_0"
        return "Q6_K"
    if layout.architecture == "falcon" and form.sensitive:
        raise CheckpointError(
            f"{form.name} of falcon has rules of its own, which are not known here; take a format "
            "of one type: gguf_q6_k, gguf_q5_k_s, gguf_q4_0"
        )
    name, kind = type_by_rules(form, part, layer, layout), kind_of(part)
    if layout.experts == 8 and kind in ("attn_v", "attn_k"):
        return "Q8_0"
    if layout.experts == 8 and kind == "attn_output":
        return "Q5_K" if form.file_type in _EIGHT_EXPERTS else form.type
    if kind == "attn_v" and _has_70b_values(layout) and name in ("Q3_K", "Q4_K"):
        return "Q5_K"
    return name


def choose_type(
    part: str, layer: int, shape: Sequence[int], form: Format, layout: Layout
) -> str | None:
    """The type of a tensor by the mixture and its fallbacks; None for one that keeps its type.

    `part` is its place in a layer (`attn_q`) or in the model (`output`, then `layer` is −1),
    `shape` its own, columns last. Vectors keep their type, and matrices that are small or no
    weights of a product.
    """
    if len(shape) < 2 or any(kept in part for kept in _KEPT):
        return None
    name = _wanted(part, layer, shape[-1], form, layout)
    if shape[-1] % SIZES[name].width:
        name = _FALLBACK.get(name, "F16")
        if shape[-1] % SIZES[name].width:
            name = "F16"
    return name
