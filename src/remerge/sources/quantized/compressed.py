"""Checkpoints of compressed-tensors: packed and plain integers, and FP8, in the library's formats.

A weight is `(q - z) * s` in the type of its scale `s`; integers of `pack-quantized` are stored with
half of their range added, the lowest bits of each 32-bit word first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remerge.errors import CheckpointError, printable
from remerge.sources.quantized.numbers import (
    EIGHT_BIT_FLOATS,
    F32,
    FLOATS,
    ceil_div,
    unpacked,
)
from remerge.sources.quantized.origin import Grid, Origin, Stock, Stored, Values, scaled
from remerge.tensors.layout import OutputTensor

_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
_NO_SPARSITY = (None, "dense", "none")
#: Numbers that are packed the same way by all versions of the library.
_PACKED_BITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Scheme:
    """How a config group says that weights are quantized.

    Attributes:
        bits: Bits of a number.
        floating: Whether numbers are FP8 and not integers.
        strategy: tensor, channel, group or block.
        group: Columns of a group; 0 for other strategies.
        block: Rows and columns of a block, or None.
        symmetric: Whether there are no zero points.
    """

    bits: int
    floating: bool
    strategy: str
    group: int
    block: tuple[int, int] | None
    symmetric: bool

    def __str__(self) -> str:
        kind = f"{self.bits}-bit {'floats' if self.floating else 'integers'} by {self.strategy}"
        size = f" of {self.group}" if self.group else ""
        return f"{kind}{size}{'' if self.symmetric else ' with zero points'}"


def read_compressed(
    stock: Stock, quant: Mapping[str, Any], dtype: str, values: Values
) -> list[Origin]:
    """Find the quantized weights of a model and their scales.

    Args:
        stock: The model's tensors; those that are used leave it.
        quant: Its `quantization_config`.
        dtype: The type of the result, F16, BF16 or F32.
        values: Gives the bytes of small tensors.

    Returns:
        An origin of every quantized weight.

    Raises:
        CheckpointError: A format, scheme or tensor that is not what the library writes.
    """
    schemes = _schemes(quant, stock.where)
    ignored = quant.get("ignore") or []
    packed = [n for n in stock.tensors if n.endswith(".weight_packed")]
    plain = [n for n in stock.tensors if n.endswith(".weight") and _is_plain(stock, n)]
    shapes = _shapes(stock, packed, values)
    origins = []
    for name in packed + plain:
        module = name.rpartition(".")[0]
        if module in ignored:
            raise stock.wrong(name, "is quantized, and config.json ignores its module")
        if name in shapes:
            origins.append(_packed(stock, module, shapes[name], schemes, dtype))
        else:
            origins.append(_plain(stock, module, schemes, dtype))
    return origins


def _is_plain(stock: Stock, name: str) -> bool:
    return stock.dtype(name) in ("I8", *EIGHT_BIT_FLOATS)


def _schemes(quant: Mapping[str, Any], where: str) -> list[Scheme]:
    where = f"{where}: config.json: quantization_config"
    groups = quant.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise CheckpointError(f"{where} has no config_groups")
    formats = [quant.get("format")]
    formats += [group.get("format") for group in groups.values() if isinstance(group, Mapping)]
    for found in formats:
        if found not in (None, "mixed-precision", *_FORMATS):
            raise CheckpointError(
                f"{where}: format {printable(found, 60)!r} cannot be dequantized here; decompress "
                "the model with compressed-tensors, or name the model that it was made from"
            )
    sparsity = quant.get("sparsity_config") or {}
    if not isinstance(sparsity, Mapping) or sparsity.get("format") not in _NO_SPARSITY:
        raise CheckpointError(
            f"{where}: sparsity_config: sparse weights cannot be read; decompress the model with "
            "compressed-tensors"
        )
    if quant.get("transform_config"):
        raise CheckpointError(
            f"{where}: transform_config: its weights are rotated, and are no weights without the "
            "rotation; name the model that it was made from"
        )
    return [_scheme(group, f"{where}: {printable(name, 40)}") for name, group in groups.items()]


def _scheme(group: object, where: str) -> Scheme:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{where}: has no table `weights`")
    bits, kind, size = (weights.get(key) for key in ("num_bits", "type", "group_size"))
    block, symmetric = weights.get("block_structure"), weights.get("symmetric", True)
    strategy = weights.get("strategy")
    if strategy is None:
        strategy = "tensor" if size is None else "channel" if size == -1 else "group"
    group_size = size if strategy == "group" else 0
    sound = (
        type(bits) is int
        and kind in ("int", "float", None)
        and type(group_size) is int
        and (group_size > 0) == (strategy == "group")
        and isinstance(symmetric, bool)
        and strategy in ("tensor", "channel", "group", "block")
    )
    pair = None
    if isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block):
        pair = (int(block[0]), int(block[1]))
    if not sound:
        shown = {key: weights.get(key) for key in ("num_bits", "type", "strategy", "group_size")}
        raise CheckpointError(f"{where}: weights {printable(shown, 120)} are no known scheme")
    if strategy == "block" and (pair is None or min(pair) < 1):
        raise CheckpointError(f"{where}: block_structure {printable(block, 40)} is no pair")
    floating = kind == "float"
    if (floating and bits != 8) or (not floating and bits not in _PACKED_BITS):
        raise CheckpointError(
            f"{where}: {printable(kind, 20)} numbers of {bits} bits cannot be dequantized here; "
            "decompress the model with compressed-tensors"
        )
    used = pair if strategy == "block" else None
    return Scheme(int(bits or 0), floating, strategy, int(group_size or 0), used, symmetric)


def _shapes(
    stock: Stock, packed: list[str], values: Values
) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape of each packed weight, which a small tensor holds, and that tensor's name."""
    names = {name: f"{name.removesuffix('_packed')}_shape" for name in packed}
    for name in names.values():
        stock.require(name, ("I64", "I32"), (2,))
    read = values(list(names.values())) if names else {}
    found = {}
    for name, place in names.items():
        kind = "<i8" if stock.dtype(place) == "I64" else "<i4"
        shape = tuple(int(n) for n in np.frombuffer(read[place], kind))
        if min(shape) < 1 or max(shape) >= 1 << 40:
            raise stock.wrong(place, f"says {list(shape)}, which is no shape")
        found[name] = (shape, place)
    return found


