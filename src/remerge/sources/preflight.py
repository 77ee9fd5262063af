"""What headers and configs can tell, told before gigabytes move.

>>> check_source("lookup", recipe, sources, Descriptions(open_source))

A model that is no fine-tune of the base, a vocabulary that no rule handles, an adapter for modules
that its model does not have: refused after kilobytes. Each check is the one that the stage would
make later, on the same tables of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remerge.adapters.fit import fit_adapter
from remerge.adapters.peft_files import Adapter, adapter_from_header
from remerge.architectures.alignment import aligned_by_header
from remerge.architectures.compatibility import (
    TOKEN_TENSORS,
    fit,
    fit_tokens,
    require_mergeable,
    weights_only,
)
from remerge.architectures.layout import is_language_of, laid_out_like
from remerge.errors import CheckpointError, RecipeError, printable
from remerge.sources.delivery import SourceFiles
from remerge.sources.intake import adapter_table, plain_tensors, tensor_table
from remerge.sources.layouts import require_config
from remerge.sources.pinned import Source
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.json_files import read_json
from remerge.tensors.safetensors import TensorInfo
from remerge.vocabulary.tokenizer import NUMBERING, has_tokenizer, token_ids_of

#: Entries of config.json that make another model, and what they are called in a message.
_STRUCTURE = {
    "model_type": "architecture",
    "num_hidden_layers": "number of layers",
    "hidden_size": "hidden size",
    "intermediate_size": "feed-forward size",
    "num_attention_heads": "number of heads",
    "num_key_value_heads": "number of key and value heads",
}

Open = Callable[[Source], SourceFiles]


@dataclass(frozen=True)
class Described:
    """A model by its small files alone. `weights` leaves out buffers; offsets mean nothing.

    tokens  the number of every token's text; None for a source that lists no tokenizer
    """

    checkpoint: Checkpoint
    weights: dict[str, TensorInfo]
    config: dict[str, Any]
    tokens: dict[str, int] | None


@dataclass(frozen=True)
class DescribedAdapter:
    """An adapter by its small files alone, and the tensors in its file."""

    adapter: Adapter
    tensors: dict[str, TensorInfo]


def describe_model(files: SourceFiles) -> Described:
    """Read a model's config and headers; CheckpointError if it cannot be a model to merge."""
    source = files.source
    where = f"source {source.name!r}"
    require_config(source.files, source.kind, where)
    config = read_json(files.all(["config.json"])["config.json"]) | source.config
    table, _ = tensor_table(files)
    plain = plain_tensors(files, config, table)
    checkpoint = Checkpoint(source.name, Path(source.origin), plain.tensors)
    weights, _ = weights_only(checkpoint)
    require_mergeable(checkpoint, weights)
    tokens = None
    if has_tokenizer(source.files):
        tokens = token_ids_of(files.all(n for n in NUMBERING if n in source.files), where)
    return Described(checkpoint, weights, plain.config, tokens)


def describe_adapter(files: SourceFiles) -> DescribedAdapter:
    """Read an adapter's config and header; CheckpointError for one that cannot be used."""
    source = files.source
    table, config = adapter_table(files)
    tensors = {tensor: info for tensor, (_, info) in table.items()}
    adapter = adapter_from_header(config, tensors, Path(source.origin), source.name)
    return DescribedAdapter(adapter, tensors)


class Descriptions:
    """Sources described by their small files, each of them once."""

    def __init__(self, open_source: Open) -> None:
        self._open = open_source
        self._models: dict[str, Described] = {}
        self._adapters: dict[str, DescribedAdapter] = {}

    def model(self, source: Source) -> Described:
        """See `describe_model`."""
        if source.name not in self._models:
            with self._open(source) as files:
                self._models[source.name] = describe_model(files)
        return self._models[source.name]

    def adapter(self, source: Source) -> DescribedAdapter:
        """See `describe_adapter`."""
        if source.name not in self._adapters:
            with self._open(source) as files:
                self._adapters[source.name] = describe_adapter(files)
        return self._adapters[source.name]

    def tensors(self, source: Source) -> dict[str, TensorInfo]:
        """What a model or adapter is kept as: its tensors without buffers."""
        if source.kind == "adapter":
            return self.adapter(source).tensors
        return self.model(source).weights


