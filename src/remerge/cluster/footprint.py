"""What a unit of work reads and writes, told from headers alone.

>>> footprint(inputs_by_tensor(plan), plan.shards[0]).read
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from remerge.shards.layout import Shard
from remerge.shards.units import Plan
from remerge.tensors.checkpoint import Checkpoint
from remerge.tensors.safetensors import TensorInfo


@dataclass(frozen=True)
class Footprint:
    """Bytes of input that a unit reads, and of output that it writes."""

    read: int
    written: int


def inputs_by_tensor(plan: Plan) -> dict[str, list[TensorInfo]]:
    """The ranges of input files that each output tensor of a merge is computed from.

    Every plan keeps its inputs in tables by the name of the output tensor; whole checkpoints, which
    also hold what the merge leaves out, are passed over.
    """
    found: dict[str, list[TensorInfo]] = {}
    _collect(plan, "", found)
    return found


def _collect(value: Any, tensor: str, found: dict[str, list[TensorInfo]]) -> None:
    if isinstance(value, TensorInfo):
        found.setdefault(tensor, []).append(value)
    elif isinstance(value, Checkpoint | Shard):
        return
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            _collect(entry, str(name), found)
    elif isinstance(value, tuple):
        for entry in value:
            _collect(entry, tensor, found)
    elif is_dataclass(value):
        for field in fields(value):
            _collect(getattr(value, field.name), tensor, found)


def footprint(inputs: Mapping[str, list[TensorInfo]], shard: Shard) -> Footprint:
    """What the unit that makes `shard` reads and writes."""
    read = sum(info.nbytes for tensor in shard.tensors for info in inputs.get(tensor.name, ()))
    return Footprint(read, shard.nbytes)


def input_files(inputs: Mapping[str, list[TensorInfo]]) -> dict[str, int]:
    """Size of every input file, by path."""
    paths: set[Path] = {info.path for infos in inputs.values() for info in infos}
    return {str(path): path.stat().st_size for path in sorted(paths)}