def _fitting(
    stock: Stock, name: str, scale: str, shape: tuple[int, ...], schemes: list[Scheme]
) -> tuple[Scheme, Grid]:
    """The scheme that describes a weight; CheckpointError if none, or more than one does."""
    found: list[tuple[Scheme, Grid]] = []
    for scheme in schemes:
        grid = _grid(shape, stock.shape(scale), scheme)
        if grid is not None and _stored_shape(stock, name, shape, scheme) == stock.shape(name):
            found.append((scheme, grid))
    if not found:
        said = "; ".join(dict.fromkeys(map(str, schemes))) or "none"
        raise stock.wrong(
            name,
            f"({stock.dtype(name)} {list(stock.shape(name))}, a weight of {list(shape)}, with a "
            f"scale of {list(stock.shape(scale))}) is of no scheme that config.json has ({said})",
        )
    if len({(each.bits, grid) for each, grid in found}) > 1:
        raise stock.wrong(name, "fits several config groups of config.json; which is not known")
    return found[0]


def _stored_shape(
    stock: Stock, name: str, shape: tuple[int, ...], scheme: Scheme
) -> tuple[int, ...]:
    """The shape of what is stored of a weight of `shape`; empty if not in this scheme."""
    if name.endswith("_packed"):
        return () if scheme.floating else (*shape[:-1], ceil_div(shape[-1] * scheme.bits, 32))
    return shape if scheme.floating == (stock.dtype(name) != "I8") else ()


def _grid(shape: tuple[int, ...], have: tuple[int, ...], scheme: Scheme) -> Grid | None:
    """Which scale belongs to which entry; None if scales of this shape are not the scheme's."""
    *above, rows, columns = shape
    if scheme.strategy == "tensor":
        grid = Grid(shape, (1, 1), rows, columns)
        fitting = {(*above, 1, 1), tuple(above), *([] if above else [(1,)])}
    elif scheme.strategy == "channel":
        grid = Grid(shape, (rows, 1), 1, columns)
        fitting = {(*above, rows, 1), *([] if above else [(rows,)])}
    elif scheme.strategy == "group":
        groups = ceil_div(columns, scheme.group)
        grid = Grid(shape, (rows, groups), 1, scheme.group)
        fitting = {(*above, rows, groups)} if columns % scheme.group == 0 else set()
    else:
        assert scheme.block is not None
        scales = (ceil_div(rows, scheme.block[0]), ceil_div(columns, scheme.block[1]))
        grid = Grid(shape, scales, *scheme.block)
        fitting = {(*above, *scales)}
    return grid if have in fitting else None


