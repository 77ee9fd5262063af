"""Read the header of a safetensors file that a stranger wrote.

>>> read_header(path)["model.norm.weight"].shape

The header is an 8-byte little-endian length, then JSON. The reference reader maps whatever the JSON
says; this one first checks everything that it says against the file, because a merge that reads the
wrong bytes ends in a model that is wrong without a word: sizes, ranges, holes, overlaps, names
given twice, types, products that overflow.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.dtypes import ITEM_SIZE

#: The reference implementation's own bound on a header.
HEADER_LIMIT = 100_000_000
DIMENSIONS_LIMIT = 16
_NESTING_LIMIT = 64
_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


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


def regular_file_size(path: Path) -> int:
    """Size of `path`, which must be a regular file (a FIFO would block, a device never end)."""
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: not a regular file")
    return status.st_size


def _object_without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON leaves open which of two equal keys wins, so two readers may see two models."""
    seen = dict(pairs)
    if len(seen) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {printable(twice)!r} is given twice")
    return seen


def check_text(name: str, where: str) -> None:
    """CheckpointError for half of a surrogate pair: a pickle can say it, UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{where}: its name is not valid Unicode") from None


def parse_json_object(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object from untrusted bytes, or CheckpointError with `where` in its line."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_without_twins,
            parse_constant=_finite,
            parse_float=_finite,
        )
        _check_nesting(value)
        if _HALF_A_PAIR.search(data):  # an escape may say what UTF-8 cannot
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise CheckpointError(f"{where}: nested too deep to be genuine") from None
    except UnicodeEncodeError:
        raise CheckpointError(f"{where}: holds half of a surrogate pair, no Unicode") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise CheckpointError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _finite(text: str) -> float:
    """Python reads NaN and Infinity, and 1e999 as one; JSON has none and none can be written."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{printable(text, 40)} is not a finite number")
    return value


def _check_nesting(value: Any) -> None:
    """RecursionError for what another reader, deeper in its own calls, could not take apart."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_NESTING_LIMIT):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise RecursionError


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
