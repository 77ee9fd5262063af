"""MXFP4 experts as gpt-oss stores them: blocks of 32 E2M1 numbers with an exponent each.

`NAME_blocks` is U8 [experts, rows, groups, 16], two numbers a byte, the lower four bits first;
`NAME_scales` is U8 [experts, rows, groups]. The model's tensor is [experts, groups * 32, rows].
Source: OCP Microscaling Formats 1.0; the layout is that of openai/gpt-oss and of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from remerge.errors import NumericError, printable
from remerge.sources.quantized.numbers import E2M1, F32, widened
from remerge.sources.quantized.origin import Origin, Stock, Stored
from remerge.tensors.layout import OutputTensor

_BYTES = 16


def read_mxfp4(stock: Stock, dtype: str) -> list[Origin]:
    """Find the MXFP4 tensors of a model.

    Args:
        stock: The model's tensors; those that are used leave it.
        dtype: The type of the result, F16, BF16 or F32.

    Returns:
        An origin of every one.

    Raises:
        CheckpointError: Blocks without scales, or either of another shape.
    """
    names = [name for name in stock.tensors if name.endswith("_blocks")]
    return [_origin(stock, name.removesuffix("_blocks"), dtype) for name in names]


def _origin(stock: Stock, name: str, dtype: str) -> Origin:
    blocks, scales = f"{name}_blocks", f"{name}_scales"
    stock.require(blocks, ("U8",))
    shape = stock.shape(blocks)
    if len(shape) != 4 or shape[-1] != _BYTES or 0 in shape:
        raise stock.wrong(
            blocks, f"has shape {list(shape)}; expected [experts, rows, groups, {_BYTES}]"
        )
    stock.require(scales, ("U8", "F8_E8M0"), shape[:-1])
    experts, rows, groups, _ = shape

    def compute(stored: Mapping[str, Stored]) -> Iterator[F32]:
        codes = stored["blocks"].data.reshape(experts, rows, groups, _BYTES)
        exponents = stored["scales"].data.reshape(experts, rows, groups)
        for expert in range(experts):
            if (exponents[expert] == 255).any():
                raise NumericError(
                    f"tensor {printable(scales)!r}: a scale of expert {expert} is 255, which is NaN"
                )
            scale = widened(exponents[expert], "F8_E8M0")[..., None]
            values = np.empty((rows, groups, 2 * _BYTES), np.float32)
            with np.errstate(over="ignore"):
                values[..., 0::2] = E2M1[codes[expert] & 15] * scale
                values[..., 1::2] = E2M1[codes[expert] >> 4] * scale
            yield np.ascontiguousarray(values.reshape(rows, groups * 2 * _BYTES).T)

    tensor = OutputTensor(name, dtype, (experts, groups * 2 * _BYTES, rows))
    return Origin(tensor, {"blocks": blocks, "scales": scales}, compute)
