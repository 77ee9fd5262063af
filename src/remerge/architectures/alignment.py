"""Models of which some store their output head and others tie it to the embedding.

>>> aligned = align_heads([base, donor])
>>> aligned.models, aligned.unties, aligned.notes

A head that is tied is the embedding's bytes under another name, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from remerge.architectures.compatibility import COMPUTED, Note
from remerge.architectures.heads import Head, head_of, is_tied
from remerge.tensors.checkpoint import Checkpoint, config_of
from remerge.tensors.safetensors import TensorInfo

_CHUNK = 1 << 24


@dataclass(frozen=True)
class Aligned:
    """Models that all store a head, or none of them.

    Attributes:
        models: The models, in the order given.
        head: Embedding and head of the first model; None where they are not known.
        unties: Whether the first model is tied and some model's head is not its embedding.
        notes: What was done to which model.
    """

    models: list[Checkpoint]
    head: Head | None
    unties: bool
    notes: list[Note]


def with_tied_head(model: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """Return the model with its tied head as a tensor; as it is where it stores one or has none."""
    head = head_of(model.tensors, config)
    if head is None or head.name in model.tensors or is_tied(config) is False:
        return model
    twin = replace(model.tensors[head.embedding], name=head.name)
    return replace(model, tensors={**model.tensors, head.name: twin})


def as_head_of(model: Checkpoint, config: Mapping[str, Any], other: Checkpoint) -> Checkpoint:
    """Return the model with its tied head as a tensor where `other` stores a head of that name."""
    full = with_tied_head(model, config)
    return full if full.tensors.keys() - model.tensors.keys() <= other.tensors.keys() else model


def align_heads(models: Sequence[Checkpoint]) -> Aligned:
    """Give every model a head of its own, or none, by what the first stores and the others need.

    A head equal to its embedding is left out where the first model stores none. Where some model's
    head differs from its embedding, all get theirs.
    """
    configs = [config_of(model.folder) for model in models]
    first = models[0]
    head = head_of(first.tensors, configs[0])
    found = [head_of(model.tensors, config) for model, config in zip(models, configs, strict=True)]
    if head is None or not all(map(_fits(head), models, found)):
        return Aligned(list(models), None, False, [])
    stored = [head.name in model.tensors for model in models]
    tied = is_tied(configs[0]) is not False
    # Only where it matters: comparing reads both matrices.
    own = [s and tied and not _is_copy(m, head) for m, s in zip(models, stored, strict=True)]
    if not any(stored) or (not stored[0] and not tied):
        return Aligned(list(models), head, False, [])
    notes, aligned = list[Note](), list[Checkpoint]()
    wanted = stored[0] or any(own)
    for model, config, has in zip(models, configs, stored, strict=True):
        if wanted and not has:
            if is_tied(config) is not False:
                twin = replace(model.tensors[head.embedding], name=head.name)
                model = replace(model, tensors={**model.tensors, head.name: twin})
                notes.append(Note(model.label, head.name, f"tied: {head.embedding} taken for it"))
        elif has and not wanted:
            tensors = {name: info for name, info in model.tensors.items() if name != head.name}
            model = replace(model, tensors=tensors)
            notes.append(Note(model.label, head.name, "copy of the tied embedding, left out"))
        aligned.append(model)
    if tied and any(own):
        notes.append(Note(first.label, head.name, f"untied from {head.embedding}"))
    return Aligned(aligned, head, tied and any(own), notes)


def aligned_by_header(
    model: Checkpoint, config: Mapping[str, Any], base: Checkpoint, base_config: Mapping[str, Any]
) -> Checkpoint:
    """Return the model with a head if the base stores one, else without, for a check of headers."""
    model = as_head_of(model, config, base)
    head = head_of(base.tensors, base_config)
    if head is None or head.name in base.tensors or is_tied(base_config) is False:
        return model
    return replace(model, tensors={n: t for n, t in model.tensors.items() if n != head.name})


def _fits(head: Head) -> Callable[[Checkpoint, Head | None], bool]:
    """Whether a model's embedding has the name of the first's, and so has a head that it stores."""

    def fits(model: Checkpoint, other: Head | None) -> bool:
        if other is None or other.embedding != head.embedding:
            return False
        return other.name == head.name or other.name not in model.tensors

    return fits


def _is_copy(model: Checkpoint, head: Head) -> bool:
    """Whether the stored head has the embedding's type, shape and bytes.

    A tensor that is not computed yet counts as another one: untied, the model is the same.
    """
    one, two = model.tensors[head.embedding], model.tensors[head.name]
    if COMPUTED in (one.path, two.path):
        return False
    return (one.dtype, one.shape) == (two.dtype, two.shape) and _equal(one, two)


def _equal(one: TensorInfo, two: TensorInfo) -> bool:
    # Read, not mapped: pages of a mapping count as memory of this process.
    with one.path.open("rb") as first, two.path.open("rb") as second:
        first.seek(one.offset)
        second.seek(two.offset)
        for at in range(0, one.nbytes, _CHUNK):
            count = min(_CHUNK, one.nbytes - at)
            if first.read(count) != second.read(count):
                return False
    return True
