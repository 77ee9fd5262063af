"""A donor's tensors under the names of its base, and stored whole or in parts as there.

>>> laid = laid_out_like(donor, config, base, base_config)
>>> laid.model, laid.joins, laid.notes

A part of a whole is a range of its bytes, so nothing is copied; a whole of parts has to be written
(`remerge.merge.donors` does it). Where names fit already, the donor is returned as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from remerge.architectures.buffers import is_buffer
from remerge.architectures.compatibility import Note
from remerge.architectures.fused import OTHER_EXPERTS, Fused, count_experts, fused_with
from remerge.architectures.heads import TEXT_CONFIGS, head_of
from remerge.architectures.names import inner_name
from remerge.errors import CheckpointError, printable
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.safetensors import TensorInfo

#: First segments of inner names that belong to a language model.
_LANGUAGE = frozenset({"embed_tokens", "layers", "norm", "lm_head"})


@dataclass(frozen=True)
class Laid:
    """A donor laid out like its base.

    Attributes:
        model: The donor. Of a tensor in `joins`, name, type and shape are right; it has no bytes.
        joins: By name, the tensors whose bytes are its bytes, one after the other.
        notes: Lines of the manifest.
    """

    model: Checkpoint
    joins: dict[str, tuple[TensorInfo, ...]] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


def laid_out_like(
    model: Checkpoint,
    config: Mapping[str, Any],
    base: Checkpoint,
    base_config: Mapping[str, Any],
) -> Laid:
    """Give a donor the names and the layout of its base, as far as they are known to be the same.

    Args:
        model: The donor, by its headers.
        config: Its `config.json`; may be empty.
        base: The base.
        base_config: Its `config.json`; may be empty.

    Returns:
        The donor. What has no place in the base keeps its name, and what the base has beyond it is
        left out: a check of names refuses both.

    Raises:
        CheckpointError: Two tensors of the donor are one of the base's, parts of one whole have
            different types, or all names would fit by another prefix, which is named.
    """
    wanted = {n: info for n, info in base.tensors.items() if not is_buffer(n, info.shape)}
    given = {n: info for n, info in model.tensors.items() if not is_buffer(n, info.shape)}
    if wanted.keys() == given.keys():
        return Laid(model)
    return _Layout(model, given, config, base, wanted, base_config).laid()


class _Layout:
    def __init__(
        self,
        model: Checkpoint,
        given: Mapping[str, TensorInfo],
        config: Mapping[str, Any],
        base: Checkpoint,
        wanted: Mapping[str, TensorInfo],
        base_config: Mapping[str, Any],
    ) -> None:
        self._model, self._base = model, base
        self._configs = (config, base_config)
        self._given = self._by_inner_name(model, given)
        self._wanted = self._by_inner_name(base, wanted)
        self._experts = count_experts([*self._given, *self._wanted])
        self._by_rows = not {str(c.get("model_type")) for c in self._configs} & OTHER_EXPERTS
        self._used = set[str]()
        self._joins: dict[str, tuple[TensorInfo, ...]] = {}
        self._changed = Counter[str]()

    @staticmethod
    def _by_inner_name(
        model: Checkpoint, tensors: Mapping[str, TensorInfo]
    ) -> dict[str, TensorInfo]:
        found: dict[str, TensorInfo] = {}
        for name, info in tensors.items():
            twin = found.setdefault(inner_name(name), info)
            if twin is not info:
                raise CheckpointError(
                    f"{model.label} ({model.folder}): {printable(twin.name)!r} and "
                    f"{printable(name)!r} are names of one tensor; keep one of them"
                )
        return found

    def laid(self) -> Laid:
        tensors: dict[str, TensorInfo] = {}
        for inner, wanted in self._wanted.items():
            info = self._given.get(inner)
            if info is not None:
                self._used.add(inner)
                self._note_name(inner, info.name, wanted.name)
            else:
                info = self._part(inner, wanted) or self._whole(inner, wanted)
            if info is not None:
                tensors[wanted.name] = replace(info, name=wanted.name)
        self._require_no_other_prefix(tensors)
        notes = [Note(self._model.label, "", f"{what}: {n}") for what, n in self._changed.items()]
        notes += self._other_parts(tensors)
        self._add_head(tensors)
        for inner, info in self._given.items():
            if inner not in self._used:
                tensors.setdefault(info.name, info)
        for name, info in self._model.tensors.items():
            if is_buffer(name, info.shape):
                tensors.setdefault(name, info)
        return Laid(replace(self._model, tensors=tensors), self._joins, tuple(notes))

    def _note_name(self, inner: str, given: str, wanted: str) -> None:
        if given != wanted:
            one, two = (_prefix(name, inner) for name in (given, wanted))
            if one is None or two is None:
                self._changed["tensors under names of another version"] += 1
            else:
                self._changed[f"tensors with prefix {two or 'none'!r} for {one or 'none'!r}"] += 1

    def _fused(self, inner: str) -> list[Fused]:
        found = fused_with(inner, self._experts)
        return [each for each in found if each.stacked is None or self._by_rows]

    def _part(self, inner: str, wanted: TensorInfo) -> TensorInfo | None:
        """The donor's tensor as a range of a whole that the donor stores; None if there is none."""
        for fused in self._fused(inner):
            whole = self._given.get(fused.name)
            parts = [self._wanted.get(part) for part in fused.parts]
            known = [part for part in parts if part is not None]
            if inner not in fused.parts or whole is None or len(known) < len(parts):
                continue
            if whole.shape == _joined(known, fused.stacked):
                at = fused.parts.index(inner)
                item = whole.nbytes // max(whole.size, 1)
                before = sum(part.size for part in known[:at]) * item
                self._used.add(fused.name)
                self._changed["tensors taken as parts of larger ones"] += 1
                return replace(
                    whole,
                    shape=wanted.shape,
                    offset=whole.offset + before,
                    nbytes=wanted.size * item,
                )
        return None

    def _whole(self, inner: str, wanted: TensorInfo) -> TensorInfo | None:
        """The donor's tensor as the whole of parts that it stores; None if there are none."""
        for fused in self._fused(inner):
            parts = [self._given.get(part) for part in fused.parts]
            known = [part for part in parts if part is not None]
            if inner != fused.name or len(known) < len(parts):
                continue
            if wanted.shape == _joined(known, fused.stacked):
                types = sorted({part.dtype for part in known})
                if len(types) > 1:
                    raise CheckpointError(
                        f"{self._model.label}: parts of {printable(wanted.name)!r} are "
                        f"{' and '.join(types)}; cast the model to one type"
                    )
                self._used.update(fused.parts)
                self._joins[wanted.name] = tuple(known)
                self._changed["tensors joined from their parts"] += 1
                nbytes = sum(part.nbytes for part in known)
                return replace(known[0], shape=wanted.shape, nbytes=nbytes)
        return None

    def _add_head(self, tensors: dict[str, TensorInfo]) -> None:
        """Name a head that the donor stores and the base does not as the base's would be called."""
        head = head_of(self._base.tensors, self._configs[1])
        inner = inner_name(head.name) if head else ""
        if head and inner in self._given and inner not in self._wanted:
            self._used.add(inner)
            tensors[head.name] = replace(self._given[inner], name=head.name)

    def _require_no_other_prefix(self, tensors: Mapping[str, TensorInfo]) -> None:
        """CheckpointError naming the prefix by which names fit that do not fit as they are."""
        if tensors:
            return
        inner = next(iter(self._wanted), "")
        found = [info.name for info in self._given.values() if info.name.endswith(f".{inner}")]
        if inner and len(found) == 1:
            theirs = found[0].removesuffix(inner)
            ours = self._wanted[inner].name.removesuffix(inner)
            raise CheckpointError(
                f"{self._model.label} ({self._model.folder}): its names begin with "
                f"{printable(theirs)!r} where {self._base.label}'s begin with {printable(ours)!r}; "
                "rename its tensors"
            )

    def _other_parts(self, tensors: dict[str, TensorInfo]) -> list[Note]:
        """Do without the other parts of a multimodal model where the other is its language model.

        A donor without them takes the base's, whose task vectors are 0; a donor's own are left out.
        """
        donor, base = self._configs
        if is_language_of(donor, base):
            missing = [info for inner, info in self._wanted.items() if not _is_language(inner)]
            tensors.update({info.name: info for info in missing if info.name not in tensors})
            text = f"{len(missing)} tensors of other parts than language are {self._base.label}'s"
        elif is_language_of(base, donor):
            beyond = [inner for inner in self._given if not _is_language(inner)]
            self._used.update(beyond)
            text = f"{len(beyond)} tensors of other parts than language, left out"
        else:
            return []
        return [Note(self._model.label, "", text)]


def _prefix(name: str, inner: str) -> str | None:
    return name.removesuffix(inner) if name.endswith(inner) else None


def _joined(parts: list[TensorInfo], stacked: int | None) -> tuple[int, ...] | None:
    """The shape of the whole of these parts; None if they are not parts of one."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) != 1 or not all(part.shape for part in parts):
        return None
    rows, (rest,) = sum(part.shape[0] for part in parts), shapes
    if stacked is None:
        return (rows, *rest)
    return (stacked, rows // stacked, *rest) if rows % stacked == 0 else None


def _is_language(inner: str) -> bool:
    return inner.partition(".")[0] in _LANGUAGE


def is_language_of(text: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """Whether one config describes the language model that the other has beside other parts."""
    parts = [whole.get(key) for key in TEXT_CONFIGS]
    types = [part.get("model_type") for part in parts if isinstance(part, Mapping)]
    return isinstance(text.get("model_type"), str) and text["model_type"] in types
