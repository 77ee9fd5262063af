"""Running a kernel over a tensor in chunks, and naming the bad number that it met.

>>> yield from chunks_of(tensor, lambda part: blend_chunk(one, two, ratio, part), inputs, block=512)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from remerge.errors import NumericError, printable
from remerge.kernels.blocks import BAD_INPUT, OK, OVERFLOW, address, part_of
from remerge.shards.units import CHUNK
from remerge.tensors.checkpoint import read_f32
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE
from remerge.tensors.layout import OutputTensor
from remerge.tensors.safetensors import TensorInfo

#: A kernel's call for a PART; it returns a status.
Kernel = Callable[[np.void], int]


def computed_chunks(
    kernel: Kernel,
    spans: Iterable[tuple[int, int]],
    dtype: str,
    check: Callable[[int], None],
    *,
    block: int,
    row: int = 1,
) -> Iterator[np.ndarray]:
    """Yield what `kernel` computes for each span, as bytes in one buffer that is used again.

    Args:
        kernel: Computes the elements, or rows, of a PART.
        spans: Begin and end of each.
        dtype: Of the result.
        check: Raises for a status that is not OK.
        block: Elements a step of the kernel.
        row: Elements a row, where spans count rows.
    """
    width, code = row * ITEM_SIZE[dtype], KERNEL_CODE[dtype]
    out_u8 = np.empty(0, np.uint8)
    for begin, end in spans:
        nbytes = (end - begin) * width
        if out_u8.size < nbytes:
            out_u8 = np.empty(nbytes, np.uint8)
        check(kernel(part_of(begin, end, address(out_u8), code, block)))
        yield out_u8[:nbytes]


def check_status(status: int, tensor: str, dtype: str, bad: Callable[[], NumericError]) -> None:
    """NumericError for a kernel's status other than OK; `bad` names the number that it met."""
    if status == BAD_INPUT:
        raise bad()
    if status == OVERFLOW:
        raise NumericError(
            f"tensor {printable(tensor)!r}: a result is too large for {dtype}; choose a wider dtype"
        )
    assert status == OK


def first_bad_number(
    label: str,
    tensor: str,
    shape: tuple[int, ...],
    path: Path | str | None,
    parts: Iterable[tuple[int, np.ndarray]],
) -> NumericError | None:
    """The error for the first NaN or Inf of one input; None if it holds none.

    `parts` are its values, each with the flat index of the first.
    """
    for begin, values in parts:
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            index = [int(i) for i in np.unravel_index(begin + int(bad[0]), shape)] if shape else []
            place = f" ({path})" if path else ""
            return NumericError(
                f"{label}: tensor {printable(tensor)!r} holds {values[bad[0]]} at index "
                f"{index}{place}; the source is damaged: fetch it again or drop it"
            )
    return None


def too_far_apart(labels: Iterable[str], tensor: str) -> NumericError:
    """The error for finite inputs whose difference is not."""
    return NumericError(
        f"{printable(tensor)!r}: the difference of {' and '.join(labels)} overflows float32"
    )


def chunks_of(
    tensor: OutputTensor,
    kernel: Kernel,
    inputs: Mapping[str, TensorInfo],
    *,
    block: int,
    row: int = 1,
) -> Iterator[np.ndarray]:
    """Yield the bytes of `tensor`, in one buffer that is used again.

    Each is a call of `kernel` for CHUNK elements or, of rows, about as many.

    inputs  the tensors that the kernel reads, by label of their model
    block   elements a step of the kernel
    row     elements a row; begin and end of the PART then count rows

    NumericError for a NaN or Inf in an input, and for a result that the output type cannot hold.
    """
    rows, step = tensor.size // max(1, row), max(1, CHUNK // max(1, row))
    check = partial(
        check_status,
        tensor=tensor.name,
        dtype=tensor.dtype,
        bad=partial(name_bad_number, inputs, tensor.name),
    )
    spans = ((begin, min(begin + step, rows)) for begin in range(0, rows, step))
    yield from computed_chunks(kernel, spans, tensor.dtype, check, block=block, row=row)


def name_bad_number(inputs: Mapping[str, TensorInfo], tensor: str) -> NumericError:
    """The error for a kernel that met NaN or Inf: which model, which tensor, which element.

    `inputs` maps each model's label to its tensor of that name.
    """
    for label, info in inputs.items():
        parts = (
            (begin, read_f32(info, begin, min(begin + CHUNK, info.size)))
            for begin in range(0, info.size, CHUNK)
        )
        found = first_bad_number(label, tensor, info.shape, info.path, parts)
        if found is not None:
            return found
    return too_far_apart(inputs, tensor)
