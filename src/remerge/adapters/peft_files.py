"""An adapter as peft saves it, read without peft: which tensor gets which update.

>>> adapter = read_adapter("adapters/kimiko")
>>> adapter.updates["model.layers.0.self_attn.q_proj.weight"].scale

The kinds that are baked stand in docs/models.md; others are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remerge.adapters.peft_config import (
    CONFIG_NAME,
    alpha_key,
    by_pattern,
    check_adapter_config,
    positive_int,
)
from remerge.adapters.updates import (
    BiasShift,
    Factors,
    HadamardUpdate,
    KroneckerUpdate,
    LowRankUpdate,
    Rescaling,
    TokenRows,
    Update,
    VeraUpdate,
)
from remerge.architectures.compatibility import TOKEN_TENSORS
from remerge.errors import CheckpointError, printable
from remerge.tensors.checkpoint import pickle_advice, raw_bytes
from remerge.tensors.dtypes import KERNEL_CODE
from remerge.tensors.json_files import read_json
from remerge.tensors.safetensors import TensorInfo, read_header

WEIGHTS_NAME = "adapter_model.safetensors"

_PREFIX = "base_model.model."
#: Tensors of one module by kind of adapter: (module, part). Early versions of peft left the name
#: of the adapter, `default`, in the names of its tensors.
_NAME = r"(?:\.default)?"
_PARTS: dict[str, re.Pattern[str]] = {
    "LORA": re.compile(
        rf"(.+)\.(lora_(?:embedding_)?[AB]{_NAME}(?:\.weight|\.bias)?{_NAME}"
        rf"|lora_magnitude_vector{_NAME}(?:\.weight)?|token_adapter\.trainable_tokens_delta{_NAME})"
    ),
    "LOHA": re.compile(rf"(.+)\.(hada_w[12]_[ab]){_NAME}"),
    "LOKR": re.compile(rf"(.+)\.(lokr_w[12](?:_[ab])?){_NAME}"),
    "IA3": re.compile(rf"(.+)\.(ia3_l){_NAME}"),
    "VERA": re.compile(rf"(.+)\.(vera_lambda_[bd]){_NAME}"),
    "TRAINABLE_TOKENS": re.compile(rf"(.+)\.(?:token_adapter\.)?(trainable_tokens_delta){_NAME}"),
}
#: VeRA's matrices, which all modules share.
_SHARED = re.compile(r"base_model\.(vera_[AB])(?:\.default)?")
_LN_TUNING = re.compile(r"\.ln_tuning_layers(\.default)?(?=\.(weight|bias)$)")
#: Names under which one saved module may stand, the one that peft reads first.
_SAVED = re.compile(r"\.modules_to_save(\.default)?(?=\.)|(\.token_adapter)?\.base_layer(?=\.)")
_ORIGINAL = ".original_module."
#: Modules that peft saves when their number of rows seems changed or they have an update.
_HEADS = ("lm_head", "embed_out")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", *_HEADS)


@dataclass(frozen=True)
class ParameterPair:
    """LoRA on a parameter that is known by name only once the model is: `target_parameters`.

    Attributes:
        module: The module that holds the parameter.
        depth: How many other parameters of the module are wrapped before it.
        a: A.
        b: B.
    """

    module: str
    depth: int
    a: TensorInfo
    b: TensorInfo


@dataclass(frozen=True)
class Adapter:
    """Updates and whole replacements of tensors, by name of the tensor.

    A tensor that is replaced (modules_to_save, biases, embeddings saved with the adapter) and
    updated is first replaced.

    Attributes:
        label: The name in messages and manifests.
        folder: Where it lies.
        updates: Changes by name of the tensor.
        replacements: Tensors that stand in the place of the model's.
        parameters: LoRA on parameters whose names the model decides.
        config: The content of `adapter_config.json`.
        originals: The model's own tensors that were saved beside their replacements.
        one_matrix: Embedding and head are replaced by the same values.
    """

    label: str
    folder: Path
    updates: dict[str, Update]
    replacements: dict[str, TensorInfo]
    parameters: tuple[ParameterPair, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    originals: Mapping[str, TensorInfo] = field(default_factory=dict)
    one_matrix: bool = False

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether the config says that weights are stored [in, out]."""
        return bool(self.config.get("fan_in_fan_out"))

    @property
    def ensure_weight_tying(self) -> bool:
        """Whether embedding and head of a tied model stay one matrix."""
        return bool(self.config.get("ensure_weight_tying"))


