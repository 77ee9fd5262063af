"""The gradient merge of two models: a blend ratio that changes along the model.

>>> plan = plan_gradient(p1, p2, Gradient((0.0, 0.5, 1.0)), dtype="F16", shard_bytes=10**9)

Source: the BlockMerge_Gradient script as it stood in August 2023. Its options stay available:
blend only the layers, or all but the layers, or only names that contain a text; what is not blended
is the first model's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from remerge.architectures.alignment import Aligned, align_heads
from remerge.architectures.compatibility import Note, fit, require_mergeable, weights_only
from remerge.architectures.heads import is_tied
from remerge.architectures.layer_number import layer_of
from remerge.errors import CheckpointError, RecipeError, printable
from remerge.kernels.blocks import DEFAULT_BLOCK, RawTensor
from remerge.methods.gradient_kernel import blend_chunk
from remerge.shards.chunks import chunks_of
from remerge.shards.inputs import input_identity, require_distinct
from remerge.shards.order import in_state_dict_order
from remerge.shards.units import Chunks
from remerge.tensors.checkpoint import Checkpoint, config_of, raw_bytes
from remerge.tensors.dtypes import KERNEL_CODE
from remerge.tensors.layout import OutputTensor, Shard, plan_shards
from remerge.tensors.safetensors import TensorInfo

ALONG = ("tensors", "layers")
BLENDS = ("all", "layers", "no_layers")


@dataclass(frozen=True)
class Gradient:
    """Shares of the second model along the first.

    values     at least two numbers in [0, 1]
    along      `tensors`: by position in the state dict, as the script of 2023 did; `layers`: one
               ratio a layer, piecewise linear over the depth (tensors before the first layer take
               the first value, those after the last layer the last)
    blend      `all`, `layers` (only tensors of layers) or `no_layers` (only the others)
    containing blend only tensors whose name contains this text
    """

    values: tuple[float, ...]
    along: str = "tensors"
    blend: str = "all"
    containing: str = ""

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise RecipeError(f"gradient.values {list(self.values)} must hold at least two numbers")
        for value in self.values:
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise RecipeError(f"gradient.values: {value} is not in [0, 1]")
        for name, option, allowed in (
            ("along", self.along, ALONG),
            ("blend", self.blend, BLENDS),
        ):
            if option not in allowed:
                raise RecipeError(f"gradient.{name} is {option!r}; expected {', '.join(allowed)}")


@dataclass(frozen=True)
class Vocabulary:
    """The rule for the second model's rows of tokens.

    Attributes:
        rule: None: its rows are the first's; `truncate`, `rows`: those beyond are left out; `map`,
            `one`: they were moved to where the first, or the new vocabulary, has the token.
        notes: What was done, for the manifest.
        rows: SHA-256 of which row went where; empty where none moved.
    """

    rule: str | None = None
    notes: tuple[Note, ...] = ()
    rows: str = ""


def blend_ratios(gradient: Gradient, names: Sequence[str]) -> list[float]:
    """The second model's share (float64) for each of `names`, which are in state-dict order."""
    by_position = gradient.along == "tensors"
    ratios = (_along_tensors if by_position else _along_layers)(gradient.values, names)
    return [
        ratio if _is_blended(gradient, name) else 0.0
        for name, ratio in zip(names, ratios, strict=True)
    ]


def _is_blended(gradient: Gradient, name: str) -> bool:
    in_layer = layer_of(name) is not None
    chosen = gradient.blend == "all" or in_layer == (gradient.blend == "layers")
    return chosen and gradient.containing in name


def _along_tensors(values: Sequence[float], names: Sequence[str]) -> list[float]:
    """S = len(values) − 1 sections of ⌊N/S⌋ tensors each, the remainder at the last value."""
    sections = len(values) - 1
    length = len(names) // sections
    ratios: list[float] = []
    for left, right in pairwise(values):
        ratios += _spaced(left, right, length)
    return ratios + [values[-1]] * (len(names) - len(ratios))


def _spaced(left: float, right: float, count: int) -> list[float]:
    """`count` numbers from left to right, both included; one number is `left`."""
    if count < 2:
        return [left] * count
    step = (right - left) / (count - 1)
    return [left + position * step for position in range(count - 1)] + [right]


def _along_layers(values: Sequence[float], names: Sequence[str]) -> list[float]:
    layers = [layer_of(name) for name in names]
    numbers = [layer for layer in layers if layer is not None]
    if not numbers:
        raise RecipeError("gradient along layers: the model's tensor names show no layers")
    last = max(numbers)
    first_of_layers = next(i for i, layer in enumerate(layers) if layer is not None)

    def at(layer: int) -> float:
        place = layer * (len(values) - 1) / last if last else 0.0
        if place >= len(values) - 1:
            return values[-1]  # left + (right − left) would miss it by a rounding
        left = math.floor(place)
        return values[left] + (values[left + 1] - values[left]) * (place - left)

    return [
        at(layer) if layer is not None else values[0 if position < first_of_layers else -1]
        for position, layer in enumerate(layers)
    ]


