"""Where the tensors of an untrusted legacy GGML file lie.

>>> read_ggml_header(Path("model.ggml"))["layers.0.attention.wq.weight"].dtype
'Q4_0'

The layout is that of llama.cpp in mid 2023, container `ggjt` version 3: nine numbers, the
vocabulary, then each tensor with a small header of its own and its data at a multiple of 32 bytes.
Versions 1 and 2 had other block types under the same numbers and are refused. Every length is
checked against the file before it is used.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

from remerge.errors import CheckpointError, printable
from remerge.files import regular_file_size
from remerge.tensors.safetensors import TensorInfo, check_text

_MAGIC, _VERSION = b"tjgg", 3
_HEAD_NUMBERS, _VOCABULARY_AT = 9, 2
_ALIGNMENT = 32
_NAME_LIMIT, _DIMENSIONS_LIMIT = 1024, 4
#: Far above any model. A file may be sparse, so its size alone bounds nothing.
_TOKENS_LIMIT = 4_000_000


def require_alone(path: Path) -> None:
    """Check all that a program takes a length or a place from; the format names no further file.

    Args:
        path: A GGML file.

    Raises:
        CheckpointError: The file is damaged.
    """
    read_ggml_header(path)


def read_ggml_header(path: Path) -> dict[str, TensorInfo]:
    """All tensors of a ggjt file, in the order of the file.

    `dtype` is ggml's name (`F16`, `Q4_0`, …), `shape` is row-major (the reverse of the file's own
    order). Raises CheckpointError for anything but a well-formed file.
    """
    size = regular_file_size(path)
    if size < 4 * _HEAD_NUMBERS:
        raise CheckpointError(f"{path}: {size} bytes is too short for a GGML file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != _MAGIC:
            raise CheckpointError(f"{path}: does not begin as a GGML file of kind 'ggjt' does")
        try:
            return _tensors(data, path)
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged GGML, {error}: fetch it again") from None


def _numbers(data: mmap.mmap, at: int, count: int) -> tuple[int, ...]:
    if count * 4 > len(data) - at:
        raise ValueError("it ends within a header")
    return struct.unpack_from(f"<{count}I", data, at)


def _tensors(data: mmap.mmap, path: Path) -> dict[str, TensorInfo]:
    head = _numbers(data, 0, _HEAD_NUMBERS)
    if head[1] != _VERSION:
        raise ValueError(f"its version is {head[1]}, known is {_VERSION}")
    if head[_VOCABULARY_AT] > _TOKENS_LIMIT:
        raise ValueError(f"it claims {head[_VOCABULARY_AT]} tokens")
    at = 4 * _HEAD_NUMBERS
    for _ in range(head[_VOCABULARY_AT]):
        (length,) = _numbers(data, at, 1)
        at += 4 + length + 4  # the score behind the text is a float
    tensors: dict[str, TensorInfo] = {}
    while at < len(data):
        info = _entry(data, at, path)
        if info.name in tensors:
            raise ValueError(f"tensor {printable(info.name)!r} is given twice")
        tensors[info.name] = info
        at = info.offset + info.nbytes
    if at != len(data) or not tensors:
        raise ValueError("it ends within its vocabulary")
    return tensors


def _entry(data: mmap.mmap, at: int, path: Path) -> TensorInfo:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    dimensions, length, code = _numbers(data, at, 3)
    if dimensions > _DIMENSIONS_LIMIT or not 0 < length <= _NAME_LIMIT:
        raise ValueError(f"what stands at byte {at} is no tensor")
    shape = _numbers(data, at + 12, dimensions)[::-1]
    at += 12 + 4 * dimensions
    name = data[at : at + length].decode("utf-8")
    check_text(name, str(path))
    offset = at + length + -(at + length) % _ALIGNMENT
    kind = GGMLQuantizationType(code)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    elements = math.prod(shape)
    nbytes = elements // block * block_bytes
    if (shape or (1,))[-1] % block or nbytes > len(data) - offset:
        raise ValueError(f"tensor {printable(name)!r} does not lie where it can")
    return TensorInfo(name, kind.name, shape, path, offset, nbytes)
