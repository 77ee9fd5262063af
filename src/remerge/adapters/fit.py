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

from remerge.adapters.peft_config import CONFIG_NAME
from remerge.adapters.peft_files import (
    Adapter,
    ParameterPair,
    is_in_saved_module,
    rank_of,
    scale_of,
)
from remerge.adapters.updates import (
    BiasShift,
    ExpertsUpdate,
    LowRankUpdate,
    Rescaling,
    TokenRows,
    Update,
    VeraUpdate,
)
from remerge.architectures.compatibility import TOKEN_TENSORS, Note
from remerge.architectures.heads import Head, head_of, is_tied
from remerge.architectures.layers import experts_are_transposed, is_conv1d
from remerge.architectures.names import inner_name
from remerge.errors import CheckpointError, printable
from remerge.tensors.safetensors import TensorInfo

#: Updates of a weight that may be stored either way.
Oriented = LowRankUpdate | VeraUpdate | Rescaling

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
    adapter = _in_names_of(tensors, adapter, notes)
    adapter = _with_parameters(adapter, tensors, config, model)
    adapter = _oriented(adapter, tensors, config, model, notes)
    together = head is not None and tied is not False and _ties(adapter, head)
    if head and together:
        adapter = _tied_together(adapter, head, head.name in weights, notes)
    _check_targets(adapter, tensors, model)
    shared = {head.embedding, head.name} if head and together else set()
    for name in weights.keys() - adapter.replacements.keys() - shared:
        if is_in_saved_module(name, adapter.config):
            raise CheckpointError(
                f"{adapter.label}: modules_to_save in {CONFIG_NAME} means {printable(name)!r}, but "
                "the adapter does not hold it; it is incomplete: save it again"
            )
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


def _in_names_of(tensors: Mapping[str, TensorInfo], adapter: Adapter, notes: list[Note]) -> Adapter:
    """Give tensors and modules of the adapter the names that the model's file has for them.

    peft names modules as the live model does, files may name them otherwise.
    """
    names: dict[str, str | None] = {}
    for name in tensors:
        for full in (name, name.rpartition(".")[0]):
            inner = inner_name(full)
            names[inner] = full if names.get(inner, full) == full else None
    renamed: dict[str, str] = {}

    def fitting(name: str) -> str:
        """The model's name for a tensor, also for a bias that the model does not have."""
        module, _, kind = name.rpartition(".")
        found = names.get(inner_name(name))
        if found is None and (place := names.get(inner_name(module))):
            found = f"{place}.{kind}"
        if name in tensors or found is None or found == name:
            return name
        renamed[name] = found
        return found

    tables: list[dict[str, Any]] = []
    for table in (adapter.updates, adapter.replacements, adapter.originals):
        fitted: dict[str, Any] = {}
        for name, value in table.items():
            if fitted.setdefault(fitting(name), value) is not value:
                raise CheckpointError(
                    f"{adapter.label}: {printable(name)!r} stands under two names; keep one"
                )
        tables.append(fitted)
    pairs = [replace(pair, module=fitting(pair.module)) for pair in adapter.parameters]
    if not renamed:
        return adapter
    one, other = next(iter(renamed.items()))
    more = f", and {len(renamed) - 1} more like it" if len(renamed) > 1 else ""
    notes.append(Note(adapter.label, other, f"is {printable(one)} in the adapter{more}"))
    return replace(
        adapter,
        updates=tables[0],
        replacements=tables[1],
        originals=tables[2],
        parameters=tuple(pairs),
    )


