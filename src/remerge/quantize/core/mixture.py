"""Which tensors a mixture spends more bits on, by the rules of a format's row.

A mixture spends them where errors hurt most: on the value and down projections, and there often on
the first and last eighth of the layers and every third between.
"""

from __future__ import annotations

from dataclasses import dataclass

from remerge.quantize.core.format import Format, Layers

#: From so many query heads a key head on, a value projection is small enough for more bits.
_GROUPED = 4


@dataclass(frozen=True)
class Layout:
    """What of a model decides the types of its tensors.

    `tied` is a model without an output matrix of its own, `experts` the number of experts of a
    layer (0: it has none), `architecture` its name in GGUF, `values` the number of value
    projections where not every layer has one.
    """

    layers: int
    heads: int
    kv_heads: int
    tied: bool = False
    experts: int = 0
    architecture: str = "llama"
    values: int = 0


def is_among(rule: Layers, layer: int, layers: int, layout: Layout) -> bool:
    """Whether `layer` is one of the `layers` that `rule` is for."""
    if rule == "all":
        return True
    if rule == "grouped":
        return layout.heads // layout.kv_heads >= _GROUPED
    if rule == "spread":
        eighth = layers // 8
        return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    ends = {"first 2": 2, "first 4": 4, "first L/8": layers // 8, "first L/16": layers // 16}
    return layer < ends[rule]


def kind_of(part: str) -> str:
    """What a part counts as in a rule: fused projections as values, all experts as one."""
    if part in ("attn_qkv", "attn_kv_b"):
        return "attn_v"
    return "ffn_down" if part.startswith("ffn_down") else part


def type_by_rules(form: Format, part: str, layer: int, layout: Layout) -> str:
    """The type of a matrix of a layer by the rules of the format alone, whatever its columns.

    Value projections are counted where not every layer has one: `layer` is its number among them.
    """
    kind = kind_of(part)
    layers = layout.values if kind == "attn_v" and layout.values else layout.layers
    for rule in form.sensitive:
        if kind in rule.parts and is_among(rule.layers, layer, layers, layout):
            return rule.type
    return form.type
