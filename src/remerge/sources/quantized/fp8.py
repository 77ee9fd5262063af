"""FP8 weights with a scale a block, a row or a tensor: `quant_method: fp8` and `fbgemm_fp8`.

Weights are E4M3 or E5M2. The scale of `NAME` is `NAME_scale_inv` (DeepSeek, transformers) or
`NAME_scale` (vLLM, FBGEMM). A block at the edge is smaller, as DeepSeek defines it; transformers
reads only models whose blocks divide their weights, and gives the same numbers there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.sources.quantized.numbers import EIGHT_BIT_FLOATS, F32, FLOATS, ceil_div
from remerge.sources.quantized.origin import Grid, Origin, Stock, Stored, scaled
from remerge.tensors.layout import OutputTensor

#: Types of scales; U8 are exponents, as in MXFP8.
_SCALES = (*FLOATS, "F8_E8M0", "U8")


def read_fp8(stock: Stock, quant: Mapping[str, Any], dtype: str) -> list[Origin]:
    """Find the FP8 weights of a model and their scales.

    Args:
        stock: The model's tensors; those that are used leave it.
        quant: Its `quantization_config`.
        dtype: The type of the result, F16, BF16 or F32.

    Returns:
        An origin of every FP8 tensor.

    Raises:
        CheckpointError: A scale is missing, of another shape than the config says, or too many.
    """
    block = _block(quant, stock.where)
    origins = []
    for name in [n for n in stock.tensors if stock.dtype(n) in EIGHT_BIT_FLOATS]:
        scales = [n for n in (f"{name}_scale_inv", f"{name}_scale") if n in stock.tensors]
        if len(scales) != 1:
            has = "two scales" if scales else f"no scale {name.rpartition('.')[2]}_scale_inv"
            raise stock.wrong(name, f"is {stock.dtype(name)} and has {printable(has)}")
        origins.append(_origin(stock, name, scales[0], block, dtype))
    return origins


def _origin(
    stock: Stock, name: str, scale: str, block: tuple[int, int] | None, dtype: str
) -> Origin:
    """The origin of one weight; CheckpointError if its scale does not fit."""
    grid = grid_of(stock, stock.take(name), scale, block)
    stock.require(scale, _SCALES)

    def compute(parts: Mapping[str, Stored]) -> Iterator[F32]:
        return scaled(parts["weight"].rows, grid, scales_of(parts["scale"]))

    return Origin(OutputTensor(name, dtype, grid.shape), {"weight": name, "scale": scale}, compute)


def scales_of(stored: Stored) -> F32:
    """Return scales as float32; those of U8 are exponents (see `numbers`)."""
    if stored.dtype == "U8":
        stored = Stored(stored.name, "F8_E8M0", stored.shape, stored.data)
    return stored.floats()


def grid_of(stock: Stock, name: str, scale: str, block: tuple[int, int] | None) -> Grid:
    """Return which scale belongs to which entry of the weight `name`.

    Args:
        stock: The tensors.
        name: The weight.
        scale: Its scale.
        block: Rows and columns of a block; None: a scale a tensor, row or column.

    Raises:
        CheckpointError: The weight is no matrix, or the scale's shape is another.
    """
    shape, have = stock.shape(name), stock.shape(scale)
    if len(shape) < 2 or 0 in shape:
        raise stock.wrong(name, f"has shape {list(shape)}; a quantized weight is a matrix")
    *above, rows, columns = shape
    if block is None:
        grids = {
            (*above, 1, 1): Grid(shape, (1, 1), rows, columns),
            (*above, rows, 1): Grid(shape, (rows, 1), 1, columns),
            (*above, 1, columns): Grid(shape, (1, columns), rows, 1),
        }
        if not above:
            grids |= {(): grids[1, 1], (1,): grids[1, 1], (rows,): grids[rows, 1]}
        else:
            grids |= {tuple(above): grids[*above, 1, 1]}
        expected = "a scale a tensor or a row"
    else:
        scales = (ceil_div(rows, block[0]), ceil_div(columns, block[1]))
        grids = {(*above, *scales): Grid(shape, scales, *block)}
        expected = f"{[*above, *scales]}, a scale for each {block[0]} x {block[1]} block"
    if have not in grids:
        raise stock.wrong(scale, f"has shape {list(have)}; expected {expected} of {list(shape)}")
    return grids[have]


def _block(quant: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    size = quant.get("weight_block_size")
    if size is None:
        return None
    if isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
        return size[0], size[1]
    raise CheckpointError(
        f"{where}: config.json: weight_block_size is {printable(size, 60)}; expected two sizes"
    )
