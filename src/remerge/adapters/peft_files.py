"""A LoRA adapter as peft saves it, read without peft: which weight gets which A, B and scale.

>>> adapter = read_adapter("adapters/kimiko")
>>> adapter.updates["model.layers.0.self_attn.q_proj.weight"].scale

Understands rank_pattern, alpha_pattern, rslora, fan_in_fan_out, modules_to_save and adapters on
embeddings, and refuses by name what it does not (DoRA, biases, …): an adapter that is baked in
part would be a model that is silently wrong. Source: Hu et al. 2021 (arXiv 2106.09685); the
meaning of the config is that of peft's `LoraConfig`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.checkpoint import pickle_advice
from remerge.tensors.dtypes import KERNEL_CODE
from remerge.tensors.json_files import read_json
from remerge.tensors.safetensors import TensorInfo, read_header

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_MATRIX = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight|\.default|\.default\.weight)?")
#: Config entries that change what the adapter computes, with the only values supported. The ways of
#: initialising that are left out change the base's weights as well.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "layer_replication": (None, []),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "use_bdlora": (False, None),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
_PATTERN_LIMIT = 256


@dataclass(frozen=True)
class LowRankUpdate:
    """W' = W + scale · B·A, with A [r, in] and B [out, r].

    `transposed`: the weight is stored [in, out] (embeddings, Conv1D), so (B·A)ᵀ is added. None:
    only the model's architecture decides it, in `remerge.adapters.fit`.
    """

    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool | None


@dataclass(frozen=True)
class Adapter:
    """Low-rank `updates` and whole `replacements`, by name of the weight.

    A weight that is replaced (modules_to_save, embeddings saved with the adapter) and updated is
    first replaced.
    """

    label: str
    folder: Path
    updates: dict[str, LowRankUpdate]
    replacements: dict[str, TensorInfo]
    fan_in_fan_out: bool = False
    ensure_weight_tying: bool = False


def check_adapter_config(config: Mapping[str, Any], where: str) -> None:
    """CheckpointError unless the config is of a LoRA whose every feature is supported."""
    if config.get("peft_type") != "LORA":
        found = printable(config.get("peft_type"), 40)
        raise CheckpointError(f"{where}: peft_type is {found}; only LORA can be baked")
    for key, allowed in _UNSUPPORTED.items():
        if config.get(key) not in allowed:
            shown = printable(config[key], 80)
            raise CheckpointError(
                f"{where}: {key}={shown} is not supported; bake it with peft first"
            )
    for key in ("use_rslora", "fan_in_fan_out", "ensure_weight_tying"):
        if not isinstance(config.get(key), bool | None):
            shown = printable(config[key], 40)
            raise CheckpointError(f"{where}: {key} is {shown}, not true or false")
    saved = config.get("modules_to_save")
    if saved is not None and not isinstance(saved, list):
        shown = printable(saved, 40)
        raise CheckpointError(f"{where}: modules_to_save is {shown}, not a list of names")
    _positive_int(config.get("r"), "r", where)
    _finite(config.get("lora_alpha"), "lora_alpha", where)
    for pattern, check in (("rank_pattern", _positive_int), ("alpha_pattern", _finite)):
        entries = config.get(pattern) or {}
        if not isinstance(entries, dict):
            raise CheckpointError(f"{where}: {pattern} is not an object")
        for key, value in entries.items():
            check(value, f"{pattern}[{printable(key, 80)}]", where)


def _positive_int(value: Any, what: str, where: str) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise CheckpointError(f"{where}: {what} is {printable(value, 40)}, not a positive integer")
    return value


def _finite(value: Any, what: str, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # A whole number of JSON may be beyond any float, which isfinite() would not survive.
    if not number or not abs(value) <= sys.float_info.max:
        raise CheckpointError(f"{where}: {what} is {printable(value, 40)}, not a finite number")
    return float(value)


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any, where: str) -> Any:
    """The entry of the first key that matches the module's name or its last parts, as in peft.

    Keys are regular expressions from a stranger: one that could take for ever is refused.
    """
    for key, value in (patterns or {}).items():
        repeats = len(re.findall(r"[*+{]", key))
        if len(key) > _PATTERN_LIMIT or repeats > 3 or re.search(r"\)[*+?{]", key):
            raise CheckpointError(
                f"{where}: pattern {printable(key, 80)!r} is too involved; refused"
            )
        try:
            matches = re.match(rf"(.*\.)?({key})$", module)
        except (re.error, OverflowError) as error:
            raise CheckpointError(
                f"{where}: {printable(key, 80)!r} is no regular expression ({error})"
            ) from None
        if matches:
            return value
    return default


def _scale(config: Mapping[str, Any], module: str, rank: int, where: str) -> float:
    alpha = float(_by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"], where))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def read_adapter(folder: Path | str, label: str | None = None) -> Adapter:
    """Read the adapter in `folder` (`adapter_config.json`, `adapter_model.safetensors`).

    CheckpointError when A or B is missing, ranks disagree with the config, or a tensor has no use.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG_NAME)
    where = str(folder / CONFIG_NAME)
    check_adapter_config(config, where)
    if not (folder / WEIGHTS_NAME).exists():
        raise CheckpointError(f"{folder}: holds no {WEIGHTS_NAME}{pickle_advice(folder)}")
    return adapter_from_header(
        config, read_header(folder / WEIGHTS_NAME), folder, label or folder.name
    )


