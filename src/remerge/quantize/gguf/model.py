"""What a GGUF file says of a model, tokenizer apart: keys in their order, and tensors.

>>> model = read_model(config, open_checkpoint(folder))
>>> model.architecture, model.tensors[1].part
('qwen2', 'attn_norm')

The row of the model's architecture says what there is; names of tensors come from the map of the
`gguf` package. Where llama.cpp agrees with transformers only up to some context, the file ends
there and the manifest says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, RopeScalingType, get_tensor_name_map

from remerge.errors import CheckpointError, printable
from remerge.quantize.core.llama import positive_integer, positive_number, rope_table
from remerge.quantize.core.mixture import Layout
from remerge.quantize.core.tensor import ModelTensor
from remerge.quantize.gguf.architectures import ARCHITECTURES, Architecture, Entry, Module, Sizes
from remerge.quantize.gguf.rope import Rope, read_rope
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.dtypes import KERNEL_CODE
from remerge.tensors.safetensors import TensorInfo

_SCALINGS = {
    "linear": RopeScalingType.LINEAR,
    "yarn": RopeScalingType.YARN,
    "longrope": RopeScalingType.LONGROPE,
}

#: What every architecture calls its output matrix.
_HEAD = "lm_head"
#: Those whose `epsilon` is that of a layer norm, without rope or with biases.
_LAYER_NORM = ("norm_epsilon", "layer_norm_epsilon")
#: Architectures of which llama.cpp reads no size of a head.
_EVEN_HEADS = (
    MODEL_ARCH.GPT2,
    MODEL_ARCH.OLMO2,
    MODEL_ARCH.PHI3,
    MODEL_ARCH.QWEN2,
    MODEL_ARCH.STARCODER2,
)


@dataclass(frozen=True)
class Model:
    """What a GGUF file says of a model, tokenizer apart; `entries` in the order of the file."""

    architecture: str
    vocabulary: int
    entries: tuple[Entry, ...]
    tensors: tuple[ModelTensor, ...]
    layout: Layout
    notes: tuple[str, ...]


def architecture_of(config: Mapping[str, Any], where: str) -> Architecture:
    """Find the row of a model; CheckpointError, which names the known ones, if there is none."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{where}: config.json: model_type is {printable(model_type, 40)!r}; GGUF can be "
            f"written for {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[model_type]


