"""Turn tensors of a checkpoint into the bytes of ggml types, a few rows at a time.

>>> write_tensors(file, [(tensor, TYPES["Q4_0"])], threads=2, label="gguf_q4_0")

The rows are cut into pieces at places that depend on the shape alone; the pieces are computed by
any number of threads and written in order. What is in memory is a few pieces, never a tensor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import numpy as np

from remerge.errors import CheckpointError, NumericError, printable
from remerge.files import require_space
from remerge.kernels.blocks import widen
from remerge.progress import track
from remerge.quantize.blocks import q4_0
from remerge.quantize.blocks.types import BlockType
from remerge.tensors.checkpoint import raw_bytes
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE
from remerge.tensors.safetensors import TensorInfo

#: Weights in one piece: large enough to keep a thread busy, small enough for its cache.
PIECE = 1 << 18
#: The data of every tensor begin at a multiple of this, in both containers.
ALIGNMENT = 32


class Rows(Protocol):
    """A tensor that is encoded row by row; `LlamaTensor` is one.

    `rotated_heads` is not 0 where rows change places, and `source_rows` says how.
    """

    @property
    def info(self) -> TensorInfo: ...
    @property
    def rotated_heads(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def source_rows(self, start: int, stop: int) -> np.ndarray: ...


R = TypeVar("R", bound=Rows)


def _refuse(tensor: Rows, kind: BlockType, values: np.ndarray, start: int) -> None:
    """Raise NumericError for a piece whose numbers cannot be stored."""
    where = f"{tensor.info.path}: tensor {printable(tensor.info.name)!r}"
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        row, column = divmod(int(bad[0]), tensor.columns)
        source = int(tensor.source_rows(start + row, start + row + 1)[0])
        index = [source, column] if len(tensor.info.shape) == 2 else [column]
        raise NumericError(f"{where}: {values[bad[0]]} at index {index}; repair the source")
    raise NumericError(
        f"{where}: numbers up to {float(np.abs(values).max()):.6g} are too large for {kind.name}"
    )


def encode_rows(tensor: Rows, kind: BlockType, start: int, stop: int) -> np.ndarray:
    """Rows [start:stop] of `tensor` as uint8 bytes of type `kind`.

    NumericError names the tensor and the index of a NaN or Inf in it.
    """
    info = tensor.info
    stride = tensor.columns * ITEM_SIZE[info.dtype]
    if tensor.rotated_heads:
        raw = raw_bytes(info).reshape(tensor.rows, stride)[tensor.source_rows(start, stop)]
        raw = raw.reshape(-1)
    else:
        raw = raw_bytes(info)[start * stride : stop * stride]
    values = np.empty((stop - start) * tensor.columns, np.float32)
    widen(raw, KERNEL_CODE[info.dtype], values)
    out = np.empty(kind.size(values.size), np.uint8)
    if not q4_0.all_finite(values) or not kind.kernel(values, out):
        _refuse(tensor, kind, values, start)
    return out


def row_ranges(tensor: Rows, kind: BlockType) -> list[tuple[int, int]]:
    """First and past-the-last row of each piece; CheckpointError for rows of broken blocks."""
    if tensor.columns % kind.width:
        raise CheckpointError(
            f"{tensor.info.path}: tensor {printable(tensor.info.name)!r}: {tensor.columns} columns "
            f"are no multiple of {kind.width}, as {kind.name} needs"
        )
    step = max(1, PIECE // tensor.columns)
    return [(start, min(start + step, tensor.rows)) for start in range(0, tensor.rows, step)]


def encode(
    tensor: Rows, kind: BlockType, pool: ThreadPoolExecutor, depth: int
) -> Iterator[np.ndarray]:
    """The bytes of `tensor` as type `kind`, in order, with at most `depth` pieces under way."""
    waiting: deque[Future[np.ndarray]] = deque()
    try:
        for start, stop in row_ranges(tensor, kind):
            if len(waiting) >= depth:
                yield waiting.popleft().result()
            waiting.append(pool.submit(encode_rows, tensor, kind, start, stop))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def write_tensors(
    file: BinaryIO,
    plan: Iterable[tuple[R, BlockType]],
    threads: int,
    label: str,
    header: Callable[[R, BlockType], bytes] | None = None,
    encoded: Callable[[R], Iterator[bytes]] | None = None,
    alignment: int = ALIGNMENT,
) -> None:
    """Append all tensors, each behind its `header` if it has one, data at aligned places.

    `encoded` gives the bytes of a tensor that were made elsewhere; without it they are made here.

    NumericError for NaN or Inf, CheckpointError for rows that `BlockType.width` does not divide,
    ToolError before anything is computed if the disk does not hold them.
    """
    rows = list(plan)
    written = sum(kind.size(tensor.info.size) for tensor, kind in rows)
    require_space(Path(file.name).parent, written, label)
    total = sum(tensor.info.nbytes for tensor, _ in rows)
    with ThreadPoolExecutor(threads) as pool, track(total, label) as bar:
        for tensor, kind in rows:
            if header:
                file.write(header(tensor, kind))
            file.write(bytes(-file.tell() % alignment))
            if encoded:
                file.writelines(encoded(tensor))
            else:
                pieces = encode(tensor, kind, pool, depth=2 * threads)
                file.writelines(piece.data for piece in pieces)
            bar.advance(tensor.info.nbytes)