def _with_parameters(
    adapter: Adapter, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], model: str
) -> Adapter:
    """Find the parameter of each pair of `target_parameters` by its name and its shape.

    Where several parameters of one module have a LoRA each, peft nests them and their tensors say
    only how deep: the one that fits by shape is meant.
    """
    updates = dict(adapter.updates)
    for pair in adapter.parameters:
        names = [name for name in tensors if _is_target(name, pair.module, adapter.config)]
        where = f"{adapter.label}: parameters of {printable(pair.module)!r}"
        pairs = sum(other.module == pair.module for other in adapter.parameters)
        if len(names) != pairs:
            raise CheckpointError(
                f"{where}: {pairs} have a LoRA, and {model} stores {len(names)} that "
                f"target_parameters in {CONFIG_NAME} names; experts that are stored one by one "
                "must be fused first (load the model with transformers 5 and bake it with peft)"
            )
        found = [
            (name, update)
            for name in names
            for update in _on_parameter(adapter, pair, name, tensors[name].shape, config, where)
        ]
        if len(found) != 1:
            fits = ", ".join(sorted({name for name, _ in found})) or "none"
            raise CheckpointError(
                f"{where}: A {list(pair.a.shape)} and B {list(pair.b.shape)} must fit exactly one "
                f"and fit {printable(fits, 160)}; bake it with peft"
            )
        ((name, update),) = found
        if name in updates:
            raise CheckpointError(f"{where}: {printable(name)!r} has two updates")
        updates[name] = update
    return replace(adapter, updates=updates, parameters=())


def _is_target(name: str, module: str, config: Mapping[str, Any]) -> bool:
    """Whether a tensor is a parameter of the module that `target_parameters` names, as in peft."""
    targets = config.get("target_parameters") or ()
    mine = name.rpartition(".")[0] == module
    return mine and any(name == target or name.endswith(f".{target}") for target in targets)


def _on_parameter(
    adapter: Adapter,
    pair: ParameterPair,
    name: str,
    shape: tuple[int, ...],
    config: Mapping[str, Any],
    where: str,
) -> list[Update]:
    """The updates that a pair of matrices may mean on a parameter of this shape."""
    rank = rank_of(adapter.config, name, where)
    scale = scale_of(adapter.config, name, rank, where)
    experts = shape[0] if len(shape) == 3 else 1
    if (pair.a.shape[0], pair.b.shape[1]) != (rank * experts, rank * experts):
        return []
    if len(shape) == 2:
        plain = LowRankUpdate(pair.a, pair.b, scale, False)
        return [plain] if plain.expected(shape) == shape else []
    stacked = [ExpertsUpdate(pair.a, pair.b, scale, experts, way) for way in (False, True)]
    fitting = [update for update in stacked if update.expected(shape) == shape]
    if len(fitting) == 2:
        transposed = experts_are_transposed(config)
        fitting = [update for update in fitting if update.transposed == transposed]
    return list(fitting)


def _oriented(
    adapter: Adapter,
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    model: str,
    notes: list[Note],
) -> Adapter:
    """Decide for every update whether the weight is stored [in, out], as peft does by its class."""
    updates: dict[str, Update] = {}
    for name, update in adapter.updates.items():
        if isinstance(update, Oriented) and update.transposed is None:
            conv1d = is_conv1d(name.removesuffix(".weight"), config)
            if conv1d is None:
                conv1d = _by_shape(adapter, name, update, tensors, config, model)
            elif adapter.fan_in_fan_out and not conv1d:
                text = "fan_in_fan_out ignored: the module is Linear, where peft ignores it too"
                notes.append(Note(adapter.label, name, text))
            update = replace(update, transposed=conv1d)
        updates[name] = update
        bias = f"{name.removesuffix('.weight')}.bias"
        if isinstance(update, Rescaling) and update.outgoing and bias in tensors:
            updates[bias] = update  # IA3 scales what the module gives, and its bias is part of it
    return replace(adapter, updates=updates)


def _by_shape(
    adapter: Adapter,
    name: str,
    update: Oriented,
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    model: str,
) -> bool:
    """Whether a weight of unknown class is [in, out], by its shape; CheckpointError if square."""
    if name not in tensors:
        return False
    shape = tensors[name].shape
    fits = [w for w in (False, True) if replace(update, transposed=w).expected(shape) == shape]
    if len(fits) < 2:
        return fits == [True]
    model_type = printable(config.get("model_type", "missing"), 40)
    raise CheckpointError(
        f"{adapter.label}: {printable(name)!r} is square and may be Linear or Conv1D: {model}'s "
        f"config.json has model_type {model_type}, whose modules are not known; bake it with peft"
    )