def read_adapter(folder: Path | str, label: str | None = None) -> Adapter:
    """Read the adapter in `folder` (`adapter_config.json`, `adapter_model.safetensors`).

    CheckpointError when a tensor is missing, ranks disagree with the config, a tensor has no use,
    or a module was saved twice with different values.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG_NAME)
    where = str(folder / CONFIG_NAME)
    check_adapter_config(config, where)
    if not (folder / WEIGHTS_NAME).exists():
        raise CheckpointError(f"{folder}: holds no {WEIGHTS_NAME}{pickle_advice(folder)}")
    tensors = read_header(folder / WEIGHTS_NAME)
    label = label or folder.name
    adapter = adapter_from_header(config, tensors, folder, label)
    for name, info in tensors.items():
        twin = adapter.replacements.get(_saved_name(name.removeprefix(_PREFIX)))
        if twin is not None and _ORIGINAL not in name and not _same(info, twin):
            raise CheckpointError(
                f"{label}: module {printable(twin.name)!r} is given more than once, and "
                f"{printable(name)!r} has other values; keep one"
            )
    tables = [t for n, t in adapter.replacements.items() if n.endswith(TOKEN_TENSORS)]
    return replace(adapter, one_matrix=len(tables) == 2 and _same(*tables))


def _same(one: TensorInfo, two: TensorInfo) -> bool:
    if one.name == two.name:
        return True  # the same tensor
    alike = (one.dtype, one.shape) == (two.dtype, two.shape)
    return alike and raw_bytes(one).tobytes() == raw_bytes(two).tobytes()


def adapter_from_header(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], folder: Path, label: str
) -> Adapter:
    """`read_adapter` for a config and a table of tensors that are already in hand."""
    kind = str(config.get("peft_type"))
    modules: dict[str, dict[str, TensorInfo]] = {}
    shared: dict[str, TensorInfo] = {}
    replacements: dict[str, TensorInfo] = {}
    originals: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        if info.dtype not in KERNEL_CODE:
            raise CheckpointError(
                f"{label}: tensor {printable(name)!r} is {info.dtype}, not a float"
            )
        plain = name.removeprefix(_PREFIX)
        match = _PARTS[kind].fullmatch(plain) if kind in _PARTS else None
        common = _SHARED.fullmatch(name) if kind == "VERA" else None
        if common:
            _put(shared, common[1], info, common[1], label)
        elif match:
            part = match[2].replace(".default", "").removesuffix(".weight")
            _put(modules.setdefault(match[1], {}), part, info, match[1], label)
        elif kind == "LN_TUNING" and _LN_TUNING.search(plain):
            module = _LN_TUNING.sub("", plain)
            _put(replacements, module, info, module, label)
        elif _is_saved(plain, config):
            if _ORIGINAL in plain:
                originals[plain.replace(_ORIGINAL, ".")] = info
                continue
            saved = _saved_name(plain)
            if saved not in replacements or saved == plain:  # the name that peft reads
                replacements[saved] = info
        else:
            raise CheckpointError(
                f"{label}: tensor {printable(name)!r} is of no known use in an adapter of kind "
                f"{kind}"
            )
    if not modules and not replacements:
        raise CheckpointError(f"{label}: {folder} holds no adapter weights")
    adapter = Adapter(label, folder, {}, replacements, (), config, originals)
    return _with_updates(adapter, kind, modules, shared)


def _put(table: dict[str, Any], key: str, value: Any, module: str, label: str) -> None:
    """table[key] = value. Names of several ages may mean one place, where only one can hold."""
    if key in table:
        raise CheckpointError(
            f"{label}: module {printable(module)!r} is given more than once, under names of "
            "different versions of peft; keep one"
        )
    table[key] = value


def _saved_name(plain: str) -> str:
    """The tensor that an adapter saved whole, under any of the names that peft has used."""
    return _SAVED.sub("", plain)


def _is_saved(plain: str, config: Mapping[str, Any]) -> bool:
    """Whether a tensor is one that peft saves whole beside the updates."""
    name = _saved_name(plain.replace(_ORIGINAL, "."))
    module, _, last = name.rpartition(".")
    if last == "bias" and config.get("bias") not in (None, "none"):
        return True
    if is_in_saved_module(name, config):
        return True
    return last == "weight" and module.rpartition(".")[2] in _EMBEDDINGS


def is_in_saved_module(name: str, config: Mapping[str, Any]) -> bool:
    """Return whether a tensor belongs to a module that `modules_to_save` means, as peft does.

    A module is meant whose name ends in one of the texts, dot or not, with all its parts.
    """
    saved = tuple(config.get("modules_to_save") or ())
    parts = name.split(".")[:-1]
    return bool(saved) and any(
        ".".join(parts[:count]).endswith(saved) for count in range(1, len(parts) + 1)
    )


def _with_updates(
    adapter: Adapter,
    kind: str,
    modules: Mapping[str, Mapping[str, TensorInfo]],
    shared: Mapping[str, TensorInfo],
) -> Adapter:
    """The adapter with an update for each of its modules."""
    updates: dict[str, Update] = {}
    pairs: list[ParameterPair] = []
    for name, parts in modules.items():
        where = f"{adapter.label}: module {printable(name)!r}"
        module, depth = _unwrapped(name)
        if kind == "LORA" and _holds_parameters(module, adapter.config):
            a, b = _both(parts, "lora_A", "lora_B", where)
            pairs.append(ParameterPair(module, depth, a, b))
            continue
        for tensor, update in _updates_of(kind, module, parts, shared, adapter, where).items():
            _put(updates, tensor, update, module, adapter.label)
    _require_all(adapter, updates, pairs)
    return replace(adapter, updates=updates, parameters=tuple(pairs))


def _require_all(
    adapter: Adapter, updates: Mapping[str, Update], pairs: Sequence[ParameterPair]
) -> None:
    """CheckpointError where the config promises what no tensor gives."""
    tokens = any(isinstance(update, TokenRows) for update in updates.values())
    for key, found in (("trainable_token_indices", tokens), ("target_parameters", bool(pairs))):
        if adapter.config.get(key) and not found:
            raise CheckpointError(
                f"{adapter.label}: {CONFIG_NAME} has {key}, but no weights are stored for it; the "
                "adapter is incomplete: save it again"
            )


def _unwrapped(name: str) -> tuple[str, int]:
    """A module without the wrappers that peft puts around it, and their number."""
    module = re.sub(r"(\.base_layer)+$", "", name)
    return module, (len(name) - len(module)) // len(".base_layer")


def _holds_parameters(module: str, config: Mapping[str, Any]) -> bool:
    targets = config.get("target_parameters") or ()
    return any(f".{module}".endswith(f".{target.rpartition('.')[0]}") for target in targets)


def _updates_of(
    kind: str,
    module: str,
    parts: Mapping[str, TensorInfo],
    shared: Mapping[str, TensorInfo],
    adapter: Adapter,
    where: str,
) -> dict[str, Update]:
    weight = f"{module}.weight"
    if any(part.endswith("trainable_tokens_delta") for part in parts):
        if _is_tied_copy(module, adapter.config):
            return {}
        return {weight: _token_rows(module, parts, adapter.config, where)}
    if kind == "LORA":
        return _lora(module, parts, adapter.config, where)
    if kind == "LOHA":
        return {weight: _loha(module, parts, adapter.config, where)}
    if kind == "LOKR":
        return {weight: _lokr(module, parts, adapter.config, where)}
    if kind == "IA3":
        return {weight: _ia3(parts["ia3_l"], where)}
    return {weight: _vera(parts, shared, adapter.config, where)}


def _both(
    parts: Mapping[str, TensorInfo], one: str, two: str, where: str
) -> tuple[TensorInfo, TensorInfo]:
    if one not in parts or two not in parts:
        alone = one if one in parts else two
        raise CheckpointError(f"{where} has {alone} alone; {one} and {two} are both needed")
    return _matrix(parts[one], where), _matrix(parts[two], where)


def _matrix(info: TensorInfo, where: str) -> TensorInfo:
    if len(info.shape) != 2:
        raise CheckpointError(
            f"{where}: {printable(info.name)!r} has shape {list(info.shape)}; only matrices can "
            "be baked (a convolution, or a shard that was not gathered, is none)"
        )
    return info


def rank_of(config: Mapping[str, Any], module: str, where: str) -> int:
    """Return the rank that the config gives a module or parameter."""
    wanted = by_pattern(config.get("rank_pattern"), module, config["r"], where)
    return positive_int(wanted, "r", where)


def scale_of(config: Mapping[str, Any], module: str, rank: int, where: str) -> float:
    """Return the factor of an update as peft defines it: alpha/r, or alpha/√r with rslora."""
    default = config[alpha_key(config)]
    alpha = float(by_pattern(config.get("alpha_pattern"), module, default, where))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _lora(
    module: str, parts: Mapping[str, TensorInfo], config: Mapping[str, Any], where: str
) -> dict[str, Update]:
    embedding = any("embedding" in part for part in parts)
    kind = "lora_embedding_" if embedding else "lora_"
    odd = {part for part in parts if part.startswith("lora_")} - {
        f"{kind}A", f"{kind}B", "lora_B.bias", "lora_magnitude_vector"
    }  # fmt: skip
    if odd:
        raise CheckpointError(
            f"{where} is given more than once, under names of different versions of peft; keep one"
        )
    a, b = _both(parts, f"{kind}A", f"{kind}B", where)
    rank = rank_of(config, module, where)
    if a.shape[0] != rank or b.shape[1] != rank:
        raise CheckpointError(
            f"{where}: A {list(a.shape)} and B {list(b.shape)} are not of the rank {rank} "
            f"that {CONFIG_NAME} gives"
        )
    scale = scale_of(config, module, rank, where)
    magnitude = parts.get("lora_magnitude_vector")
    _agree(magnitude, bool(config.get("use_dora")), "use_dora", "lora_magnitude_vector", where)
    if magnitude is not None and magnitude.shape != (b.shape[0],):
        raise CheckpointError(
            f"{where}: lora_magnitude_vector has shape {list(magnitude.shape)}, B {list(b.shape)}"
        )
    update = LowRankUpdate(a, b, scale, True if embedding else None, magnitude)
    updates: dict[str, Update] = {f"{module}.weight": update}
    bias = parts.get("lora_B.bias")
    if not embedding:
        _agree(bias, bool(config.get("lora_bias")), "lora_bias", "lora_B.bias", where)
    if bias is not None:
        if bias.shape != (b.shape[0],):
            raise CheckpointError(
                f"{where}: the bias of B has shape {list(bias.shape)}, B {list(b.shape)}"
            )
        updates[f"{module}.bias"] = BiasShift(bias, scale)
    return updates


def _agree(found: TensorInfo | None, wanted: bool, key: str, part: str, where: str) -> None:
    """CheckpointError where config and tensors disagree: one of them is of another adapter."""
    if (found is not None) != wanted:
        has = "has" if found is not None else "has no"
        raise CheckpointError(
            f"{where} {has} {part}, but {CONFIG_NAME} says {key}={str(wanted).lower()}"
        )


def _is_tied_copy(module: str, config: Mapping[str, Any]) -> bool:
    """Whether trained tokens of a head are those of the embedding, to which peft had tied it."""
    if module.rpartition(".")[2] not in _HEADS:
        return False
    named = config.get("trainable_token_indices")
    if named is None:  # a kind of its own
        named = config.get("target_modules")
        named = [named] if isinstance(named, str) else named
    elif isinstance(named, list):
        named = None
    return not module.endswith(tuple(named or ()))


def _token_rows(
    module: str, parts: Mapping[str, TensorInfo], config: Mapping[str, Any], where: str
) -> TokenRows:
    if len(parts) > 1:
        raise CheckpointError(f"{where} has trained tokens and other updates; bake it with peft")
    (values,) = parts.values()
    rows = _matrix(values, where).shape[0]
    indices = config.get("trainable_token_indices", config.get("token_indices"))
    if isinstance(indices, dict):  # by module, matched like modules_to_save
        chosen = [found for name, found in indices.items() if module.endswith(name)]
        indices = chosen[0] if len(chosen) == 1 else None
    sound = (
        isinstance(indices, list)
        and all(type(index) is int and 0 <= index < 2**31 for index in indices)
        and len(set(indices)) == len(indices) == rows
        and rows > 0
    )
    if not sound or not isinstance(indices, list):
        raise CheckpointError(
            f"{where}: trains {rows} tokens, which {CONFIG_NAME} does not number: "
            f"{printable(indices, 80)}"
        )
    return TokenRows(tuple(indices), values)


def _loha(
    module: str, parts: Mapping[str, TensorInfo], config: Mapping[str, Any], where: str
) -> HadamardUpdate:
    one = _both(parts, "hada_w1_a", "hada_w1_b", where)
    two = _both(parts, "hada_w2_a", "hada_w2_b", where)
    rank = rank_of(config, module, where)
    _check_rank([*_inner(one), *_inner(two)], rank, where)
    return HadamardUpdate(one, two, scale_of(config, module, rank, where))


def _lokr(
    module: str, parts: Mapping[str, TensorInfo], config: Mapping[str, Any], where: str
) -> KroneckerUpdate:
    rank = rank_of(config, module, where)
    sides: list[Factors] = []
    for side in ("lokr_w1", "lokr_w2"):
        if side in parts and not {f"{side}_a", f"{side}_b"} & parts.keys():
            sides.append((_matrix(parts[side], where),))
            continue
        if side in parts:
            raise CheckpointError(f"{where} has both {side} and its factors; keep one")
        pair = _both(parts, f"{side}_a", f"{side}_b", where)
        _check_rank(_inner(pair), rank, where)
        sides.append(pair)
    return KroneckerUpdate(sides[0], sides[1], scale_of(config, module, rank, where))


def _inner(pair: tuple[TensorInfo, TensorInfo]) -> list[int]:
    return [pair[0].shape[1], pair[1].shape[0]]


def _check_rank(found: list[int], rank: int, where: str) -> None:
    if set(found) != {rank}:
        raise CheckpointError(
            f"{where}: its factors have rank {max(found)}, not the rank {rank} that {CONFIG_NAME} "
            "gives"
        )


def _ia3(vector: TensorInfo, where: str) -> Rescaling:
    if len(vector.shape) != 2 or 1 not in vector.shape:
        raise CheckpointError(
            f"{where}: ia3_l has shape {list(vector.shape)}; only vectors of linear modules can "
            "be baked"
        )
    return Rescaling(vector, vector.shape[1] == 1, None)


def _vera(
    parts: Mapping[str, TensorInfo],
    shared: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    where: str,
) -> VeraUpdate:
    if set(shared) != {"vera_A", "vera_B"}:
        raise CheckpointError(
            f"{where}: the adapter was saved without its projections (save_projection), which only "
            "peft draws again; save it with them, or bake it with peft"
        )
    if set(parts) != {"vera_lambda_b", "vera_lambda_d"}:
        raise CheckpointError(f"{where} lacks one of vera_lambda_b and vera_lambda_d")
    a, b = _matrix(shared["vera_A"], where), _matrix(shared["vera_B"], where)
    _check_rank([a.shape[0], b.shape[1], parts["vera_lambda_d"].size], config["r"], where)
    return VeraUpdate(a, b, parts["vera_lambda_d"], parts["vera_lambda_b"], None)
