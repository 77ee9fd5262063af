"""Running a kernel over one tensor in chunks, and naming the number that it could not take.

>>> yield from in_chunks(inputs, lambda part: combine_chunk(base, …, part))
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from remerge.errors import NumericError
from remerge.methods.method import Inputs
from remerge.shards.chunks import (
    Kernel,
    check_status,
    computed_chunks,
    first_bad_number,
    too_far_apart,
)

#: Elements a call of a kernel.
CHUNK = 1 << 18


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
    yield from computed_chunks(
        kernel, spans(inputs.size, row), inputs.dtype, partial(check, inputs), block=inputs.block
    )


def check(inputs: Inputs, status: int) -> None:
    """NumericError for a kernel's status other than OK."""
    check_status(status, inputs.name, inputs.dtype, partial(bad_number, inputs))


def bad_number(inputs: Inputs) -> NumericError:
    """The error for NaN or Inf in an input: which model, which tensor, which element."""
    for entry in inputs.everything:
        parts = ((begin, entry.raw.part_f32(begin, end)) for begin, end in spans(inputs.size))
        found = first_bad_number(entry.label, inputs.name, inputs.shape, entry.path, parts)
        if found is not None:
            return found
    return too_far_apart((entry.label for entry in inputs.everything), inputs.name)
