"""Baking a LoRA into a model as a plan.

>>> plan = plan_bake(model, read_adapter("adapters/kimiko"), dtype="F16", shard_bytes=10**9)

Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1; the rounding stands beside the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from remerge.errors import NumericError, printable
from remerge.kernels.blocks import BAD_INPUT, DEFAULT_BLOCK, OK, OVERFLOW, address
from remerge.kernels.lora import bake_rows, cast_chunk
from remerge.merge.inputs import input_identity, name_bad_number, overflow
from remerge.shards.layout import OutputTensor, Shard, plan_shards
from remerge.shards.units import CHUNK, Emit
from remerge.tensors.adapter import Adapter, LowRankUpdate, check_targets
from remerge.tensors.checkpoint import Checkpoint, raw_bytes, read_f32
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE
from remerge.tensors.fitting import Note, require_mergeable, weights_only
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
    block: int = COLUMN_BLOCK

    def parameters(self) -> dict[str, Any]:
        """The settings for manifest and resume key: no paths, no machine."""
        return {"method": "lora", "model": self.model.label, "adapter": self.adapter.label}

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Identity of every input folder, by label."""
        folders = {self.model.label: self.model.folder, self.adapter.label: self.adapter.folder}
        return {label: input_identity(folder) for label, folder in folders.items()}

    def reads(self, tensor: OutputTensor) -> list[TensorInfo]:
        """The input tensors that `compute` maps."""
        return [self.adapter.replacements.get(tensor.name) or self.tensors[tensor.name]]

    def compute(self, tensor: OutputTensor, emit: Emit) -> dict[str, Any]:
        """Bake one tensor; its statistics are the rank and scale of its update."""
        update = self.adapter.updates.get(tensor.name)
        if update is not None:
            self._bake(tensor, update, emit)
            return {"rank": update.a.shape[0], "scale": update.scale}
        replacement = self.adapter.replacements.get(tensor.name)
        label = self.model.label if replacement is None else self.adapter.label
        self._cast(tensor, replacement or self.tensors[tensor.name], label, emit)
        return {} if replacement is None else {"replaced": True}

    def _bake(self, tensor: OutputTensor, update: LowRankUpdate, emit: Emit) -> None:
        info = self.adapter.replacements.get(tensor.name) or self.tensors[tensor.name]
        a_f64, b_f64 = _factor(update.a, self.adapter.label), _factor(update.b, self.adapter.label)
        if update.transposed:
            # (B·A)ᵀ = Aᵀ·Bᵀ, and each product commutes: the sum over k keeps its order.
            a_f64, b_f64 = np.ascontiguousarray(b_f64.T), np.ascontiguousarray(a_f64.T)
        rows, columns = tensor.shape
        item = ITEM_SIZE[tensor.dtype]
        step = max(1, CHUNK // max(1, columns))
        raw = raw_bytes(info)
        out_u8 = np.empty(min(step, rows) * columns * item, np.uint8)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            status = bake_rows(
                address(raw),
                KERNEL_CODE[info.dtype],
                columns,
                a_f64,
                b_f64,
                update.scale,
                first,
                last,
                address(out_u8),
                KERNEL_CODE[tensor.dtype],
                self.block,
            )
            self._check(status, tensor, info, self.model.label)
            emit(out_u8[: (last - first) * columns * item])

    def _cast(self, tensor: OutputTensor, info: TensorInfo, label: str, emit: Emit) -> None:
        raw = raw_bytes(info)
        item = ITEM_SIZE[tensor.dtype]
        out_u8 = np.empty(min(CHUNK, tensor.size) * item, np.uint8)
        for begin in range(0, tensor.size, CHUNK):
            end = min(begin + CHUNK, tensor.size)
            status = cast_chunk(
                address(raw),
                KERNEL_CODE[info.dtype],
                begin,
                end,
                address(out_u8),
                KERNEL_CODE[tensor.dtype],
                DEFAULT_BLOCK,
            )
            self._check(status, tensor, info, label)
            emit(out_u8[: (end - begin) * item])

    @staticmethod
    def _check(status: int, tensor: OutputTensor, info: TensorInfo, label: str) -> None:
        if status == BAD_INPUT:
            raise name_bad_number({label: info}, tensor.name)
        if status == OVERFLOW:
            raise overflow(tensor.name, tensor.dtype)
        assert status == OK


def _factor(info: TensorInfo, label: str) -> np.ndarray:
    """A or B as float64, or NumericError for a NaN or Inf in it."""
    values = read_f32(info)
    if not np.isfinite(values).all():
        raise name_bad_number({label: info}, info.name)
    return values.reshape(info.shape).astype(np.float64)


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
    another shape.
    """
    tensors, notes = weights_only(model)
    require_mergeable(model, tensors)
    check_targets(adapter, tensors, model.label)
    for name, update in adapter.updates.items():
        if not np.isfinite(update.scale):
            raise NumericError(f"{adapter.label}: scale of {printable(name)!r} is {update.scale}")
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
    )
