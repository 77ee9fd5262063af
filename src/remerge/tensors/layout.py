"""The layout of the files we write, fixed before a byte of data exists.

>>> shards = plan_shards([OutputTensor("model.norm.weight", "F16", (5120,)), …], limit=10**9)

Names, order, offsets and the header follow from the list of tensors and the size limit alone, so
the same weights are the same bytes whoever writes them and in whatever order the data arrive.
Headers carry `{"format": "pt"}`, sorted keys, no times and no paths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from remerge.errors import RecipeError
from remerge.tensors.dtypes import ITEM_SIZE

_ALIGNMENT = 64


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to be written: `shape` of elements of the safetensors type `dtype`."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * ITEM_SIZE[self.dtype]


@dataclass(frozen=True)
class Shard:
    """One output file: `header` (length prefix included), then the tensors' bytes in order."""

    file: str
    tensors: tuple[OutputTensor, ...]
    header: bytes

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    def offsets(self) -> dict[str, int]:
        """Where each tensor begins in the file."""
        position, result = len(self.header), {}
        for tensor in self.tensors:
            result[tensor.name] = position
            position += tensor.nbytes
        return result


def plan_shards(
    tensors: Sequence[OutputTensor], limit: int, stem: str = "model"
) -> tuple[Shard, ...]:
    """Cut `tensors`, in their order, into files of at most `limit` bytes of data.

    A tensor larger than the limit has a file of its own. One file is called `model.safetensors`,
    several `model-00001-of-00003.safetensors`.
    """
    if limit < 1:
        raise RecipeError(f"shard size {limit} must be at least one byte")
    groups: list[list[OutputTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    names = (
        [f"{stem}.safetensors"]
        if len(groups) == 1
        else [f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    )
    return tuple(
        Shard(name, tuple(group), header_bytes(group))
        for name, group in zip(names, groups, strict=True)
    )


def header_bytes(tensors: Iterable[OutputTensor]) -> bytes:
    """The safetensors header of a file that holds `tensors` one after the other."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    padded = text + b" " * (-(len(text) + 8) % _ALIGNMENT)
    return len(padded).to_bytes(8, "little") + padded


def index_of(shards: Sequence[Shard]) -> dict[str, object]:
    """The content of `model.safetensors.index.json` for several shards."""
    return {
        "metadata": {"total_size": sum(t.nbytes for shard in shards for t in shard.tensors)},
        "weight_map": {t.name: shard.file for shard in shards for t in shard.tensors},
    }
