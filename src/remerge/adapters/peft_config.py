"""What `adapter_config.json` says of an adapter: which entries change what it computes.

>>> check_adapter_config(config, "adapters/kimiko/adapter_config.json")

An adapter that is baked in part would be a model that is silently wrong, so every entry is known:
read, without effect on the result, or refused by name. The meaning of the entries is peft's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from remerge.errors import CheckpointError, printable

CONFIG_NAME = "adapter_config.json"

#: What to do with an adapter that only peft can merge.
_BY_PEFT = (
    "bake it with peft (load it with peft.AutoPeftModelForCausalLM, then merge_and_unload() and "
    "save_pretrained()) and use the result as a model"
)
#: Entries of every kind of adapter that are read here or change nothing: which modules have
#: weights follows from the weights themselves.
_COMMON = frozenset(
    """
    auto_mapping base_model_name_or_path bias exclude_modules fan_in_fan_out inference_mode
    layers_pattern layers_to_transform modules_to_save peft_type peft_version revision
    target_modules task_type
    """.split()
)
#: Entries by kind of adapter, as in _COMMON; the others may only have values that switch them off.
_KNOWN: dict[str, frozenset[str]] = {
    "LORA": frozenset(
        """
        alpha_pattern corda_config ensure_weight_tying eva_config init_lora_weights lora_alpha
        lora_bias lora_dropout lora_ga_config loftq_config megatron_core qalora_group_size r
        rank_pattern runtime_config target_parameters trainable_token_indices use_dora use_rslora
        velora_config
        """.split()
    ),
    "LOHA": frozenset(
        """
        alpha alpha_pattern init_weights module_dropout r rank_dropout rank_pattern
        use_effective_conv2d
        """.split()
    ),
    "LOKR": frozenset(
        """
        alpha alpha_pattern decompose_both decompose_factor init_weights module_dropout r
        rank_dropout rank_dropout_scale rank_pattern use_effective_conv2d
        """.split()
    ),
    "IA3": frozenset({"feedforward_modules", "init_ia3_weights"}),
    "VERA": frozenset(
        "d_initial init_weights projection_prng_key r save_projection vera_dropout".split()
    ),
    "TRAINABLE_TOKENS": frozenset({"init_weights", "token_indices"}),
    "LN_TUNING": frozenset(),
}
#: Kinds that add no change to the weights: there is nothing to bake.
_NOT_WEIGHTS = frozenset(
    """
    ADAPTION_PROMPT CARTRIDGE CPT MULTITASK_PROMPT_TUNING P_TUNING POLY PREFIX_TUNING
    PROMPT_TUNING XLORA
    """.split()
)
#: Values of `init_lora_weights` that leave the model's own weights as they are.
_PLAIN_STARTS: tuple[Any, ...] = (True, False, None, "gaussian", "eva", "orthogonal")
#: Values of an entry that is off.
_OFF: tuple[Any, ...] = (None, False, [], {}, "")
_SWITCHES = (
    "ensure_weight_tying",
    "fan_in_fan_out",
    "lora_bias",
    "save_projection",
    "use_dora",
    "use_rslora",
)
_BIASES = {"LORA": ("none", "all", "lora_only"), "VERA": ("none", "all", "vera_only")}
_PATTERN_LIMIT = 256


def check_adapter_config(config: Mapping[str, Any], where: str) -> None:
    """Check that a config is of an adapter whose every feature is supported.

    Args:
        config: The content of `adapter_config.json`.
        where: Its place in messages.

    Raises:
        CheckpointError: An entry is unknown, not supported or out of range.
    """
    kind = _kind(config, where)
    for key, value in config.items():
        if key not in _COMMON | _KNOWN[kind] and not _is_off(value):
            raise CheckpointError(
                f"{where}: {printable(key, 40)}={printable(value, 80)} is not supported or not "
                f"known; {_BY_PEFT}"
            )
    for key in _SWITCHES:
        if not isinstance(config.get(key), bool | None):
            shown = printable(config[key], 40)
            raise CheckpointError(f"{where}: {key} is {shown}, not true or false")
    _check_names(config, "modules_to_save", where)
    _check_names(config, "target_parameters", where)
    allowed = _BIASES.get(kind, ("none",))
    if config.get("bias") not in (None, *allowed):
        shown = printable(config["bias"], 40)
        raise CheckpointError(f"{where}: bias={shown} is not one of {', '.join(allowed)}")
    if kind == "LORA":
        _check_start(config, where)
    if kind in ("LORA", "LOHA", "LOKR", "VERA"):
        positive_int(config.get("r"), "r", where)
    if kind in ("LORA", "LOHA", "LOKR"):
        key = alpha_key(config)
        finite(config.get(key), key, where)
        _check_patterns(config, where)


def alpha_key(config: Mapping[str, Any]) -> str:
    """Return the name of the entry that holds alpha."""
    return "lora_alpha" if config.get("peft_type") == "LORA" else "alpha"


def _kind(config: Mapping[str, Any], where: str) -> str:
    kind = config.get("peft_type")
    if isinstance(kind, str) and kind in _KNOWN:
        return kind
    shown = printable(kind, 40)
    if kind in _NOT_WEIGHTS:
        raise CheckpointError(
            f"{where}: peft_type is {shown}, which changes no weights: it cannot be baked"
        )
    raise CheckpointError(
        f"{where}: peft_type is {shown}; {', '.join(_KNOWN)} can be baked; {_BY_PEFT}"
    )


def _is_off(value: Any) -> bool:
    return any(type(value) is type(off) and value == off for off in _OFF)


def _check_start(config: Mapping[str, Any], where: str) -> None:
    """Refuse starts that changed the model's weights: the adapter is of a model that is not given.

    peft computes that model anew on loading, by a decomposition that no file records.
    """
    start = config.get("init_lora_weights")
    if not any(type(start) is type(plain) and start == plain for plain in _PLAIN_STARTS):
        raise CheckpointError(
            f"{where}: init_lora_weights={printable(start, 40)} is not supported: it changed the "
            "model's own weights before training; save the adapter as a plain LoRA (save_pretrained"
            f"(…, path_initial_model_for_weight_conversion=…)), or {_BY_PEFT}"
        )


def _check_names(config: Mapping[str, Any], key: str, where: str) -> None:
    names = config.get(key)
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    ):
        raise CheckpointError(f"{where}: {key} is {printable(names, 40)}, not a list of names")


def _check_patterns(config: Mapping[str, Any], where: str) -> None:
    for pattern, check in (("rank_pattern", positive_int), ("alpha_pattern", finite)):
        entries = config.get(pattern) or {}
        if not isinstance(entries, dict):
            raise CheckpointError(f"{where}: {pattern} is not an object")
        for key, value in entries.items():
            check(value, f"{pattern}[{printable(key, 80)}]", where)


def positive_int(value: Any, what: str, where: str) -> int:
    """Return `value`; CheckpointError unless it is a positive integer of 31 bits."""
    if type(value) is not int or not 0 < value < 2**31:
        raise CheckpointError(f"{where}: {what} is {printable(value, 40)}, not a positive integer")
    return value


def finite(value: Any, what: str, where: str) -> float:
    """Return `value` as float64; CheckpointError unless it is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # A whole number of JSON may be beyond any float, which isfinite() would not survive.
    if not number or not abs(value) <= sys.float_info.max:
        raise CheckpointError(f"{where}: {what} is {printable(value, 40)}, not a finite number")
    return float(value)


def by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any, where: str) -> Any:
    """The entry of the first key that matches the module's name or its last parts, as in peft.

    Keys are regular expressions from untrusted files: one that could take for ever is refused.
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