def _ties(adapter: Adapter, head: Head) -> bool:
    """Whether the adapter keeps embedding and head one matrix; peft knows two names only.

    Trained tokens of the embedding are always those of the head as well, unless it has its own.
    """
    changed = adapter.updates.keys() | adapter.replacements.keys()
    if isinstance(adapter.updates.get(head.embedding), TokenRows):
        if head.name not in changed or (adapter.one_matrix and head.name not in adapter.updates):
            return True
    elif adapter.one_matrix and not adapter.updates.keys() & {head.embedding, head.name}:
        return True
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
    embeddings = {
        name
        for name, update in adapter.updates.items()
        if isinstance(update, TokenRows) or getattr(update, "transposed", False)
    }
    named = {n for n in changed if re.search(r"embed|wte|lm_head|shared|output_proj", n)}
    suspects = sorted(named | embeddings)
    if suspects and tied is not False:
        raise CheckpointError(
            f"{adapter.label}: changes {printable(suspects[0])!r}, and {model}'s output head may "
            "be tied to it under a name that is not known; untie it with peft and bake it there"
        )


def _check_targets(adapter: Adapter, weights: Mapping[str, TensorInfo], model: str) -> None:
    """CheckpointError unless every target exists in the model with the right shape."""
    for name, info in [*adapter.replacements.items(), *adapter.originals.items()]:
        _check_target(adapter, name, weights, model)
        if weights[name].shape != info.shape:
            _require_rows(adapter, name, info.shape, weights, model)
            raise CheckpointError(
                f"{adapter.label}: saved module {printable(name)!r} has shape {list(info.shape)}, "
                f"{model} has {list(weights[name].shape)}"
            )
    for name, update in adapter.updates.items():
        _check_target(adapter, name, weights, model)
        shape, expected = weights[name].shape, update.expected(weights[name].shape)
        if shape != expected:
            _require_rows(adapter, name, expected or (), weights, model)
            found = f"has shape {list(expected)}" if expected else "does not fit together"
            raise CheckpointError(
                f"{adapter.label}: the update of {printable(name)!r} {found}, {model} has "
                f"{list(shape)}"
            )


def _require_rows(
    adapter: Adapter,
    name: str,
    wanted: tuple[int, ...],
    weights: Mapping[str, TensorInfo],
    model: str,
) -> None:
    """CheckpointError that says how to resize a model whose vocabulary grew in training."""
    shape = weights[name].shape
    if not name.endswith(TOKEN_TENSORS) or len(shape) != 2 or wanted[1:] != shape[1:]:
        return
    raise CheckpointError(
        f"{adapter.label}: was trained on {wanted[0]} rows of tokens ({printable(name)!r}), "
        f"{model} has {shape[0]}; resize the model first, as it was for the training: load it with "
        f"transformers, model.resize_token_embeddings({wanted[0]}), save it with the adapter's "
        "tokenizer, and bake into that"
    )


def _advice(name: str, weights: Mapping[str, TensorInfo]) -> str:
    """What to do about a name that the model does not have: the prefix that fits, if one does."""
    fitting = [full for full in weights if name.endswith(f".{inner_name(full)}")]
    if len(fitting) != 1:
        return "is it an adapter of another model?"
    inner = inner_name(fitting[0])
    one, other = name.removesuffix(inner), fitting[0].removesuffix(inner)
    return f"with the prefix {printable(other)!r} in place of {printable(one)!r} it would fit"


def _check_target(
    adapter: Adapter, name: str, weights: Mapping[str, TensorInfo], model: str
) -> None:
    if name in weights:
        return
    module = name.removesuffix(".bias")
    if name.endswith(".bias") and f"{module}.weight" in weights:
        what = "lora_bias" if isinstance(adapter.updates.get(name), BiasShift) else "a bias"
        raise CheckpointError(
            f"{adapter.label}: gives {printable(module)!r} {what}, and {model} stores no bias of "
            "that module; bake it with peft into a model whose config.json has one"
        )
    raise CheckpointError(
        f"{adapter.label} ({adapter.folder}) is for a module {printable(name)!r} that {model} "
        f"does not have; {_advice(name, weights)}"
    )