def _read_sizes(config: Mapping[str, Any], row: Architecture, where: str) -> Sizes:
    named = {key: config.get(name) for key, name in row.keys.items()}
    # null stands for the default, as in transformers
    values = {key: value for key, value in {**config, **named}.items() if value is not None}

    def number(key: str, default: int | None = None) -> int:
        return positive_integer(values, key, where, default)

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    experts = values.get("num_local_experts", values.get("num_experts", 0))
    has_experts = any("{}" in module.name for module in row.modules)
    sizes = Sizes(
        number("vocab_size"),
        hidden,
        number("intermediate_size", 4 * hidden if "intermediate_size" in row.keys else None),
        number("num_hidden_layers"),
        heads,
        number("num_key_value_heads", heads),
        number("head_dim", hidden // heads),
        number("max_position_embeddings", 2048),
        positive_number(values.get(row.epsilon, 1e-6), row.epsilon, where),
        positive_integer({"experts": experts}, "experts", where) if has_experts else 0,
        number("moe_intermediate_size", 1),
        bool(values.get("tie_word_embeddings", False)),
    )
    if sizes.head_size % 2 or heads % sizes.kv_heads:
        raise CheckpointError(
            f"{where}: config.json: {heads} heads, {sizes.kv_heads} key/value heads of size "
            f"{sizes.head_size} do not go together"
        )
    if row.arch in _EVEN_HEADS and sizes.head_size * heads != hidden:
        raise CheckpointError(
            f"{where}: config.json: head_dim is {sizes.head_size}; llama.cpp takes hidden_size "
            f"over the number of heads, {hidden // heads}, for this architecture"
        )
    return sizes


def read_model(config: Mapping[str, Any], checkpoint: Checkpoint) -> Model:
    """Describe a model for a GGUF file.

    Args:
        config: Its `config.json`.
        checkpoint: Its tensors.

    Returns:
        Keys and tensors of the file.

    Raises:
        CheckpointError: The architecture is unknown, llama.cpp computes something else than the
            configuration asks for, or the tensors are not those that it implies.
    """
    where = str(checkpoint.folder)
    row = architecture_of(config, where)
    config = {**row.defaults, **config}
    key, activation = row.activation
    given = config.get(key, config.get("hidden_act", activation))
    if given != activation:
        raise CheckpointError(
            f"{where}: config.json: {key} is {printable(given, 40)!r}; llama.cpp computes "
            f"{activation} for this architecture"
        )
    for key, value in row.fixed.items():
        if config.get(key) != value:
            raise CheckpointError(
                f"{where}: config.json: {key} is {printable(config.get(key), 40)}; llama.cpp knows "
                f"only {json.dumps(value)} for this architecture"
            )
    sizes = _read_sizes(config, row, where)
    entries, rope, notes = _entries(config, row, sizes, where)
    rest = dict(checkpoint.tensors)
    tensors = [*_factor_tensors(rope, checkpoint.folder)]
    tensors += _tensors(row, sizes, config, rest, checkpoint)
    _refuse_strays(row, sizes, rest, checkpoint)
    layout = Layout(
        sizes.layers,
        sizes.heads,
        sizes.kv_heads,
        sizes.tied,
        sizes.experts,
        MODEL_ARCH_NAMES[row.arch],
    )
    return Model(
        MODEL_ARCH_NAMES[row.arch], sizes.vocabulary, entries, tuple(tensors), layout, notes
    )


def _entries(
    config: Mapping[str, Any], row: Architecture, sizes: Sizes, where: str
) -> tuple[tuple[Entry, ...], Rope | None, tuple[str, ...]]:
    """The keys of the file, the rope, and notes."""
    rope = None
    rotated = sizes.head_size
    if row.arch != MODEL_ARCH.GPT2:
        rope, rotated = _rope(config, row, sizes, where)
    context, notes = _context(config, row, sizes)
    entries: list[Entry] = [
        ("add_vocab_size", sizes.vocabulary),
        ("add_context_length", context),
        ("add_embedding_length", sizes.hidden),
        ("add_block_count", sizes.layers),
        ("add_feed_forward_length", sizes.feed_forward),
        ("add_head_count", sizes.heads),
        ("add_head_count_kv", sizes.kv_heads),
        (
            "add_layer_norm_eps" if row.epsilon in _LAYER_NORM else "add_layer_norm_rms_eps",
            sizes.epsilon,
        ),
    ]
    if rope is not None:
        entries += [("add_rope_dimension_count", rotated), ("add_rope_freq_base", rope.base)]
        notes = (*notes, *rope.notes)
    if sizes.head_size * sizes.heads != sizes.hidden:
        entries += [("add_key_length", sizes.head_size), ("add_value_length", sizes.head_size)]
    if rope is not None:
        entries += _scaling(rope)
    if row.arch == MODEL_ARCH.PHI3:
        entries += _phi3(rope, sizes)
    return (*entries, *row.describe(config, sizes, where)), rope, notes


def _phi3(rope: Rope | None, sizes: Sizes) -> list[Entry]:
    """Keys without which llama.cpp does not load a Phi-3: 0 is no sliding window."""
    known = [] if rope and rope.original else [("add_rope_scaling_orig_ctx_len", sizes.context)]
    return [*known, ("add_sliding_window", 0)]


def _rope(
    config: Mapping[str, Any], row: Architecture, sizes: Sizes, where: str
) -> tuple[Rope, int]:
    table = rope_table(config, where)
    full = table.get("full_attention")
    if isinstance(full, dict):
        table = full
    share = table.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    share = 1.0 if share is None else positive_number(share, "partial_rotary_factor", where)
    rotated = int(sizes.head_size * share)
    if rotated != sizes.head_size and row.arch != MODEL_ARCH.PHI3:
        raise CheckpointError(
            f"{where}: config.json: partial_rotary_factor is {share}; llama.cpp rotates whole "
            "heads for this architecture"
        )
    rope = read_rope(config, where, size=rotated, limit=sizes.context, table=table)
    kind = table.get("rope_type", table.get("type", "default"))
    kind = "longrope" if kind == "su" else kind
    if kind != "default" and kind not in row.ropes:
        known = ", ".join(("default", *row.ropes))
        raise CheckpointError(
            f"{where}: config.json: rope type {printable(kind, 40)!r} cannot be written for this "
            f"architecture; {known} can"
        )
    return rope, rotated


def _scaling(rope: Rope) -> list[Entry]:
    if not rope.scaling:
        return []
    entries: list[Entry] = [("add_rope_scaling_type", _SCALINGS[rope.scaling])]
    if rope.scaling != "longrope":
        entries.append(("add_rope_scaling_factor", rope.factor))
    if rope.original:
        entries.append(("add_rope_scaling_orig_ctx_len", rope.original))
    if rope.attention:
        entries.append(("add_rope_scaling_attn_factors", rope.attention))
    if rope.scaling == "yarn":
        entries.append(("add_rope_scaling_yarn_beta_fast", rope.betas[0]))
        entries.append(("add_rope_scaling_yarn_beta_slow", rope.betas[1]))
    return entries


def _context(
    config: Mapping[str, Any], row: Architecture, sizes: Sizes
) -> tuple[int, tuple[str, ...]]:
    """The context up to which llama.cpp attends to what transformers attends to."""
    window = config.get("sliding_window")
    if type(window) is not int or row.window != "none":
        return sizes.context, ()
    slides = bool(config.get("use_sliding_window", True))
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and "sliding_attention" not in kinds:
        slides = False
    if not slides or window >= sizes.context:
        return sizes.context, ()
    note = (
        f"context {window} instead of {sizes.context}: the model attends to the last {window} "
        "tokens, llama.cpp to all"
    )
    return window, (note,)


def _factor_tensors(rope: Rope | None, folder: Path) -> Iterator[ModelTensor]:
    for part, numbers in rope.factors if rope else ():
        info = TensorInfo(
            f"{part}.weight", "F32", (len(numbers),), folder / "config.json", 0, 4 * len(numbers)
        )
        yield ModelTensor(part, -1, info, constant=numbers)


def _tensors(
    row: Architecture,
    sizes: Sizes,
    config: Mapping[str, Any],
    rest: dict[str, TensorInfo],
    checkpoint: Checkpoint,
) -> Iterator[ModelTensor]:
    """The tensors of the checkpoint in the order of the file, each taken out of `rest`."""
    names = get_tensor_name_map(row.arch, sizes.layers)

    def taken(module: Module, prefix: str, layer: int) -> Iterator[ModelTensor]:
        for suffix in ("weight", "bias"):
            if suffix == "bias" and not _has_bias(module, config):
                continue
            known = module.known.format(layer) if module.known else prefix + module.name
            part = names.get_name(known)
            if part is None:
                raise CheckpointError(
                    f"{checkpoint.folder}: the gguf package has no name for {printable(known)!r}"
                )
            part = part.removeprefix(f"blk.{layer}.")
            count = sizes.experts if "{}" in module.name else 1
            full = [f"{prefix}{module.name.format(expert)}.{suffix}" for expert in range(count)]
            shape = sizes.of(module.shape)
            shape = shape[:1] if suffix == "bias" else shape
            turned = module.transposed and suffix == "weight"
            infos = tuple(
                _take(name, shape[::-1] if turned else shape, rest, checkpoint) for name in full
            )
            heads = {"q": sizes.heads, "k": sizes.kv_heads}.get(module.rotated, 0)
            yield ModelTensor(
                part,
                layer,
                infos[0],
                heads,
                suffix,
                infos if "{}" in module.name else (),
                turned,
                module.offset,
            )

    for module in row.first:
        yield from taken(module, "", -1)
    for layer in range(sizes.layers):
        for module in row.modules:
            yield from taken(module, row.prefix.format(layer), layer)
    for module in row.last:
        yield from taken(module, "", -1)
    if not sizes.tied:
        yield from taken(Module(_HEAD, "v h"), "", -1)


def _has_bias(module: Module, config: Mapping[str, Any]) -> bool:
    return module.bias == "always" or bool(module.bias and config.get(module.bias))


def _take(
    name: str, shape: tuple[int, ...], rest: dict[str, TensorInfo], checkpoint: Checkpoint
) -> TensorInfo:
    info = rest.pop(name, None)
    if info is None:
        raise CheckpointError(f"{checkpoint.folder}: tensor {printable(name)!r} is missing")
    if info.shape != shape:
        raise CheckpointError(
            f"{info.path}: tensor {printable(name)!r} has shape {list(info.shape)}, config.json "
            f"implies {list(shape)}"
        )
    if info.dtype not in KERNEL_CODE:
        raise CheckpointError(
            f"{info.path}: tensor {printable(name)!r} is {info.dtype}; "
            "only F16, BF16 and F32 weights can be quantized"
        )
    return info


def _refuse_strays(
    row: Architecture, sizes: Sizes, rest: Mapping[str, TensorInfo], checkpoint: Checkpoint
) -> None:
    """What no file holds: buffers that are no weights, and the head of a tied model."""
    buffers: Sequence[str] = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias")
    strays = [
        name
        for name in rest
        if not name.endswith(tuple(buffers)) and not (sizes.tied and name == f"{_HEAD}.weight")
    ]
    if strays:
        raise CheckpointError(
            f"{checkpoint.folder}: tensor {printable(strays[0])!r} has no place in a "
            f"{MODEL_ARCH_NAMES[row.arch]} file"
        )
