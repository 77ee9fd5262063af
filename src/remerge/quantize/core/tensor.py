"""One tensor of a quantized file and where its numbers come from.

>>> read_rows(ModelTensor("attn_q", 0, info, rotated_heads=32), 0, 4)

transformers rotates the halves of a head against each other, ggml for some architectures
neighbouring pairs: row h·d + p·d/2 + i of the query and key projections there is row h·d + 2i + p
here (d: head size, p: 0 or 1). Everything else keeps its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from remerge.kernels.blocks import widen
from remerge.tensors.checkpoint import raw_bytes
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE
from remerge.tensors.safetensors import TensorInfo


@dataclass(frozen=True)
class ModelTensor:
    """One tensor to be written. `part` is its place in a layer (`attn_q`) or the model (`output`).

    `layer` is −1 outside the layers, `suffix` is ``weight`` or ``bias``. What happens to the
    numbers on the way:

    * `rotated_heads` is the number of heads whose rows change places, 0 where none do;
    * `stacked` are the tensors of all experts, which become one, `info` the first of them;
    * `transposed` is a matrix that the checkpoint stores as [in, out];
    * `offset` is added to every number, rounded once to float32;
    * `constant` are the float32 numbers of a vector that no checkpoint holds; `info` then has its
      name and its shape.
    """

    part: str
    layer: int
    info: TensorInfo
    rotated_heads: int = 0
    suffix: str = "weight"
    stacked: tuple[TensorInfo, ...] = ()
    transposed: bool = False
    offset: float = 0.0
    constant: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the file, columns last."""
        shape = self.info.shape[::-1] if self.transposed else self.info.shape
        return (len(self.stacked), *shape) if self.stacked else shape

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """The tensors of the checkpoint that it is made of."""
        return () if self.constant else self.stacked or (self.info,)

    @property
    def size(self) -> int:
        """Number of its weights."""
        return self.rows * self.columns

    @property
    def rows(self) -> int:
        """Number of rows; a vector is one row."""
        rows = 1
        for count in self.shape[:-1]:
            rows *= count
        return rows

    @property
    def columns(self) -> int:
        """Length of a row."""
        return self.shape[-1]

    def source_rows(self, start: int, stop: int) -> np.ndarray:
        """Which rows of the checkpoint become rows [start:stop] of the file: int64 [stop−start]."""
        rows = np.arange(start, stop)
        if not self.rotated_heads:
            return rows
        count = self.info.shape[0]
        size = count // self.rotated_heads
        head, within = rows // size, rows % size
        return head * size + within % 2 * (size // 2) + within // 2

    def source_index(self, row: int, column: int) -> tuple[TensorInfo, list[int]]:
        """The tensor of the checkpoint, and the place in it, of one number of the file."""
        if len(self.info.shape) == 1:
            place = self.source_rows(column, column + 1) if self.rotated_heads else [column]
            return self.info, [int(place[0])]
        info = self.info
        if self.stacked:
            which, row = divmod(row, self.info.shape[0])
            info = self.stacked[which]
        place = [int(self.source_rows(row, row + 1)[0]), column]
        return info, place[::-1] if self.transposed else place


def read_rows(tensor: ModelTensor, start: int, stop: int) -> np.ndarray:
    """Read rows [start:stop] of a tensor as they are in the file.

    Returns:
        float32 [(stop − start) · columns], exactly what the checkpoint holds, `offset` apart.
    """
    if tensor.constant:
        return np.array(tensor.constant, np.float32)
    columns = tensor.columns
    values = np.empty((stop - start) * columns, np.float32)
    done = 0
    while done < stop - start:
        info, first, count = _part(tensor, start + done, stop)
        piece = values[done * columns : (done + count) * columns]
        widen(_raw(tensor, info, first, count), KERNEL_CODE[info.dtype], piece)
        done += count
    if tensor.offset:
        values += np.float32(tensor.offset)
    return values


def _part(tensor: ModelTensor, row: int, stop: int) -> tuple[TensorInfo, int, int]:
    """The tensor that row `row` comes from, the row in it, and how many follow it there."""
    if not tensor.stacked:
        return tensor.info, row, stop - row
    rows = tensor.info.shape[0]
    which, first = divmod(row, rows)
    return tensor.stacked[which], first, min(stop - row, rows - first)


def _raw(tensor: ModelTensor, info: TensorInfo, first: int, count: int) -> np.ndarray:
    """The bytes of `count` rows, in the order of the file: uint8."""
    item = ITEM_SIZE[info.dtype]
    raw = raw_bytes(info)
    if tensor.transposed:
        whole = raw.view(f"V{item}").reshape(info.shape)
        return np.ascontiguousarray(whole[:, first : first + count].T).reshape(-1).view(np.uint8)
    if tensor.rotated_heads and len(info.shape) == 1:
        rows = tensor.source_rows(0, info.shape[0])
        return raw.reshape(-1, item)[rows].reshape(-1)
    stride = tensor.columns * item
    if tensor.rotated_heads:
        rows = tensor.source_rows(first, first + count)
        return raw.reshape(-1, stride)[rows].reshape(-1)
    return raw[first * stride : (first + count) * stride]
