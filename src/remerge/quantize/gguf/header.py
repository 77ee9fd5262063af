"""Where the tensors of an untrusted GGUF file lie.

>>> read_gguf_header(Path("model.gguf"))["blk.0.attn_q.weight"].dtype
'Q4_K'

The layout is that of the GGUF specification, versions 2 and 3, little-endian. Every length is
checked against the file before it is used.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from remerge.errors import CheckpointError, printable
from remerge.files import regular_file_size
from remerge.tensors.safetensors import TensorInfo

_MAGIC = b"GGUF"
#: Bytes of the metadata types by number; strings and arrays have lengths of their own.
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_FORMS = dict(zip(_SCALARS, "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_UINT32 = 4
_ALIGNMENT_KEY = "general.alignment"
_SPLIT_KEY = "split.count"
#: Far above any model. A file may be sparse, so its size alone bounds nothing: a terabyte of zeros
#: is a table of 100 thousand million empty texts.
_NESTING_LIMIT = 4
_DIMENSIONS_LIMIT = 4
_ENTRIES_LIMIT = 100_000
_TENSORS_LIMIT = 1_000_000
_ITEMS_LIMIT = 4_000_000
_NAME_LIMIT = 65_535
_TEXT_LIMIT = 64_000_000


class _Reader:
    """Steps through the file's header; ValueError when it says more than the file holds."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.position = data, 0
        self._items = 0

    def skip(self, count: int) -> None:
        if count > len(self.data) - self.position:
            raise ValueError("it ends within its header")
        self.position += count

    def number(self, form: str) -> int:
        (value,) = self.numbers(form, 1)
        return value

    def numbers(self, form: str, count: int) -> tuple[int, ...]:
        at, size = self.position, count * struct.calcsize("<" + form)
        self.skip(size)
        return struct.unpack_from(f"<{count}{form}", self.data, at)

    def string(self, limit: int = _TEXT_LIMIT) -> bytes:
        length = self.number("Q")
        if length > limit:
            raise ValueError(f"it has a text of {length} bytes where {limit} are the most")
        at = self.position
        self.skip(length)
        return self.data[at : at + length]

    def skip_value(self, kind: int, depth: int = 0) -> None:
        if kind in _SCALARS:
            self.skip(_SCALARS[kind])
        elif kind == _STRING:
            self.skip(self.number("Q"))
        elif kind == _ARRAY and depth < _NESTING_LIMIT:
            item, count = self.number("I"), self.number("Q")
            if item in _SCALARS:
                self.skip(_SCALARS[item] * count)
            else:
                self._items += count
                if self._items > _ITEMS_LIMIT:
                    raise ValueError(f"its metadata have lists of more than {_ITEMS_LIMIT} values")
                for _ in range(count):
                    self.skip_value(item, depth + 1)
        else:
            raise ValueError(f"its metadata has a value of the unknown type {kind}")


@dataclass(frozen=True)
class Entry:
    """An entry of the metadata: where it lies in the file, and its value where that is simple.

    `value` is a number, a text, or the first number of an array of them; None for anything else.
    """

    start: int
    stop: int
    value: int | float | str | None


def read_gguf_metadata(path: Path) -> dict[str, Entry]:
    """The metadata of a GGUF file by their keys, in the order of the file.

    Raises CheckpointError for anything but a well-formed file.
    """
    with _opened(path) as data:
        return _entries(_Reader(data))


def require_alone(path: Path) -> None:
    """Check all that a program takes a length or a place from, and that it reads this file alone.

    Args:
        path: A GGUF file.

    Raises:
        CheckpointError: The header is damaged, or names further files, which a program would open.
    """
    read_gguf_header(path)
    split = read_gguf_metadata(path).get(_SPLIT_KEY)
    if split is not None and split.value not in (0, 1):
        raise CheckpointError(
            f"{path}: is a part of a model, of which a program reads the other parts unchecked; "
            "join them first (`llama-gguf-split --merge`)"
        )


def read_gguf_header(path: Path) -> dict[str, TensorInfo]:
    """All tensors of a GGUF file, in the order of its table.

    `dtype` is ggml's name (`F16`, `Q4_K`, …), `shape` is row-major (the reverse of the file's own
    order). Raises CheckpointError for anything but a well-formed file.
    """
    with _opened(path) as data:
        return _tensors(_Reader(data), path, len(data))