def adapter_from_header(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], folder: Path, label: str
) -> Adapter:
    """`read_adapter` for a config and a table of tensors that are already in hand."""
    matrices: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
    replacements: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        plain = name.removeprefix(_PREFIX)
        match = _MATRIX.fullmatch(plain)
        if info.dtype not in KERNEL_CODE:
            raise CheckpointError(
                f"{label}: tensor {printable(name)!r} is {info.dtype}, not a float"
            )
        if match:
            pair = matrices.setdefault((match.group(1), match.group(2) is not None), {})
            _put(pair, match.group(3), info, match.group(1), label)
        elif _is_saved_module(plain, config):
            module = _module_of(plain)
            _put(replacements, f"{module}.weight", info, module, label)
        else:
            raise CheckpointError(
                f"{label}: tensor {printable(name)!r} is of no known use in a LoRA"
            )
    if not matrices and not replacements:
        raise CheckpointError(f"{label}: {folder} holds no adapter weights")
    updates: dict[str, LowRankUpdate] = {}
    for (module, embedding), pair in matrices.items():
        update = _update(config, module, embedding, pair, label)
        _put(updates, f"{module}.weight", update, module, label)
    return Adapter(
        label,
        folder,
        updates,
        replacements,
        bool(config.get("fan_in_fan_out")),
        bool(config.get("ensure_weight_tying")),
    )


def _put(table: dict[str, Any], key: str, value: Any, module: str, label: str) -> None:
    """table[key] = value. Names of several ages may mean one place, where only one can hold."""
    if key in table:
        raise CheckpointError(
            f"{label}: module {printable(module)!r} is given more than once, under names of "
            "different versions of peft; keep one"
        )
    table[key] = value


def _module_of(name: str) -> str:
    """The module whose weight an adapter saved whole, under any of the names that peft has used."""
    return re.sub(r"(\.modules_to_save(\.default)?|\.base_layer)?\.weight$", "", name)


def _is_saved_module(name: str, config: Mapping[str, Any]) -> bool:
    if not name.endswith(".weight"):
        return False
    module = _module_of(name)
    saved = config.get("modules_to_save") or []
    in_list = any(module == m or module.endswith(f".{m}") for m in saved if isinstance(m, str))
    # peft also saves the embeddings when it believes that their number of rows was changed, or when
    # they have an update of their own.
    return in_list or module.endswith(("embed_tokens", "lm_head", "wte"))


def _update(
    config: Mapping[str, Any],
    module: str,
    embedding: bool,
    pair: Mapping[str, TensorInfo],
    label: str,
) -> LowRankUpdate:
    where = f"{label}: module {printable(module)!r}"
    if set(pair) != {"A", "B"}:
        raise CheckpointError(f"{where} has lora_{''.join(pair)} alone; A and B are both needed")
    a, b = pair["A"], pair["B"]
    wanted = _by_pattern(config.get("rank_pattern"), module, config["r"], where)
    rank = _positive_int(wanted, "r", where)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise CheckpointError(
            f"{where}: A {list(a.shape)} and B {list(b.shape)} are not of the rank {rank} "
            f"that {CONFIG_NAME} gives"
        )
    return LowRankUpdate(a, b, _scale(config, module, rank, where), True if embedding else None)
