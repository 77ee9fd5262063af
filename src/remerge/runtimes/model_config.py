"""What a model's JSON files may say before a library builds anything by them.

>>> check_config(read_json(folder / "config.json"), "config.json", tensors)

transformers takes a config at its word: it builds a billion layers, divides by no head, fills a
layer that the weights lack with random numbers, and reads files and kernels that a config names.
Here types and ranges are compared with the weights' own headers first. A config that passes may
still be wrong, which its loader then says; it decides no byte of any artefact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from remerge.errors import CheckpointError, printable

#: Entries that say how many times something is built.
_COUNT = re.compile(r"^(n|num|encoder|decoder)_(\w+_)?(layers?|experts|blocks)$")
_CONTEXT = re.compile(r"position|context|ctx|length|window|seq")
_IMPLEMENTATION = re.compile(r"implementation|kernel")
_CONTEXT_LIMIT = 2**27
#: No number of a small model is larger; for others the number of their weights is the bound.
_NUMBER_LIMIT = 2**24
_FLOAT_LIMIT = 1e18
_TOKEN_LIMIT = 2**24
_TEMPLATE_LIMIT = 1_000_000
_BEAM_LIMIT = 64
#: Entries of a tokenizer's settings by which a library reads another file in place of ours.
_FILES = ("vocab_file", "merges_file", "tokenizer_file", "spm_file", "tokenizer_object")


def _identifier(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,96}", value) or ".." in value:
        raise ValueError("is not a plain name")
    return value


Name = Annotated[str, AfterValidator(_identifier)]
Count = Annotated[int, Field(ge=1)]
Counts = Count | list[Count] | None
Small = Annotated[float, Field(gt=0, le=1)] | None


class _File(BaseModel):
    """Entries that are known here have these types; others may be any."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Config(_File):
    model_type: Name
    architectures: list[Name] | None = None
    vocab_size: Count | None = None
    hidden_size: Count | None = None
    intermediate_size: Counts = None
    num_hidden_layers: Count | None = None
    num_attention_heads: Counts = None
    num_key_value_heads: Counts = None
    head_dim: Count | None = None
    n_embd: Count | None = None
    n_layer: Count | None = None
    n_head: Count | None = None
    n_positions: Count | None = None
    max_position_embeddings: Count | None = None
    rms_norm_eps: Small = None
    layer_norm_eps: Small = None
    layer_norm_epsilon: Small = None
    rope_theta: Annotated[float, Field(gt=0)] | None = None
    hidden_act: Name | None = None
    torch_dtype: Name | None = None
    dtype: Name | None = None
    quantization_config: dict[str, Any] | None = None


_Token = str | dict[str, Any] | None


class _TokenizerSettings(_File):
    tokenizer_class: Name | None = None
    processor_class: Name | None = None
    bos_token: _Token = None
    eos_token: _Token = None
    unk_token: _Token = None
    pad_token: _Token = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    model_max_length: Annotated[float, Field(gt=0)] | None = None
    added_tokens_decoder: dict[str, dict[str, Any]] | None = None
    chat_template: str | list[Any] | dict[str, Any] | None = None


class _Generation(_File):
    num_beams: Annotated[int, Field(ge=1, le=_BEAM_LIMIT)] | None = None
    num_beam_groups: Annotated[int, Field(ge=1, le=_BEAM_LIMIT)] | None = None
    num_return_sequences: Annotated[int, Field(ge=1, le=_BEAM_LIMIT)] | None = None


def check_config(
    config: Mapping[str, Any], where: str, shapes: Collection[tuple[int, ...]]
) -> None:
    """Compare a model's config with what its weights allow.

    Args:
        config: The content of `config.json`.
        where: Names the file in an error.
        shapes: The shapes of the model's tensors.

    Raises:
        CheckpointError: An entry of a wrong type or beyond its range, or one that leads elsewhere.
    """
    _read(_Config, config, where)
    most = max(sum(math.prod(shape) for shape in shapes), _NUMBER_LIMIT)
    _walk(config, where, len(shapes), most)


def check_tokenizer_settings(settings: Mapping[str, Any], where: str) -> None:
    """CheckpointError for a `tokenizer_config.json` that no tokenizer has."""
    _read(_TokenizerSettings, settings, where)
    for key in _FILES:
        value = settings.get(key)
        if value is not None and ("/" in str(value) or "\\" in str(value)):
            raise CheckpointError(f"{where}: {key} names a file elsewhere; remove the entry")
    template = settings.get("chat_template")
    if len(str(template)) > _TEMPLATE_LIMIT:
        raise CheckpointError(f"{where}: chat_template is longer than {_TEMPLATE_LIMIT} characters")
    for key in settings.get("added_tokens_decoder") or {}:
        if not re.fullmatch(r"[0-9]{1,8}", key):
            raise CheckpointError(f"{where}: {printable(key, 40)!r} is no number of a token")


def check_tokenizer(document: Mapping[str, Any], where: str) -> None:
    """CheckpointError for a `tokenizer.json` that numbers tokens beyond any vocabulary."""
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    added = document.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(entry, dict) for entry in added):
        raise CheckpointError(f"{where}: its added_tokens are not a list of tokens")
    for number in [*numbers, *(entry.get("id") for entry in added)]:
        if type(number) is not int or not 0 <= number < _TOKEN_LIMIT:
            raise CheckpointError(f"{where}: {printable(number, 40)} is no number of a token")


def check_generation(settings: Mapping[str, Any], where: str) -> None:
    """CheckpointError for a `generation_config.json` that asks for code, or for too much."""
    _read(_Generation, settings, where)
    if settings.get("custom_generate"):
        raise CheckpointError(f"{where}: custom_generate asks for code; remove the entry")


def _read(model: type[_File], value: Mapping[str, Any], where: str) -> None:
    try:
        model.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
        given = "" if first["type"] == "missing" else f" is {printable(repr(first['input']), 40)}:"
        raise CheckpointError(
            f"{where}: {printable(key, 80)}{given} {printable(first['msg'], 120)}"
        ) from None


def _walk(value: Any, where: str, tensors: int, most: int, key: str = "") -> None:
    """Check every entry, at any depth, by what its name says it is."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _walk(inner, where, tensors, most, str(name))
    elif isinstance(value, list):
        for inner in value:
            _walk(inner, where, tensors, most, key)
    elif isinstance(value, str):
        if _IMPLEMENTATION.search(key) and ("/" in value or ":" in value):
            raise _wrong(where, key, value, "code of another repository is never run")
        if key == "transformers_weights":
            raise _wrong(where, key, value, "weights are those of the folder; remove the entry")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(value, where, tensors, most, key)


def _check_number(value: float, where: str, tensors: int, most: int, key: str) -> None:
    if _COUNT.search(key) and value > max(tensors, 1):
        raise _wrong(
            where, key, value, f"the weights are {tensors} tensors; it is not this model's config"
        )
    if isinstance(value, int):
        limit = _CONTEXT_LIMIT if _CONTEXT.search(key) else most
        if abs(value) > limit:
            raise _wrong(where, key, value, f"at most {limit} can be meant")
    elif abs(value) > _FLOAT_LIMIT:
        raise _wrong(where, key, value, f"at most {_FLOAT_LIMIT:g} can be meant")


def _wrong(where: str, key: str, value: object, why: str) -> CheckpointError:
    try:
        shown = printable(value, 40)
    except ValueError:  # Python writes no number of thousands of digits
        shown = "a number of thousands of digits"
    return CheckpointError(f"{where}: {printable(key, 80)} is {shown}; {why}")
