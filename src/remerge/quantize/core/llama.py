"""A Llama model folder as every format sees it: its shape and its tensors in order.

>>> shape = read_shape(read_config(folder), str(folder))
>>> tensors = llama_tensors(open_checkpoint(folder), shape)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.quantize.core.tensor import ModelTensor
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.dtypes import KERNEL_CODE


@dataclass(frozen=True)
class LlamaShape:
    """The hyperparameters that a runtime has to know."""

    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context: int
    rope_base: float
    rope_factor: float
    rms_epsilon: float
    tied: bool


def positive_integer(config: Mapping[str, Any], key: str, where: str, default: Any = None) -> int:
    """Read a size of `config.json`; CheckpointError for anything but a positive integer."""
    value = config.get(key, default)
    if type(value) is not int or value <= 0:
        raise CheckpointError(
            f"{where}: config.json: {key} must be a positive integer, found {printable(value, 40)}"
        )
    return value


def positive_number(value: Any, key: str, where: str) -> float:
    """Check a number of `config.json`; CheckpointError for anything but a positive one."""
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise CheckpointError(
            f"{where}: config.json: {key} must be a positive number, found {printable(value, 40)}"
        )
    return float(value)


def rope_table(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Find the table of rope parameters, as transformers does; empty where there is none.

    Raises:
        CheckpointError: It is something else than a table.
    """
    for key in ("rope_scaling", "rope_parameters"):
        table = config.get(key)
        if table is not None and not isinstance(table, dict):
            raise CheckpointError(
                f"{where}: config.json: {key} is {printable(table, 40)}, not a table; write null "
                "for a rope that is not scaled"
            )
        if table:
            return table
    return {}


def _rope(config: dict[str, Any], where: str) -> tuple[float, float]:
    """Base frequency and linear scaling factor, from the old keys or from `rope_parameters`."""
    rope = rope_table(config, where)
    kind = rope.get("rope_type", rope.get("type", "default"))
    base = positive_number(
        rope.get("rope_theta", config.get("rope_theta", 10000.0)), "rope_theta", where
    )
    if kind == "default":
        return base, 1.0
    if kind == "linear":
        return base, positive_number(rope.get("factor"), "rope factor", where)
    raise CheckpointError(
        f"{where}: config.json: rope type {printable(kind, 40)!r} cannot be written; "
        "only default and linear can, and more in GGUF"
    )


def read_shape(config: dict[str, Any], where: str) -> LlamaShape:
    """The shape that a transformers `config.json` describes; CheckpointError if it is no Llama."""
    if config.get("model_type") != "llama":
        raise CheckpointError(
            f"{where}: config.json: model_type is {printable(config.get('model_type'), 40)!r}; "
            "only GGUF can be written for other architectures than llama"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(
            f"{where}: config.json: hidden_act is {printable(config['hidden_act'], 40)!r}; every "
            "runtime of these formats computes silu"
        )
    heads = positive_integer(config, "num_attention_heads", where)
    hidden = positive_integer(config, "hidden_size", where)
    base, factor = _rope(config, where)
    shape = LlamaShape(
        vocabulary=positive_integer(config, "vocab_size", where),
        hidden=hidden,
        feed_forward=positive_integer(config, "intermediate_size", where),
        layers=positive_integer(config, "num_hidden_layers", where),
        heads=heads,
        kv_heads=positive_integer(config, "num_key_value_heads", where, heads),
        head_size=positive_integer(config, "head_dim", where, hidden // heads)
        if config.get("head_dim") is not None
        else hidden // heads,
        context=positive_integer(config, "max_position_embeddings", where, 2048),
        rope_base=base,
        rope_factor=factor,
        rms_epsilon=positive_number(config.get("rms_norm_eps", 1e-6), "rms_norm_eps", where),
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    if shape.head_size <= 0 or shape.head_size % 2 or heads % shape.kv_heads:
        raise CheckpointError(
            f"{where}: config.json: {heads} heads, {shape.kv_heads} key/value heads of size "
            f"{shape.head_size} do not go together"
        )
    return shape


def _expected(shape: LlamaShape) -> list[tuple[str, str, int, tuple[int, ...], int]]:
    """(checkpoint name, part, layer, shape, rotated heads) in the order of the file."""
    hidden, wide = shape.hidden, shape.feed_forward
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    rows: list[tuple[str, str, int, tuple[int, ...], int]] = [
        ("model.embed_tokens.weight", "token_embd", -1, (shape.vocabulary, hidden), 0)
    ]
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        rows += [
            (at + "input_layernorm.weight", "attn_norm", layer, (hidden,), 0),
            (at + "self_attn.q_proj.weight", "attn_q", layer, (queries, hidden), shape.heads),
            (at + "self_attn.k_proj.weight", "attn_k", layer, (keys, hidden), shape.kv_heads),
            (at + "self_attn.v_proj.weight", "attn_v", layer, (keys, hidden), 0),
            (at + "self_attn.o_proj.weight", "attn_output", layer, (hidden, queries), 0),
            (at + "post_attention_layernorm.weight", "ffn_norm", layer, (hidden,), 0),
            (at + "mlp.gate_proj.weight", "ffn_gate", layer, (wide, hidden), 0),
            (at + "mlp.up_proj.weight", "ffn_up", layer, (wide, hidden), 0),
            (at + "mlp.down_proj.weight", "ffn_down", layer, (hidden, wide), 0),
        ]
    rows.append(("model.norm.weight", "output_norm", -1, (hidden,), 0))
    if not shape.tied:
        rows.append(("lm_head.weight", "output", -1, (shape.vocabulary, hidden), 0))
    return rows


def llama_tensors(checkpoint: Checkpoint, shape: LlamaShape) -> list[ModelTensor]:
    """All tensors in the order in which they are written.

    CheckpointError for a tensor that is missing, has another shape or type than `config.json`
    implies, or has no place in the file. Rotary buffers are not weights and are passed over.
    """
    left = dict(checkpoint.tensors)
    tensors = []
    for name, part, layer, wanted, heads in _expected(shape):
        info = left.pop(name, None)
        if info is None:
            raise CheckpointError(f"{checkpoint.folder}: tensor {name!r} is missing")
        if info.shape != wanted:
            raise CheckpointError(
                f"{info.path}: tensor {name!r} has shape {list(info.shape)}, "
                f"config.json implies {list(wanted)}"
            )
        if info.dtype not in KERNEL_CODE:
            raise CheckpointError(
                f"{info.path}: tensor {name!r} is {info.dtype}; "
                "only F16, BF16 and F32 weights can be quantized"
            )
        tensors.append(ModelTensor(part, layer, info, heads))
    if shape.tied:
        left.pop("lm_head.weight", None)
    strays = [name for name in left if not name.endswith("rotary_emb.inv_freq")]
    if strays:
        raise CheckpointError(
            f"{checkpoint.folder}: tensor {printable(strays[0])!r} has no place in a llama file"
        )
    return tensors
