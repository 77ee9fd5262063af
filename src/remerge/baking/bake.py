"""Baking a LoRA into a model as a plan.

>>> plan = plan_bake(model, read_adapter("adapters/kimiko"), dtype="F16", shard_bytes=10**9)

Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1; the rounding stands beside the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from remerge.adapters.fit import fit_adapter
from remerge.adapters.peft_files import Adapter
from remerge.adapters.updates import LowRankUpdate, Update
from remerge.architectures.compatibility import Note, require_mergeable, weights_only
from remerge.arithmetic.combine import scale_chunk
from remerge.baking.bake_kernel import bake_rows
from remerge.baking.formulas import WeightRows, rows_of, stored_factors
from remerge.baking.update_kernel import round_f64
from remerge.errors import NumericError, printable
from remerge.kernels.blocks import DEFAULT_BLOCK, OK, OVERFLOW, RawTensor
from remerge.shards.chunks import chunks_of
from remerge.shards.inputs import input_identity, require_distinct
from remerge.shards.units import Chunks
from remerge.tensors.checkpoint import Checkpoint, config_of, raw_bytes
from remerge.tensors.dtypes import KERNEL_CODE
from remerge.tensors.layout import OutputTensor, Shard, plan_shards
from remerge.tensors.safetensors import TensorInfo

#: Columns a step of the low-rank product: its accumulators and four rows of A stay in the cache.
COLUMN_BLOCK = 512


@dataclass(frozen=True)
class BakePlan:
    """All that the baked model depends on; see `plan_bake`."""

    label: str
    model: Checkpoint
    adapter: Adapter
    tensors: dict[str, TensorInfo]
    shards: tuple[Shard, ...]
    notes: tuple[Note, ...]
    unties: bool = False
    block: int = COLUMN_BLOCK

    def parameters(self) -> dict[str, Any]:
        """The settings for manifest and resume key: no paths, no machine."""
        return {"method": "lora", "model": self.model.label, "adapter": self.adapter.label}

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Identity of every input folder, by label."""
        folders = {self.model.label: self.model.folder, self.adapter.label: self.adapter.folder}
        return {label: input_identity(folder) for label, folder in folders.items()}

    def details(self) -> dict[str, Any]:
        """What the adapter's config says: a folder's model id is of its weights alone."""
        updates = self.adapter.updates
        return {name: update.described() for name, update in updates.items()}

    def reads(self, tensor: OutputTensor) -> list[TensorInfo]:
        """The input tensors that `compute` maps: the weight, and those of its update."""
        update = self.adapter.updates.get(tensor.name)
        return [*self._weight(tensor).values(), *(update.infos() if update else ())]

    def _weight(self, tensor: OutputTensor) -> dict[str, TensorInfo]:
        """The weight before its update, by the label of whose it is."""
        replacement = self.adapter.replacements.get(tensor.name)
        if replacement is not None:
            return {self.adapter.label: replacement}
        return {self.model.label: self.tensors[tensor.name]}

    def compute(self, tensor: OutputTensor) -> Chunks:
        """Bake one tensor; its statistics are those of its update, such as rank and scale."""
        update = self.adapter.updates.get(tensor.name)
        if update is None:
            yield from self._cast(tensor)
            return {"replaced": True} if tensor.name in self.adapter.replacements else {}
        if isinstance(update, LowRankUpdate) and update.magnitude is None:
            yield from self._bake(tensor, update)
        else:
            yield from self._update(tensor, update)
        return update.statistics()

    def _bake(self, tensor: OutputTensor, update: LowRankUpdate) -> Iterator[np.ndarray]:
        """The plain LoRA, in one kernel."""
        inputs = self._weight(tensor)
        (info,) = inputs.values()
        a_f64, b_f64 = stored_factors(update, self.adapter.label)
        columns = tensor.shape[1]
        weight = RawTensor(raw_bytes(info), KERNEL_CODE[info.dtype])

        def bake(part: np.void) -> int:
            return bake_rows(weight.record, columns, a_f64, b_f64, update.scale, part)

        yield from chunks_of(tensor, bake, inputs, block=self.block, row=columns)

    def _update(self, tensor: OutputTensor, update: Update) -> Iterator[np.ndarray]:
        """Any other update: its rows in float64, each rounded once."""
        inputs = self._weight(tensor)
        ((label, info),) = inputs.items()
        weight = WeightRows(info, label)
        rows = rows_of(update, weight, self.adapter.label)

        def bake(part: np.void) -> int:
            first, last = int(part["begin"]), int(part["end"])
            new_f64 = np.ascontiguousarray(rows(weight.read(first, last), first, last))
            return OK if round_f64(new_f64.reshape(-1), part) else OVERFLOW

        yield from chunks_of(tensor, bake, inputs, block=DEFAULT_BLOCK, row=weight.width)

    def _cast(self, tensor: OutputTensor) -> Iterator[np.ndarray]:
        inputs = self._weight(tensor)
        (info,) = inputs.values()
        source = RawTensor(raw_bytes(info), KERNEL_CODE[info.dtype])

        def cast(part: np.void) -> int:
            return scale_chunk(source.record, False, np.float32(1.0), part)

        yield from chunks_of(tensor, cast, inputs, block=DEFAULT_BLOCK)


def plan_bake(
    model: Checkpoint,
    adapter: Adapter,
    *,
    dtype: str,
    shard_bytes: int,
    label: str = "bake",
) -> BakePlan:
    """Check the adapter against the model by headers and lay out the result.

    dtype and shard_bytes as in `plan_ties`. CheckpointError when a target does not exist or has
    another shape, RecipeError when model and adapter have one label.
    """
    require_distinct([model.label, adapter.label], label)
    tensors, notes = weights_only(model)
    require_mergeable(model, tensors)
    fitted = fit_adapter(adapter, tensors, config_of(model.folder), model.label)
    adapter, tensors = fitted.adapter, fitted.tensors
    notes += fitted.notes
    for name, update in adapter.updates.items():
        scale = getattr(update, "scale", 1.0)
        if not np.isfinite(scale):
            raise NumericError(f"{adapter.label}: scale of {printable(name)!r} is {scale}")
    notes += [
        Note(adapter.label, name, "whole tensor replaced by one saved with the adapter")
        for name in adapter.replacements
    ]
    outputs = [OutputTensor(name, dtype, info.shape) for name, info in tensors.items()]
    return BakePlan(
        label=label,
        model=model,
        adapter=adapter,
        tensors=tensors,
        shards=plan_shards(outputs, shard_bytes),
        notes=tuple(notes),
        unties=fitted.unties,
    )
