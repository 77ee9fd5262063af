"""The order of a model's tensors: that of its state dict, as data.

>>> state_dict_order({"model_type": "gpt2"}, ["h.0.ln_2.bias", "wte.weight", "h.0.ln_1.bias"])
(['wte.weight', 'h.0.ln_1.bias', 'h.0.ln_2.bias'], True)

The gradient merge counts tensors in this order, and our shards are written in it. It cannot be read
off a checkpoint: files are sorted by the alphabet, by size, or by whatever tool wrote them. It is
the order in which transformers registers modules, and the tests compare the two; nothing here loads
transformers, so no installed version decides a byte.

A line of an order is a module, or a tensor that is called neither `weight` nor `bias`, by its inner
name (see `remerge.architectures.names`). `#` stands for a number, `{a,b}` for a and then b. What a
module holds itself comes before its modules. Where a file stores experts singly that transformers
holds in one tensor, they stand in its place, expert by expert.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any

from remerge.architectures.names import inner_name

_QKVO = "self_attn.{q,k,v,o}_proj"
_QK_NORM = "self_attn.{q,k}_norm"
_GATE_UP_DOWN = "mlp.{gate,up,down}_proj"
_TWO_NORMS = "{input,post_attention}_layernorm"
_FOUR_NORMS = "{input,post_attention,pre_feedforward,post_feedforward}_layernorm"
#: Experts in one tensor, as transformers holds them, or singly, as files have them.
_EXPERTS = (
    "mlp.experts.{gate_up_proj,gate_up_proj_bias,down_proj,down_proj_bias}",
    "mlp.experts.#.{gate,up,down}_proj",
)


def _decoder(
    *layer: str,
    before: tuple[str, ...] = ("embed_tokens",),
    layers: str = "layers",
    after: tuple[str, ...] = ("norm",),
) -> tuple[str, ...]:
    """The lines of a decoder: embeddings, layers, norm, head."""
    return (*before, *(f"{layers}.#.{line}" for line in layer), *after, "lm_head")


_LLAMA = _decoder(_QKVO, _GATE_UP_DOWN, _TWO_NORMS)
_GPT2 = _decoder(
    "ln_1",
    "attn.{c_attn,c_proj}",
    "ln_2",
    "mlp.{c_fc,c_proj}",
    before=("wte", "wpe"),
    layers="h",
    after=("ln_f",),
)
_QWEN3 = (_QKVO, _QK_NORM)
_GEMMA3 = _decoder(_QKVO, _QK_NORM, _GATE_UP_DOWN, _FOUR_NORMS)
_SIGLIP = (
    "vision_tower.embeddings.{patch,position}_embedding",
    "vision_tower.encoder.layers.#.layer_norm1",
    "vision_tower.encoder.layers.#.self_attn.{k,v,q,out}_proj",
    "vision_tower.encoder.layers.#.layer_norm2",
    "vision_tower.encoder.layers.#.mlp.{fc1,fc2}",
    "vision_tower.post_layernorm",
    "vision_tower.head.probe",
    "vision_tower.head.attention.{in_proj_weight,in_proj_bias,out_proj}",
    "vision_tower.head.layernorm",
    "vision_tower.head.mlp.{fc1,fc2}",
)

#: Lines by the `model_type` of config.json.
_ORDERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "granite", "smollm3"), _LLAMA),
    "deepseek_v3": _decoder(
        "self_attn.{q_proj,q_a_proj,q_a_layernorm,q_b_proj}",
        "self_attn.{kv_a_proj_with_mqa,kv_a_layernorm,kv_b_proj,o_proj}",
        _GATE_UP_DOWN,
        *_EXPERTS,
        "mlp.gate",
        "mlp.gate.e_score_correction_bias",
        "mlp.shared_experts.{gate,up,down}_proj",
        _TWO_NORMS,
    ),
    "falcon": _decoder(
        "self_attention.{query_key_value,dense}",
        "mlp.{dense_h_to_4h,dense_4h_to_h}",
        "{post_attention_layernorm,ln_attn,ln_mlp,input_layernorm}",
        before=("word_embeddings",),
        layers="h",
        after=("ln_f",),
    ),
    "gemma2": _decoder(_QKVO, _GATE_UP_DOWN, _FOUR_NORMS),
    "gemma3": (
        *_SIGLIP,
        "multi_modal_projector.{mm_input_projection_weight,mm_soft_emb_norm}",
        *_GEMMA3,
    ),
    "gemma3_text": _GEMMA3,
    "glm4": _decoder(
        _QKVO,
        "mlp.{gate_up,down}_proj",
        "{input,post_attention,post_self_attn,post_mlp}_layernorm",
    ),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), _GPT2),
    "gpt_neo": _decoder(
        "ln_1",
        "attn.attention.{k,v,q,out}_proj",
        "ln_2",
        "mlp.{c_fc,c_proj}",
        before=("wte", "wpe"),
        layers="h",
        after=("ln_f",),
    ),
    "gpt_neox": _decoder(
        _TWO_NORMS,
        "attention.{query_key_value,dense}",
        "mlp.{dense_h_to_4h,dense_4h_to_h}",
        before=("embed_in",),
        after=("final_layer_norm",),
    ),
    "gpt_oss": _decoder("self_attn.sinks", _QKVO, "mlp.router", *_EXPERTS, _TWO_NORMS),
    "mixtral": _decoder(
        _QKVO,
        "mlp.gate",
        "mlp.experts.{gate_up,down}_proj",
        "mlp.experts.#.{gate,down,up}_proj",
        _TWO_NORMS,
    ),
    "olmo2": _decoder(
        _QKVO, _QK_NORM, _GATE_UP_DOWN, "{post_attention,post_feedforward}_layernorm"
    ),
    "phi3": _decoder("self_attn.{o,qkv}_proj", "mlp.{gate_up,down}_proj", _TWO_NORMS),
    "qwen3": _decoder(*_QWEN3, _GATE_UP_DOWN, _TWO_NORMS),
    "qwen3_moe": _decoder(*_QWEN3, _GATE_UP_DOWN, *_EXPERTS, "mlp.gate", _TWO_NORMS),
    "starcoder2": _decoder(_QKVO, "mlp.{c_fc,c_proj}", _TWO_NORMS),
}
_PARAMETERS = ("weight", "bias")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")

#: The place of a name among its siblings, module by module: (child, number).
_Place = tuple[tuple[int, int], ...]


class _Node:
    """A module of an order: its modules and tensors, in order."""

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.ends = False

    def add(self, parts: list[str]) -> None:
        node = self
        for part in parts:
            node = node.children.setdefault(part, _Node())
        node.ends = True

    def place(self, parts: list[str]) -> _Place | None:
        """The place of the tensor `parts` below this module; None if it is not one of the order."""
        if not parts:
            return () if self.ends else None
        if self.ends and len(parts) == 1 and parts[0] in _PARAMETERS:
            return ((_PARAMETERS.index(parts[0]) - len(_PARAMETERS), 0),)
        part, number = parts[0], 0
        if _NUMBER.fullmatch(part) and "#" in self.children:
            part, number = "#", int(part)
        if part not in self.children:
            return None
        rest = self.children[part].place(parts[1:])
        return rest if rest is None else ((list(self.children).index(part), number), *rest)


def _expanded(line: str) -> Iterator[list[str]]:
    """The lines that one with `{a,b}` stands for, split at the points."""
    pieces = re.split(r"\{([^}]*)\}", line)
    choices = [piece.split(",") if i % 2 else [piece] for i, piece in enumerate(pieces)]
    for chosen in product(*choices):
        yield "".join(chosen).split(".")


@cache
def _order_of(model_type: str) -> _Node:
    root = _Node()
    for line in _ORDERS[model_type]:
        for parts in _expanded(line):
            root.add(parts)
    return root


def state_dict_order(config: Mapping[str, Any], names: Iterable[str]) -> tuple[list[str], bool]:
    """Sort tensors into state-dict order.

    Args:
        config: The model's `config.json`; may be empty.
        names: Names of the tensors, without buffers.

    Returns:
        The names in order, and whether the order of all is known. Names of which it is not known
        follow at the end, by number and word: an order that depends on the names alone.
    """
    model_type = config.get("model_type")
    root = _order_of(model_type) if isinstance(model_type, str) and model_type in _ORDERS else None
    places: dict[_Place, str] = {}
    rest = []
    for name in sorted(set(names), key=_natural):
        place = root.place(inner_name(name).split(".")) if root else None
        if place is None or place in places:
            rest.append(name)
        else:
            places[place] = name
    return [places[place] for place in sorted(places)] + rest, not rest


def _natural(name: str) -> list[tuple[int, str]]:
    # A number is compared by its length, then its digits: it may have thousands.
    parts = re.split(r"([0-9]+)", name)
    numbers = [part.lstrip("0") if i % 2 else "" for i, part in enumerate(parts)]
    return [(len(numbers[i]), numbers[i]) if i % 2 else (-1, p) for i, p in enumerate(parts)]
