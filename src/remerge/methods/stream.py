"""Running a kernel over one tensor in chunks, and naming the number that it could not take.

>>> yield from in_chunks(inputs, lambda part: combine_chunk(base, …, part))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from remerge.errors import NumericError, printable
from remerge.kernels.blocks import BAD_INPUT, OK, OVERFLOW, address, part_of
from remerge.methods.method import Inputs
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE

#: Elements a call of a kernel.
CHUNK = 1 << 18

#: A kernel's call for a PART; it returns a status.
Kernel = Callable[[np.void], int]


def spans(size: int, row: int = 1) -> Iterator[tuple[int, int]]:
    """[begin, end) of consecutive parts of about CHUNK elements.

    With a `row`, parts are whole rows, a multiple of 8 of them where there are more: so that every
    part begins at a multiple of 8 elements.
    """
    step = CHUNK if row <= 1 else max(8, CHUNK // row // 8 * 8) * row
    for begin in range(0, size, step):
        yield begin, min(begin + step, size)


def in_chunks(inputs: Inputs, kernel: Kernel, row: int = 1) -> Iterator[np.ndarray]:
    """Yield the bytes of the output, chunk by chunk, in one buffer that is used again.

    Raises:
        NumericError: NaN or Inf in an input, or a result that the output type cannot hold.
    """
    width, code = ITEM_SIZE[inputs.dtype], KERNEL_CODE[inputs.dtype]
    out_u8 = np.empty(0, np.uint8)
    for begin, end in spans(inputs.size, row):
        if out_u8.size < (end - begin) * width:
            out_u8 = np.empty((end - begin) * width, np.uint8)
        check(inputs, kernel(part_of(begin, end, address(out_u8), code, inputs.block)))
        yield out_u8[: (end - begin) * width]


def check(inputs: Inputs, status: int) -> None:
    """NumericError for a kernel's status other than OK."""
    if status == BAD_INPUT:
        raise bad_number(inputs)
    if status == OVERFLOW:
        raise NumericError(
            f"tensor {printable(inputs.name)!r}: a result is too large for {inputs.dtype}; "
            "choose a wider dtype"
        )
    assert status == OK


def bad_number(inputs: Inputs) -> NumericError:
    """The error for NaN or Inf in an input: which model, which tensor, which element."""
    for entry in inputs.everything:
        for begin, end in spans(inputs.size):
            values = entry.raw.part_f32(begin, end)
            bad = np.flatnonzero(~np.isfinite(values))
            if bad.size:
                flat = begin + int(bad[0])
                index = [int(i) for i in np.unravel_index(flat, inputs.shape)]
                place = f" ({entry.path})" if entry.path else ""
                return NumericError(
                    f"{entry.label}: tensor {printable(inputs.name)!r} holds {values[bad[0]]} at "
                    f"index {index if inputs.shape else []}{place}; the source is damaged: fetch "
                    "it again or drop it"
                )
    labels = " and ".join(entry.label for entry in inputs.everything)
    return NumericError(f"{printable(inputs.name)!r}: the difference of {labels} overflows float32")
