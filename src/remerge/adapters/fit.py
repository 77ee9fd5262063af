"""Fitting an adapter to its model: which tensors change, how, and what becomes of a tied head.

>>> fitted = fit_adapter(adapter, tensors, config, "hermes")
>>> fitted.tensors["lm_head.weight"]  # the old embedding, where the adapter changed a tied one

The reference is the model as peft runs it with the adapter. There an update of the embedding of a
tied model does not reach its head: the two are tied no longer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from remerge.adapters.peft_files import Adapter, LowRankUpdate
from remerge.architectures.heads import Head, head_of, is_tied
from remerge.architectures.layers import is_conv1d
from remerge.errors import CheckpointError, printable
from remerge.tensors.compatibility import Note
from remerge.tensors.safetensors import TensorInfo

#: The modules that peft ties when an adapter asks for `ensure_weight_tying`.
_TIED_BY_PEFT = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class FittedAdapter:
    """An adapter that is known to fit a model, and the model's tensors that it needs.

    Attributes:
        adapter: The adapter with the orientation of every update known.
        tensors: The model's tensors, with a head of its own where the adapter unties it.
        unties: Whether embedding and head are no longer one matrix.
        notes: Lines of the manifest.
    """

    adapter: Adapter
    tensors: dict[str, TensorInfo]
    unties: bool
    notes: tuple[Note, ...]


def fit_adapter(
    adapter: Adapter, weights: Mapping[str, TensorInfo], config: Mapping[str, Any], model: str
) -> FittedAdapter:
    """Fit an adapter to a model by headers and config.

    Args:
        adapter: The adapter, as read.
        weights: The model's tensors without buffers, in state-dict order.
        config: The model's `config.json`; empty if it has none.
        model: The model's name in messages.

    Returns:
        The adapter for this model and the tensors that it is applied to.

    Raises:
        CheckpointError: A target does not exist, has another shape, or cannot be placed.
    """
    tensors, notes = dict(weights), list[Note]()
    head = head_of(weights, config)
    tied = is_tied(config)
    if head and head.embedding in weights and head.name not in weights and tied is not False:
        tensors[head.name] = replace(weights[head.embedding], name=head.name)
    adapter = _oriented(adapter, tensors, config, model, notes)
    together = head is not None and tied is not False and _ties(adapter, head)
    if head and together:
        adapter = _tied_together(adapter, head, head.name in weights, notes)
    _check_targets(adapter, tensors, model)
    changed = adapter.updates.keys() | adapter.replacements.keys()
    if head is None:
        _require_untied(adapter, changed, tied, model)
        return FittedAdapter(adapter, tensors, False, tuple(notes))
    unties = tied is not False and bool(changed & {head.embedding, head.name}) and not together
    if not unties and head.name not in weights:
        tensors.pop(head.name, None)
    if unties:
        kept = head.name if head.embedding in changed else head.embedding
        both = {head.embedding, head.name} <= changed
        what = "both have updates of their own" if both else f"{kept} keeps the model's values"
        text = f"untied from {head.embedding}, as in the live model: {what}"
        notes.append(Note(adapter.label, head.name, text))
    return FittedAdapter(adapter, tensors, unties, tuple(notes))


def _oriented(
    adapter: Adapter,
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    model: str,
    notes: list[Note],
) -> Adapter:
    """Decide for every update whether the weight is stored [in, out], as peft does by its class."""
    updates = {}
    for name, update in adapter.updates.items():
        if update.transposed is None:
            conv1d = is_conv1d(name.removesuffix(".weight"), config)
            if conv1d is None:
                conv1d = _by_shape(adapter, name, update, tensors, config, model)
            elif adapter.fan_in_fan_out and not conv1d:
                text = "fan_in_fan_out ignored: the module is Linear, where peft ignores it too"
                notes.append(Note(adapter.label, name, text))
            update = replace(update, transposed=conv1d)
        updates[name] = update
    return replace(adapter, updates=updates)


def _by_shape(
    adapter: Adapter,
    name: str,
    update: LowRankUpdate,
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    model: str,
) -> bool:
    """Whether a weight of unknown class is [in, out], by its shape; CheckpointError if square."""
    outgoing, incoming = update.b.shape[0], update.a.shape[1]
    if name not in tensors or outgoing != incoming:
        return name in tensors and tensors[name].shape == (incoming, outgoing)
    model_type = printable(config.get("model_type", "missing"), 40)
    raise CheckpointError(
        f"{adapter.label}: {printable(name)!r} is square and may be Linear or Conv1D: {model}'s "
        f"config.json has model_type {model_type}, whose modules are not known; bake it with peft"
    )


def _ties(adapter: Adapter, head: Head) -> bool:
    """Whether the adapter keeps embedding and head one matrix; peft knows two names only."""
    names = (head.embedding, head.name)
    modules = {name.removesuffix(".weight").rpartition(".")[2] for name in names}
    return adapter.ensure_weight_tying and modules <= set(_TIED_BY_PEFT)


def _tied_together(adapter: Adapter, head: Head, stored: bool, notes: list[Note]) -> Adapter:
    """Follow `ensure_weight_tying`: embedding and head share one update, that of the embedding.

    A head that the model stores beside its embedding gets the same update.
    """
    tables: list[dict[str, Any]] = []
    for table in (adapter.updates, adapter.replacements):
        kept: dict[str, Any] = dict(table)
        twin = kept.pop(head.name, None)
        if twin is not None and head.embedding not in kept:
            raise CheckpointError(
                f"{adapter.label}: ensure_weight_tying is set, but only "
                f"{printable(head.name)!r} has weights; bake it with peft"
            )
        if head.embedding in kept:
            notes.append(Note(adapter.label, head.name, "tied to the embedding by the adapter"))
            if stored:
                kept[head.name] = kept[head.embedding]
        tables.append(kept)
    return replace(adapter, updates=tables[0], replacements=tables[1])


def _require_untied(
    adapter: Adapter, changed: frozenset[str] | set[str], tied: bool | None, model: str
) -> None:
    """CheckpointError if an embedding changes of a tied model whose head has no known name."""
    embeddings = {name for name, update in adapter.updates.items() if update.transposed}
    named = {n for n in changed if re.search(r"embed|wte|lm_head|shared|output_proj", n)}
    suspects = sorted(named | embeddings)
    if suspects and tied is not False:
        raise CheckpointError(
            f"{adapter.label}: changes {printable(suspects[0])!r}, and {model}'s output head may "
            "be tied to it under a name that is not known; untie it with peft and bake it there"
        )


def _check_targets(adapter: Adapter, weights: Mapping[str, TensorInfo], model: str) -> None:
    """CheckpointError unless every target exists in the model with the right shape."""
    for name, update in adapter.updates.items():
        _check_target(adapter, name, weights, model)
        outgoing, incoming = update.b.shape[0], update.a.shape[1]
        expected = (incoming, outgoing) if update.transposed else (outgoing, incoming)
        if weights[name].shape != expected:
            raise CheckpointError(
                f"{adapter.label}: B·A for {printable(name)!r} has shape {list(expected)}, "
                f"{model} has {list(weights[name].shape)}"
            )
    for name, info in adapter.replacements.items():
        _check_target(adapter, name, weights, model)
        if weights[name].shape != info.shape:
            raise CheckpointError(
                f"{adapter.label}: saved module {printable(name)!r} has shape {list(info.shape)}, "
                f"{model} has {list(weights[name].shape)}"
            )


def _check_target(
    adapter: Adapter, name: str, weights: Mapping[str, TensorInfo], model: str
) -> None:
    if name not in weights:
        raise CheckpointError(
            f"{adapter.label} ({adapter.folder}) is for a module {printable(name)!r} that {model} "
            "does not have; is it an adapter of another model?"
        )