def check_source(
    name: str, recipe: Mapping[str, Any], sources: Mapping[str, Source], described: Descriptions
) -> None:
    """Check the source `name` against what the recipe wants of it.

    A donor is held against the base, the base against nothing, an adapter against the model that
    it is baked into. CheckpointError says what does not fit.
    """
    source, out = sources[name], _out(recipe, name)
    if source.kind == "dataset":
        return
    if source.kind == "adapter":
        adapter = described.adapter(source).adapter
        for entry in (recipe.get("loras") or {}).values():
            if entry.get("adapter") == out:
                model = _source_of(recipe, sources, entry.get("model"))
                known = described.model(model)
                fit_adapter(adapter, known.weights, known.config, model.name)
        return
    model_described = described.model(source)
    rules = list(_vocabulary_rules(recipe, out))
    if out == recipe.get("base") or not rules:
        return
    base = _source_of(recipe, sources, recipe.get("base"))
    check_against_base(model_described, described.model(base), rules)


def check_against_base(model: Described, base: Described, rules: list[str | None]) -> None:
    """CheckpointError unless the model is a fine-tune of the base under each vocabulary rule."""
    one, two = model.config, base.config
    related = is_language_of(one, two) or is_language_of(two, one)
    laid = laid_out_like(model.checkpoint, one, base.checkpoint, two)
    model = replace(model, checkpoint=laid.model)
    for key, called in _STRUCTURE.items():
        mine, theirs = model.config.get(key), base.config.get(key)
        if key == "model_type" and related:
            continue
        if mine is not None and theirs is not None and mine != theirs:
            raise CheckpointError(
                f"{model.checkpoint.label} ({model.checkpoint.folder}): {called} is "
                f"{printable(mine, 40)}, the base's is {printable(theirs, 40)}; it is not a "
                "fine-tune of this base"
            )
    for rule in rules:
        moved = rule in ("map", "one")
        checkpoint = _as_mapped(model, base) if moved else model.checkpoint
        checkpoint = aligned_by_header(checkpoint, model.config, base.checkpoint, base.config)
        fit(checkpoint, base.checkpoint, base.weights, rule)
        without = [m.checkpoint.label for m in (model, base) if m.tokens is None]
        if rule == "map" and without:
            raise CheckpointError(
                f"{without[0]}: has no tokenizer.json and no tokenizer.model to map tokens by"
            )
        by_token = rule in (None, "truncate")
        if by_token and model.tokens is not None and base.tokens is not None:
            fit_tokens(model.tokens, base.tokens, model.checkpoint.label, base.checkpoint)


def _as_mapped(model: Described, base: Described) -> Checkpoint:
    """The model with as many rows of vocabulary as the base's, as mapping will give it."""
    tensors = dict(model.checkpoint.tensors)
    for name, wanted in base.weights.items():
        info = tensors.get(name)
        if info and name.endswith(TOKEN_TENSORS) and info.shape[1:] == wanted.shape[1:]:
            tensors[name] = replace(info, shape=wanted.shape)
    return replace(model.checkpoint, tensors=tensors)


def _vocabulary_rules(recipe: Mapping[str, Any], out: str) -> Iterator[str | None]:
    """The vocabulary rule of each place that the model in `out` fills, baked or as it is."""
    loras = (recipe.get("loras") or {}).values()
    paths = {out} | {entry.get("out") for entry in loras if entry.get("model") == out}
    for places in (recipe.get("parts") or {}).values():
        for place in places.values():
            if place.get("name") is not None and place.get("path") in paths:
                yield place.get("vocabulary")


def _out(recipe: Mapping[str, Any], name: str) -> str:
    return str(recipe["sources"][name].get("out"))


def _source_of(recipe: Mapping[str, Any], sources: Mapping[str, Source], out: object) -> Source:
    """The source whose folder `out` is, directly or baked."""
    for entry in (recipe.get("loras") or {}).values():
        if entry.get("out") == out:
            return _source_of(recipe, sources, entry.get("model"))
    for name in sources:
        if _out(recipe, name) == out:
            return sources[name]
    raise RecipeError(f"{printable(out)!r} is the out of no source")
