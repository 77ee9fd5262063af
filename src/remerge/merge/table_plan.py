"""Running a merge table: a plan whose tensors are the rows.

>>> plan = plan_table(table, {"a": model_a, "b": model_b}, shard_bytes=10**9)
>>> build(plan, "merged", companions=companions_of(model_a.folder), scratch="scratch", threads=8)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remerge.errors import CheckpointError, RecipeError, printable
from remerge.kernels.blocks import RawTensor
from remerge.merge.table import Row, Source, Table
from remerge.methods.method import Chunks, Input, Inputs
from remerge.methods.registry import METHODS
from remerge.shards.inputs import input_identity
from remerge.shards.layout import OutputTensor, Shard, plan_shards
from remerge.tensors.checkpoint import Checkpoint, raw_bytes
from remerge.tensors.compatibility import Note
from remerge.tensors.dtypes import KERNEL_CODE
from remerge.tensors.safetensors import TensorInfo


@dataclass(frozen=True)
class TablePlan:
    """A table with the models that it reads; see `plan_table`."""

    label: str
    table: Table
    models: Mapping[str, Checkpoint]
    tensors: Mapping[Source, TensorInfo]
    rows: Mapping[str, Row]
    shards: tuple[Shard, ...]
    notes: tuple[Note, ...] = ()
    unties: bool = False

    def parameters(self) -> dict[str, Any]:
        """What is merged, for manifest and resume key: no paths, no machine."""
        return {
            "methods": sorted({row.method for row in self.table}),
            "models": sorted(self.models),
            "table": self.table.digest(),
        }

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Identity of every input folder, by label."""
        return {label: input_identity(model.folder) for label, model in self.models.items()}

    def details(self) -> None:
        """Nothing: the digest of the table stands for all of it."""

    def reads(self, tensor: OutputTensor) -> list[TensorInfo]:
        """The input tensors that `compute` maps."""
        return [self.tensors[source] for source in self.rows[tensor.name].sources]

    def compute(self, tensor: OutputTensor) -> Chunks:
        """Merge one tensor: yields its bytes in order, returns its statistics."""
        row = self.rows[tensor.name]
        inputs = Inputs(
            name=row.tensor,
            shape=row.shape,
            dtype=row.dtype,
            base=None if row.base is None else self._input(row.base),
            models=tuple(self._input(source) for source in row.models),
        )
        return METHODS[row.method].compute(inputs, dict(row.parameters))

    def _input(self, source: Source) -> Input:
        info = self.tensors[source]
        raw = RawTensor(raw_bytes(info), KERNEL_CODE[info.dtype])
        return Input(source.model, raw, str(info.path))


def plan_table(
    table: Table,
    models: Mapping[str, Checkpoint],
    *,
    shard_bytes: int,
    label: str = "merge",
    notes: tuple[Note, ...] = (),
) -> TablePlan:
    """Check a table against the headers of its models and lay out the result.

    Args:
        table: The rows.
        models: The models by the label that the rows have.
        shard_bytes: Size limit of an output file.
        label: What the progress bar and error messages call the merge.
        notes: Lines of the manifest.

    Raises:
        CheckpointError: A row reads a tensor that is missing or of another shape or type.
        RecipeError: A model that is not there, or two rows for one tensor.
    """
    tensors: dict[Source, TensorInfo] = {}
    rows: dict[str, Row] = {}
    for row in table:
        if row.tensor in rows:
            raise RecipeError(f"{label}: tensor {printable(row.tensor)!r} is made twice")
        rows[row.tensor] = row
        for source in row.sources:
            where = f"{label}: {printable(source.model)}"
            if source.model not in models:
                raise RecipeError(f"{where} is not among the models")
            info = models[source.model].tensors.get(source.tensor)
            if info is None:
                raise CheckpointError(f"{where} has no tensor {printable(source.tensor)!r}")
            if info.dtype not in KERNEL_CODE or info.shape != row.shape:
                raise CheckpointError(
                    f"{where}: tensor {printable(source.tensor)!r} is {info.dtype} "
                    f"{list(info.shape)}; expected F16, BF16 or F32 of shape {list(row.shape)}"
                )
            tensors[source] = info
    outputs = [OutputTensor(row.tensor, row.dtype, row.shape) for row in table]
    return TablePlan(label, table, models, tensors, rows, plan_shards(outputs, shard_bytes), notes)
