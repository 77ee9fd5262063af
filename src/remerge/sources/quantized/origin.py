"""A tensor of the result and the stored tensors that it is computed from.

>>> origin = Origin(OutputTensor("w", "BF16", (4, 8)), {"weight": "w", "scale": "w_scale"}, compute)
>>> for piece in origin.compute({"weight": Stored(...), "scale": Stored(...)}):
...     piece   # float32, some rows
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from remerge.errors import CheckpointError, NumericError, printable
from remerge.sources.quantized.numbers import F32, FLOATS, first_beyond, narrowed, widened
from remerge.tensors.layout import OutputTensor

#: Elements that are computed at a time, where a row is no longer.
_PIECE = 1 << 18


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored: its name, type and shape, and its bytes as uint8 [nbytes]."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def floats(self) -> F32:
        """Return its values in its shape; NumericError for one that is no finite number."""
        values = widened(self.data, self.dtype).reshape(self.shape)
        if not np.isfinite(values).all():
            place = np.flatnonzero(~np.isfinite(values.reshape(-1)))[0]
            raise NumericError(
                f"tensor {printable(self.name)!r}: entry {place} is {values.reshape(-1)[place]}, "
                "no finite number"
            )
        return values

    def rows(self, begin: int, end: int) -> F32:
        """Return numbers of a byte each of rows [begin, end): float32 [end - begin, columns]."""
        width = self.shape[-1]
        values = widened(self.data[begin * width : end * width], self.dtype)
        return values.reshape(end - begin, width)

    def ints(self) -> NDArray[np.int64]:
        """Return its integers (I32, I64, I8 or U8) in its shape."""
        kind = {"I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1"}[self.dtype]
        return self.data.view(kind).reshape(self.shape).astype(np.int64)


Compute = Callable[[Mapping[str, Stored]], Iterator[F32]]
#: Gives the bytes of small stored tensors by name.
Values = Callable[[list[str]], dict[str, bytes]]


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the result comes from.

    Attributes:
        tensor: Its name, type and shape in the result.
        parts: Names of the stored tensors by their role; one of them under "" is copied.
        compute: Gives the values from the parts, in order and in float32; None: it is a copy.
        through: The type to which values are rounded before that of the result; empty: none.
    """

    tensor: OutputTensor
    parts: Mapping[str, str]
    compute: Compute | None = None
    through: str = ""

    def chunks(self, parts: Mapping[str, Stored]) -> Iterator[NDArray[np.uint8]]:
        """Give the tensor's bytes, some at a time.

        Raises:
            NumericError: A value is no finite number, or too large for the type.
        """
        assert self.compute is not None
        dtype, done = self.tensor.dtype, 0
        for values in self.compute(parts):
            if self.through in FLOATS[:2] and self.through != dtype:
                data = narrowed(values, self.through)
                self._require_finite(data, self.through, done)
                values = widened(data, self.through)
            data = narrowed(values, dtype)
            self._require_finite(data, dtype, done)
            done += values.size
            yield data

    def _require_finite(self, data: NDArray[np.uint8], dtype: str, done: int) -> None:
        place = first_beyond(data, dtype)
        if place is not None:
            raise NumericError(
                f"tensor {printable(self.tensor.name)!r}: dequantized to {dtype}, entry "
                f"{done + place} is NaN or too large"
            )


def copy_of(tensor: OutputTensor) -> Origin:
    """Return the origin of a tensor that is stored as it is."""
    return Origin(tensor, {"": tensor.name})


@dataclass(frozen=True)
class Grid:
    """Which scale belongs to which entry of a weight [..., rows, columns].

    Attributes:
        shape: The weight's.
        scales: Rows and columns of scales to a matrix.
        rows: Rows of the weight to a row of scales.
        columns: Columns of the weight to a column of scales.
    """

    shape: tuple[int, ...]
    scales: tuple[int, int]
    rows: int
    columns: int


def scaled(
    numbers: Callable[[int, int], F32],
    grid: Grid,
    scale: F32,
    zero: F32 | None = None,
    group_of: NDArray[np.int64] | None = None,
) -> Iterator[F32]:
    """Give `(q - z) * s`, row by row.

    Args:
        numbers: The numbers q of rows [begin, end) of all matrices one after the other, float32.
        grid: Which scale belongs to which entry.
        scale: The scales s, float32 of any shape with the grid's number of elements.
        zero: The zero points z in the same order; None: 0.
        group_of: The column of scales of each column of the weight; None: by the grid.

    Yields:
        float32 [rows, columns]; difference and product are rounded each.
    """
    *_, height, width = grid.shape
    total = int(np.prod(grid.shape[:-1], dtype=np.int64))
    table = scale.reshape(-1, grid.scales[1])
    zeros = None if zero is None else zero.reshape(table.shape)
    columns = np.arange(width) // grid.columns if group_of is None else group_of
    step = max(1, _PIECE // max(width, 1))
    for begin in range(0, total, step):
        row = np.arange(begin, min(begin + step, total))
        place = row // height * grid.scales[0] + row % height // grid.rows
        values = numbers(begin, int(row[-1]) + 1)
        if zeros is not None:
            values = values - zeros[place][:, columns]
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * table[place][:, columns]
        yield values  # outside of the block, which another thread may not leave


@dataclass
class Stock:
    """The stored tensors of a model by name, from which a reader takes what it uses.

    Attributes:
        where: The source, for messages.
        tensors: Type and shape of each tensor.
        left: Names that nothing used so far, in order.
    """

    where: str
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    left: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = dict.fromkeys(self.tensors)

    def take(self, name: str) -> str:
        """Use a tensor, once; CheckpointError if there is none of the name."""
        if name not in self.tensors:
            raise self.wrong(name, "is missing")
        self.left.pop(name, None)
        return name

    def dtype(self, name: str) -> str:
        """Return the type of a tensor."""
        return self.tensors[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.tensors[name][1]

    def require(self, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> str:
        """Use a tensor of one of these types and shapes; CheckpointError says what it is."""
        self.take(name)
        if self.dtype(name) not in dtypes:
            raise self.wrong(name, f"is {self.dtype(name)}; expected {' or '.join(dtypes)}")
        if shapes and self.shape(name) not in shapes:
            expected = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            raise self.wrong(name, f"has shape {list(self.shape(name))}; expected {expected}")
        return name

    def wrong(self, name: str, what: str) -> CheckpointError:
        """Return the error that says what is wrong with a tensor."""
        return CheckpointError(f"{self.where}: tensor {printable(name)!r} {what}")
