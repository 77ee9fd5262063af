"""Read the header of an untrusted safetensors file.

>>> read_header(path)["model.norm.weight"].shape

The header is an 8-byte little-endian length, then JSON. The reference reader maps whatever the JSON
says; this one first checks everything that it says against the file, because a merge that reads the
wrong bytes ends in a model that is silently wrong: sizes, ranges, holes, overlaps, names
given twice, types, products that overflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.files import regular_file_size
from remerge.tensors.dtypes import ITEM_SIZE
from remerge.tensors.json_files import parse_json_object

#: The reference implementation's own bound on a header.
HEADER_LIMIT = 100_000_000
DIMENSIONS_LIMIT = 16


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `nbytes` little-endian bytes at `offset` of the file `path`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def check_text(name: str, where: str) -> None:
    """CheckpointError for half of a surrogate pair: a pickle can say it, UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{where}: its name is not valid Unicode") from None


def read_header(path: Path) -> dict[str, TensorInfo]:
    """All tensors of one file, in the order of their bytes.

    Raises CheckpointError, naming the file and the tensor, for anything but a well-formed file
    whose tensors fill it without holes or overlaps.
    """
    size = regular_file_size(path)
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise CheckpointError(f"{path}: {size} bytes is too short for a safetensors file")
        length = int.from_bytes(prefix, "little")
        if length > min(HEADER_LIMIT, size - 8):
            raise CheckpointError(
                f"{path}: header of {length} bytes in a file of {size} bytes; "
                "the file is truncated or not safetensors: fetch it again"
            )
        header = file.read(length)
    return parse_header(header, path, size)


def parse_header(header: bytes, path: Path, file_size: int) -> dict[str, TensorInfo]:
    """`read_header` for header bytes already in hand, of a file of `file_size` bytes."""
    if not header.startswith(b"{"):
        raise CheckpointError(f"{path}: the header does not start with '{{'; not safetensors")
    entries = parse_json_object(header, f"{path}: header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: __metadata__ is not an object")
    start = 8 + len(header)
    tensors = sorted(
        (_tensor(path, name, entry, start) for name, entry in entries.items()),
        key=lambda tensor: (tensor.offset, tensor.offset + tensor.nbytes),
    )
    _check_layout(tensors, path, start, file_size)
    return {tensor.name: tensor for tensor in tensors}


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    where = f"{path}: tensor {printable(name)!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise CheckpointError(f"{where}: unknown dtype {printable(dtype, 40)!r}")
    if not _naturals(shape) or len(shape) > DIMENSIONS_LIMIT:
        raise CheckpointError(f"{where}: shape {printable(shape, 80)} is not a list of naturals")
    if not _naturals(offsets) or len(offsets) != 2:
        raise CheckpointError(
            f"{where}: data_offsets {printable(offsets, 80)} are not two naturals"
        )
    begin, end = offsets
    needed = math.prod(shape) * ITEM_SIZE[dtype]
    if end - begin != needed:
        raise CheckpointError(
            f"{where}: {dtype} {shape} needs {needed} bytes, data_offsets give {end - begin}"
        )
    return TensorInfo(name, dtype, tuple(shape), path, data_start + begin, needed)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 2**63 for item in value
    )


def _check_layout(tensors: Iterable[TensorInfo], path: Path, start: int, file_size: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.offset != position:
            kind = (
                "overlaps the one before" if tensor.offset < position else "leaves a hole before it"
            )
            raise CheckpointError(f"{path}: tensor {printable(tensor.name)!r} {kind}")
        position += tensor.nbytes
    if position != file_size:
        raise CheckpointError(
            f"{path}: the header describes {position} bytes, the file has {file_size}; "
            "it is truncated or was changed: fetch it again"
        )
