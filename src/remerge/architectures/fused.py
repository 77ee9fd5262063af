"""Tensors that some files store whole and others in parts, as data.

>>> fused_with("layers.0.self_attn.k_proj.weight", {})[0].name
'layers.0.self_attn.qkv_proj.weight'

Phi-3 stores query, key and value as one matrix, one above the other; transformers 5 holds all
experts of a layer in two tensors and saves them singly. The parts are copies of ranges of the
whole, so either way of storing is the other to the bit. Names are inner names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_QKV = tuple(f"self_attn.{name}_proj" for name in "qkv")
#: Modules whose parameters are those of the others, one above the other.
_ROWS = (
    ("self_attn.qkv_proj", _QKV),  # Phi-3
    ("self_attn.W_pack", _QKV),  # Baichuan
    ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),  # Phi-3, GLM-4
)
#: Tensors [experts, rows, columns] of which each expert has the rows of these, one above the other.
_EXPERTS = (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",)))
#: Architectures whose tensors of all experts are transposed, or have their rows interleaved.
OTHER_EXPERTS = frozenset({"gpt_oss", "openai_privacy_filter", "llama4", "llama4_text"})
_IN_EXPERTS = re.compile(r"(.*\.experts)\.(?:(0|[1-9][0-9]{0,8})\.)?(\w+?)(?:\.weight)?")


@dataclass(frozen=True)
class Fused:
    """A tensor and its parts, in the order in which their bytes follow one another.

    Attributes:
        name: The whole.
        parts: Its parts.
        stacked: How many experts the first axis of the whole counts; None: rows are rows.
    """

    name: str
    parts: tuple[str, ...]
    stacked: int | None = None


def count_experts(names: Iterable[str]) -> dict[str, int]:
    """Return how many experts stored singly each module of experts has, numbered from 0."""
    numbers = defaultdict[str, set[int]](set)
    for name in names:
        match = _IN_EXPERTS.fullmatch(name)
        if match and match[2]:
            numbers[match[1]].add(int(match[2]))
    return {place: len(found) for place, found in numbers.items() if max(found) < len(found)}


def fused_with(name: str, experts: Mapping[str, int]) -> list[Fused]:
    """Return the tensors that one may be: a whole of parts, or a part of a whole.

    Args:
        name: Inner name of a tensor.
        experts: Numbers of experts by module, as `count_experts` gives them.
    """
    found = []
    for whole, parts in _ROWS:
        for module in (whole, *parts):
            head, middle, kind = name.rpartition(f".{module}.")
            if middle and kind in ("weight", "bias"):
                named = tuple(f"{head}.{part}.{kind}" for part in parts)
                found.append(Fused(f"{head}.{whole}.{kind}", named))
    match = _IN_EXPERTS.fullmatch(name)
    if match and match[1] in experts:
        place, count = match[1], experts[match[1]]
        for whole, parts in _EXPERTS:
            if match[3] in (whole, *parts):
                named = tuple(f"{place}.{n}.{part}.weight" for n in range(count) for part in parts)
                found.append(Fused(f"{place}.{whole}", named, count))
    return found
