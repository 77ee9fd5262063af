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
from typing import BinaryIO

import numpy as np

from remerge.errors import CheckpointError, NumericError, printable
from remerge.files import require_space
from remerge.progress import track
from remerge.quantize.blocks import q4_0
from remerge.quantize.blocks.types import BlockType
from remerge.quantize.core.tensor import ModelTensor, read_rows

#: Weights in one piece: large enough to keep a thread busy, small enough for its cache.
PIECE = 1 << 18
#: The data of every tensor begin at a multiple of this, in both containers.
ALIGNMENT = 32


def _refuse(tensor: ModelTensor, kind: BlockType, values: np.ndarray, start: int) -> None:
    """Raise NumericError for a piece whose numbers cannot be stored."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        row, column = divmod(int(bad[0]), tensor.columns)
        info, index = tensor.source_index(start + row, column)
        raise NumericError(
            f"{info.path}: tensor {printable(info.name)!r}: {values[bad[0]]} at index {index}; "
            "repair the source"
        )
    where = f"{tensor.info.path}: tensor {printable(tensor.info.name)!r}"
    raise NumericError(
        f"{where}: numbers up to {float(np.abs(values).max()):.6g} are too large for {kind.name}"
    )


def encode_rows(tensor: ModelTensor, kind: BlockType, start: int, stop: int) -> np.ndarray:
    """Rows [start:stop] of `tensor` as uint8 bytes of type `kind`.

    NumericError names the tensor and the index of a NaN or Inf in it.
    """
    values = read_rows(tensor, start, stop)
    out = np.empty(kind.size(values.size), np.uint8)
    if not q4_0.all_finite(values) or not kind.kernel(values, out):
        _refuse(tensor, kind, values, start)
    return out


def row_ranges(tensor: ModelTensor, kind: BlockType) -> list[tuple[int, int]]:
    """First and past-the-last row of each piece; CheckpointError for rows of broken blocks."""
    if tensor.columns % kind.width:
        raise CheckpointError(
            f"{tensor.info.path}: tensor {printable(tensor.info.name)!r}: {tensor.columns} columns "
            f"are no multiple of {kind.width}, as {kind.name} needs"
        )
    step = max(1, PIECE // tensor.columns)
    return [(start, min(start + step, tensor.rows)) for start in range(0, tensor.rows, step)]


def encode(
    tensor: ModelTensor, kind: BlockType, pool: ThreadPoolExecutor, depth: int
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
    plan: Iterable[tuple[ModelTensor, BlockType]],
    threads: int,
    label: str,
    header: Callable[[ModelTensor, BlockType], bytes] | None = None,
    encoded: Callable[[ModelTensor], Iterator[bytes]] | None = None,
    alignment: int = ALIGNMENT,
) -> None:
    """Append all tensors, each behind its `header` if it has one, data at aligned places.

    `encoded` gives the bytes of a tensor that were made elsewhere; without it they are made here.

    NumericError for NaN or Inf, CheckpointError for rows that `BlockType.width` does not divide,
    ToolError before anything is computed if the disk does not hold them.
    """
    rows = list(plan)
    written = sum(kind.size(tensor.size) for tensor, kind in rows)
    require_space(Path(file.name).parent, written, label)
    total = sum(info.nbytes for tensor, _ in rows for info in tensor.sources)
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
            bar.advance(sum(info.nbytes for info in tensor.sources))
