"""Running a merge table: a plan whose tensors are the rows.

>>> plan = plan_table(table, {"a": model_a, "b": model_b}, shard_bytes=10**9)
>>> build(plan, "merged", companions=companions_of(model_a.folder), scratch="scratch", threads=8)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remerge.architectures.compatibility import Note
from remerge.errors import CheckpointError, RecipeError, printable
from remerge.kernels.blocks import RawTensor
from remerge.merge.computed import ComputedModel, Memory, all_inputs
from remerge.merge.table import Row, Source, Table
from remerge.methods.method import Chunks, Input, Inputs
from remerge.methods.registry import METHODS
from remerge.shards.inputs import input_identity
from remerge.tensors.checkpoint import Checkpoint, raw_bytes
from remerge.tensors.dtypes import KERNEL_CODE
from remerge.tensors.layout import OutputTensor, Shard, plan_shards
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
    computed: Mapping[str, ComputedModel] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    vocabulary: str = ""

    def parameters(self) -> dict[str, Any]:
        """What is merged, for manifest and resume key: no paths, no machine."""
        described: dict[str, Any] = {
            "methods": sorted({row.method for row in self.table}),
            "models": sorted(self.models),
            "table": self.table.digest(),
        }
        if self.computed:
            described["computed"] = {n: m.plan.parameters() for n, m in self.computed.items()}
        return described

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Identity of every input folder, by label."""
        files = {
            label: input_identity(model.folder)
            for label, model in self.models.items()
            if label not in self.computed
        }
        return all_inputs(files, self.computed)

    def details(self) -> Any:
        """What computed models depend on besides, and where rows of tokens went."""
        computed = {n: m.plan.details() for n, m in self.computed.items()}
        found = {"computed": computed} if computed else {}
        if self.vocabulary:
            found["vocabulary"] = {"rows": self.vocabulary}
        return found or None

    def reads(self, tensor: OutputTensor) -> list[TensorInfo]:
        """The input tensors that `compute` maps."""
        found: list[TensorInfo] = []
        for source in self.rows[tensor.name].sources:
            info, model = self.tensors[source], self.computed.get(source.model)
            found += [info] if model is None else model.plan.reads(model.tensor_of(info))
        return found

    def needs(self, tensor: OutputTensor) -> int:
        """Bytes of computed inputs that are held while the tensor is merged."""
        own, below = 0, 0
        for source in dict.fromkeys(self.rows[tensor.name].sources):
            if source.model in self.computed:
                info = self.tensors[source]
                own += info.nbytes
                below = max(below, self.computed[source.model].needs(info) - info.nbytes)
        return own + below

    def compute(self, tensor: OutputTensor) -> Chunks:
        """Merge one tensor: yields its bytes in order, returns its statistics."""
        with self.memory.held(self.needs(tensor)):
            return (yield from self._merge(tensor))

    def _merge(self, tensor: OutputTensor) -> Chunks:
        row = self.rows[tensor.name]
        found: dict[Source, np.ndarray] = {}
        for source in row.sources:
            if source.model in self.computed and source not in found:
                found[source] = self.computed[source.model].bytes_of(self.tensors[source])
        inputs = Inputs(
            name=row.tensor,
            shape=row.shape,
            dtype=row.dtype,
            base=None if row.base is None else self._input(row.base, found),
            models=tuple(self._input(source, found) for source in row.models),
        )
        return METHODS[row.method].compute(inputs, dict(row.parameters))

    def _input(self, source: Source, computed: Mapping[Source, np.ndarray]) -> Input:
        info = self.tensors[source]
        data = computed.get(source)
        raw = RawTensor(raw_bytes(info) if data is None else data, KERNEL_CODE[info.dtype])
        return Input(source.model, raw, str(info.path))


def plan_table(
    table: Table,
    models: Mapping[str, Checkpoint | ComputedModel],
    *,
    shard_bytes: int,
    label: str = "merge",
    notes: tuple[Note, ...] = (),
    unties: bool = False,
) -> TablePlan:
    """Check a table against the headers of its models and lay out the result.

    Args:
        table: The rows.
        models: The models by the label that the rows have.
        shard_bytes: Size limit of an output file.
        label: What the progress bar and error messages call the merge.
        notes: Lines of the manifest.
        unties: Whether the output head is a matrix of its own in the result, and not in its config.

    Raises:
        CheckpointError: A row reads a tensor that is missing or of another shape or type.
        RecipeError: A model that is not there, or two rows for one tensor.
    """
    computed = {n: m for n, m in models.items() if isinstance(m, ComputedModel)}
    files = {n: m.checkpoint if isinstance(m, ComputedModel) else m for n, m in models.items()}
    tensors: dict[Source, TensorInfo] = {}
    rows: dict[str, Row] = {}
    for row in table:
        if row.tensor in rows:
            raise RecipeError(f"{label}: tensor {printable(row.tensor)!r} is made twice")
        rows[row.tensor] = row
        for source in row.sources:
            where = f"{label}: {printable(source.model)}"
            if source.model not in files:
                raise RecipeError(f"{where} is not among the models")
            info = files[source.model].tensors.get(source.tensor)
            if info is None:
                raise CheckpointError(f"{where} has no tensor {printable(source.tensor)!r}")
            if info.dtype not in KERNEL_CODE or info.shape != row.shape:
                raise CheckpointError(
                    f"{where}: tensor {printable(source.tensor)!r} is {info.dtype} "
                    f"{list(info.shape)}; expected F16, BF16 or F32 of shape {list(row.shape)}"
                )
            tensors[source] = info
    outputs = [OutputTensor(row.tensor, row.dtype, row.shape) for row in table]
    return TablePlan(
        label=label,
        table=table,
        models=files,
        tensors=tensors,
        rows=rows,
        shards=plan_shards(outputs, shard_bytes),
        notes=notes,
        unties=unties,
        computed=computed,
    )


def tables_of(plan: TablePlan) -> dict[str, Table]:
    """The tables behind a plan by label: those of the models it computes first, its own last."""
    found: dict[str, Table] = {}
    for model in plan.computed.values():
        if isinstance(model.plan, TablePlan):
            found |= tables_of(model.plan)
    return found | {plan.label: plan.table}