@contextmanager
def _opened(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a file that begins as GGUF does; a ValueError about them becomes an error."""
    size = regular_file_size(path)
    if size < 24:
        raise CheckpointError(f"{path}: {size} bytes is too short for a GGUF file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != _MAGIC:
            raise CheckpointError(f"{path}: does not begin with 'GGUF'; not a GGUF file")
        try:
            yield data
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged GGUF, {error}: fetch it again") from None


def _counts(reader: _Reader) -> tuple[int, int]:
    """The numbers of tensors and of entries of the metadata."""
    reader.skip(len(_MAGIC))
    version = reader.number("I")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}, known are 2 and 3 (little-endian)")
    count, entries = reader.numbers("Q", 2)
    if count > _TENSORS_LIMIT or entries > _ENTRIES_LIMIT:
        raise ValueError(f"it claims {count} tensors and {entries} entries of metadata")
    return count, entries


def _keys(reader: _Reader, entries: int) -> Iterator[tuple[str, int, int]]:
    """Key, place and type of every entry; who takes them steps over the value."""
    seen = set()
    for _ in range(entries):
        start = reader.position
        key, kind = reader.string(_NAME_LIMIT).decode("utf-8"), reader.number("I")
        if key in seen:
            raise ValueError(f"its metadata has {printable(key)!r} twice")
        if key == _ALIGNMENT_KEY and kind != _UINT32:
            raise ValueError("its alignment is no whole number of 32 bits")
        seen.add(key)
        yield key, start, kind


def _value(reader: _Reader, kind: int) -> int | float | str | None:
    """The value of an entry, which is stepped over."""
    at = reader.position
    reader.skip_value(kind)
    after = reader.position
    found: int | float | str | None = None
    reader.position = at
    if kind == _ARRAY:
        kind, count = reader.number("I"), reader.number("Q")
        kind = kind if count and kind in _SCALARS else -1
    if kind in _SCALARS:
        found = reader.numbers(_FORMS[kind], 1)[0]
    elif kind == _STRING:
        found = reader.string().decode("utf-8")
    reader.position = after
    return found


def _entries(reader: _Reader) -> dict[str, Entry]:
    _, count = _counts(reader)
    found: dict[str, Entry] = {}
    for key, start, kind in _keys(reader, count):
        value = _value(reader, kind)
        found[key] = Entry(start, reader.position, value)
    return found


def _tensors(reader: _Reader, path: Path, size: int) -> dict[str, TensorInfo]:
    count, entries = _counts(reader)
    alignment = 32
    for key, _, kind in _keys(reader, entries):
        if key == _ALIGNMENT_KEY:
            alignment = reader.number("I")
        else:
            reader.skip_value(kind)
    if alignment == 0 or alignment & (alignment - 1):
        raise ValueError(f"its alignment {alignment} is no power of two")
    table = [_entry(reader) for _ in range(count)]
    start = reader.position + -reader.position % alignment
    tensors: dict[str, TensorInfo] = {}
    end = start
    for name, dtype, shape, offset, nbytes in sorted(table, key=lambda entry: entry[3]):
        if name in tensors:
            raise ValueError(f"tensor {printable(name)!r} is given twice")
        if offset % alignment or start + offset < end or start + offset + nbytes > size:
            raise ValueError(f"tensor {printable(name)!r} does not lie where it can")
        end = start + offset + nbytes
        tensors[name] = TensorInfo(name, dtype, shape, path, start + offset, nbytes)
    return {entry[0]: tensors[entry[0]] for entry in table}


def _entry(reader: _Reader) -> tuple[str, str, tuple[int, ...], int, int]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name = reader.string(_NAME_LIMIT).decode("utf-8")
    dimensions = reader.number("I")
    if dimensions > _DIMENSIONS_LIMIT:
        raise ValueError(f"tensor {printable(name)!r} has {dimensions} dimensions")
    shape = reader.numbers("Q", dimensions)[::-1]
    kind = GGMLQuantizationType(reader.number("I"))
    block, block_bytes = GGML_QUANT_SIZES[kind]
    elements = math.prod(shape)
    if (shape or (1,))[-1] % block or elements >= 2**63:
        raise ValueError(f"tensor {printable(name)!r} of {kind.name} has no whole blocks")
    return name, kind.name, shape, reader.number("Q"), elements // block * block_bytes