def in_order_for(gradient: Gradient, first: Checkpoint) -> Checkpoint:
    """Return the first model in the order in which `gradient` counts its tensors.

    Raises:
        CheckpointError: Tensors are counted, and the order of this architecture's is not known.
    """
    ordered, known = in_state_dict_order(first)
    if known or gradient.along != "tensors":
        return ordered
    model_type = printable(config_of(first.folder).get("model_type", "missing"), 40)
    raise CheckpointError(
        f"{first.label} ({first.folder}): the order of its tensors is not known (model_type "
        f"{model_type}), so they cannot be counted: use --along layers, in a recipe along: layers"
    )


@dataclass(frozen=True)
class GradientPlan:
    """All that the blend depends on; see `plan_gradient`."""

    label: str
    first: Checkpoint
    second: Checkpoint
    gradient: Gradient
    ratios: dict[str, float]
    first_tensors: dict[str, TensorInfo]
    second_tensors: dict[str, TensorInfo]
    shards: tuple[Shard, ...]
    notes: tuple[Note, ...]
    vocabulary: str | None = None
    unties: bool = False
    rows: str = ""
    block: int = DEFAULT_BLOCK

    def parameters(self) -> dict[str, Any]:
        """The settings for manifest and resume key: no paths, no machine."""
        rule = {"vocabulary": self.vocabulary} if self.vocabulary else {}
        return {
            "method": "gradient",
            **asdict(self.gradient),
            **rule,
            "values": list(self.gradient.values),
            "models": [self.first.label, self.second.label],
        }

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Identity of every input folder, by label."""
        return {model.label: input_identity(model.folder) for model in (self.first, self.second)}

    def details(self) -> str | None:
        """Where rows of tokens went; nothing else but the parameters."""
        return self.rows or None

    def reads(self, tensor: OutputTensor) -> list[TensorInfo]:
        """The input tensors that `compute` maps."""
        return [self.first_tensors[tensor.name], self.second_tensors[tensor.name]]

    def compute(self, tensor: OutputTensor) -> Chunks:
        """Blend one tensor; its statistics are the ratio."""
        ratio = self.ratios[tensor.name]
        one, two = self.reads(tensor)
        first = RawTensor(raw_bytes(one), KERNEL_CODE[one.dtype])
        second = RawTensor(raw_bytes(two), KERNEL_CODE[two.dtype])

        def blend(part: np.void) -> int:
            return blend_chunk(first.record, second.record, ratio, part)

        inputs = {self.first.label: one, self.second.label: two}
        yield from chunks_of(tensor, blend, inputs, block=self.block)
        return {"ratio": ratio}


def plan_gradient(
    first: Checkpoint,
    second: Checkpoint,
    gradient: Gradient,
    *,
    dtype: str,
    shard_bytes: int,
    label: str = "gradient",
    vocabulary: Vocabulary | None = None,
) -> GradientPlan:
    """Check the two models against each other by their headers and lay out the result.

    The order of `first`'s tensors is taken as the state-dict order; folders that this library wrote
    have it, others get it from `in_order_for`. dtype and shard_bytes as in `plan_ties`;
    vocabulary says what was and is to be done to rows of tokens. CheckpointError for models that do
    not fit, RecipeError for two of one label.
    """
    require_distinct([first.label, second.label], label)
    vocabulary = vocabulary or Vocabulary()
    aligned = align_heads([first, second])
    first, second = aligned.models
    first_tensors, dropped = weights_only(first)
    require_mergeable(first, first_tensors)
    second_tensors, more_notes = fit(second, first, first_tensors, vocabulary.rule)
    names = list(first_tensors)
    ratios = dict(zip(names, blend_ratios(gradient, names), strict=True))
    unties, more = _unties(aligned, ratios, first)
    found = [*dropped, *vocabulary.notes, *aligned.notes, *more, *more_notes]
    outputs = [OutputTensor(name, dtype, info.shape) for name, info in first_tensors.items()]
    return GradientPlan(
        label=label,
        first=first,
        second=second,
        gradient=gradient,
        ratios=ratios,
        first_tensors=first_tensors,
        second_tensors=second_tensors,
        shards=plan_shards(outputs, shard_bytes),
        notes=tuple(found),
        vocabulary=vocabulary.rule,
        unties=unties,
        rows=vocabulary.rows,
    )


def _unties(
    aligned: Aligned, ratios: Mapping[str, float], first: Checkpoint
) -> tuple[bool, list[Note]]:
    """Whether a tied head is stored and blended by another ratio than its embedding."""
    head = aligned.head
    if aligned.unties or head is None or head.name not in ratios:
        return aligned.unties, []
    tied = is_tied(config_of(first.folder)) is not False
    if not tied or ratios[head.name] == ratios[head.embedding]:
        return False, []
    text = f"untied from {head.embedding}: stored, so counted, and blended by a ratio of its own"
    return True, [Note(first.label, head.name, text)]