def _packed(
    stock: Stock,
    module: str,
    shaped: tuple[tuple[int, ...], str],
    schemes: list[Scheme],
    dtype: str,
) -> Origin:
    """A weight whose integers are packed into words."""
    name, (shape, place) = f"{module}.weight_packed", shaped
    stock.require(name, ("I32",))
    scale = stock.require(f"{module}.weight_scale", FLOATS)
    scheme, grid = _fitting(stock, name, scale, shape, schemes)
    bits, half = scheme.bits, np.float32(1 << (scheme.bits - 1))
    parts = {"weight": name, "scale": scale, "shape": place}
    parts |= _zero_point(stock, module, scheme, grid) | _order(stock, module, grid)
    groups = grid.scales[1]

    def compute(stored: Mapping[str, Stored]) -> Iterator[F32]:
        said = tuple(stored["shape"].ints())
        if said != shape:
            raise stock.wrong(place, f"says {list(said)} now and said {list(shape)}")
        words = stored["weight"].data.reshape(shape[0], -1)

        def numbers(begin: int, end: int) -> F32:
            return unpacked(words[begin:end], bits)[:, : shape[1]].astype(np.float32) - half

        zero = None
        if "zero" in stored and stored["zero"].dtype == "I32":
            words_of = stored["zero"].data.reshape(-1, groups, 4).swapaxes(0, 1)
            rows = unpacked(words_of.reshape(groups, -1), bits)[:, : grid.scales[0]]
            zero = np.ascontiguousarray(rows.T).astype(np.float32) - half
        elif "zero" in stored:
            zero = stored["zero"].floats()
        return scaled(numbers, grid, stored["scale"].floats(), zero, _group_of(stock, stored, grid))

    weight = OutputTensor(f"{module}.weight", dtype, shape)
    return Origin(weight, parts, compute, stock.dtype(scale))


def _plain(stock: Stock, module: str, schemes: list[Scheme], dtype: str) -> Origin:
    """A weight whose numbers are stored a byte each."""
    name = stock.take(f"{module}.weight")
    shape = stock.shape(name)
    if len(shape) < 2 or 0 in shape:
        raise stock.wrong(name, f"has shape {list(shape)}; a quantized weight is a matrix")
    scale = stock.require(f"{module}.weight_scale", FLOATS)
    scheme, grid = _fitting(stock, name, scale, shape, schemes)
    parts = {"weight": name, "scale": scale}
    parts |= _zero_point(stock, module, scheme, grid) | _order(stock, module, grid)

    def compute(stored: Mapping[str, Stored]) -> Iterator[F32]:
        zero = stored["zero"].floats() if "zero" in stored else None
        scale, group_of = stored["scale"].floats(), _group_of(stock, stored, grid)
        return scaled(stored["weight"].rows, grid, scale, zero, group_of)

    return Origin(OutputTensor(name, dtype, shape), parts, compute, stock.dtype(scale))


def _zero_point(stock: Stock, module: str, scheme: Scheme, grid: Grid) -> dict[str, str]:
    """The zero points of a weight by their role; empty where it has none."""
    name = f"{module}.weight_zero_point"
    if name not in stock.tensors:
        if not scheme.symmetric:
            raise stock.wrong(name, "is missing, and config.json says that there are zero points")
        return {}
    scale_shape = stock.shape(f"{module}.weight_scale")
    if stock.dtype(name) == "I32" and f"{module}.weight_packed" in stock.tensors:
        stock.require(name, ("I32",), (ceil_div(grid.scales[0] * scheme.bits, 32), grid.scales[1]))
    else:
        stock.require(name, ("I8", *EIGHT_BIT_FLOATS), scale_shape)
    return {"zero": name}


def _order(stock: Stock, module: str, grid: Grid) -> dict[str, str]:
    """The group of each column by its role; empty where columns are in order."""
    name = f"{module}.weight_g_idx"
    if name not in stock.tensors:
        return {}
    stock.require(name, ("I32", "I64"), (grid.shape[-1],))
    return {"groups": name}


def _group_of(stock: Stock, stored: Mapping[str, Stored], grid: Grid) -> NDArray[np.int64] | None:
    """The column of scales of each column; CheckpointError unless all groups are of one size."""
    if "groups" not in stored:
        return None
    groups = stored["groups"].ints()
    if (groups == -1).all():
        return None
    known = groups.min() >= 0 and groups.max() < grid.scales[1]
    if not known or (np.bincount(groups, minlength=grid.scales[1]) != grid.columns).any():
        raise stock.wrong(
            stored["groups"].name,
            f"does not put {grid.columns} columns into each of {grid.scales[1]} groups",
        )
    return groups
