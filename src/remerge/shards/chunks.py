"""Running a kernel over a tensor in chunks, and naming the bad number that it met.

>>> yield from chunks_of(tensor, lambda part: blend_chunk(one, two, ratio, part), inputs, block=512)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

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
    width = row * ITEM_SIZE[tensor.dtype]
    out_u8 = np.empty(min(step, rows) * width, np.uint8)
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        code = KERNEL_CODE[tensor.dtype]
        status = kernel(part_of(begin, end, address(out_u8), code, block))
        if status == BAD_INPUT:
            raise name_bad_number(inputs, tensor.name)
        if status == OVERFLOW:
            raise NumericError(
                f"tensor {printable(tensor.name)!r}: a result is too large for {tensor.dtype}; "
                "choose a wider dtype"
            )
        assert status == OK
        yield out_u8[: (end - begin) * width]


def name_bad_number(inputs: Mapping[str, TensorInfo], tensor: str) -> NumericError:
    """The error for a kernel that met NaN or Inf: which model, which tensor, which element.

    `inputs` maps each model's label to its tensor of that name.
    """
    for label, info in inputs.items():
        for start in range(0, info.size, CHUNK):
            values = read_f32(info, start, min(start + CHUNK, info.size))
            bad = np.flatnonzero(~np.isfinite(values))
            if bad.size:
                flat = start + int(bad[0])
                index = [int(i) for i in np.unravel_index(flat, info.shape)] if info.shape else []
                return NumericError(
                    f"{label}: tensor {printable(tensor)!r} holds {values[bad[0]]} at index "
                    f"{index} ({info.path}); the source is damaged: fetch it again or drop it"
                )
    return NumericError(
        f"{printable(tensor)!r}: the difference of {' and '.join(inputs)} overflows float32"
    )
