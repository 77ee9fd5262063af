"""What a unit of work reads and writes, told from headers alone.

>>> footprint(inputs_by_tensor(plan), plan.shards[0]).read
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from remerge.shards.units import Plan
from remerge.tensors.layout import Shard
from remerge.tensors.safetensors import TensorInfo


@dataclass(frozen=True)
class Footprint:
    """Bytes of input that a unit reads, and of output that it writes."""

    read: int
    written: int


def inputs_by_tensor(plan: Plan) -> dict[str, Sequence[TensorInfo]]:
    """The ranges of input files that each output tensor of a merge is computed from."""
    return {t.name: plan.reads(t) for shard in plan.shards for t in shard.tensors}


def footprint(inputs: Mapping[str, Sequence[TensorInfo]], shard: Shard) -> Footprint:
    """What the unit that makes `shard` reads and writes."""
    read = sum(info.nbytes for tensor in shard.tensors for info in inputs.get(tensor.name, ()))
    return Footprint(read, shard.nbytes)


def input_files(inputs: Mapping[str, Sequence[TensorInfo]]) -> dict[str, int]:
    """Size of every input file, by path."""
    paths: set[Path] = {info.path for infos in inputs.values() for info in infos}
    return {str(path): path.stat().st_size for path in sorted(paths)}
