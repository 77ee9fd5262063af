"""Weights of bitsandbytes: NF4 and FP4 in blocks, with scales quantized once more or not, and int8.

The 16 numbers of NF4 and FP4 are those of Dettmers et al. 2023 (arXiv 2305.14314, appendix E) and
of the library; a file stores them beside each weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from remerge.errors import CheckpointError, printable
from remerge.sources.quantized.numbers import F32, ceil_div
from remerge.sources.quantized.origin import Grid, Origin, Stock, Stored, Values, scaled
from remerge.tensors.dtypes import TORCH_NAMES
from remerge.tensors.json_files import parse_json_object
from remerge.tensors.layout import OutputTensor

#: Part of the name of the tensor whose bytes are JSON: shape, sizes of blocks, type.
STATE = ".quant_state.bitsandbytes__"
_ROOM = 1 << 18
_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_FP4 = np.array([0, 1 / 16, 8, 12, 4, 6, 2, 3], np.float64) / 12
_TABLES: dict[str, F32] = {
    "nf4": np.array(
        [
            -1.0,
            -0.6961928009986877,
            -0.5250730514526367,
            -0.39491748809814453,
            -0.28444138169288635,
            -0.18477343022823334,
            -0.09105003625154495,
            0.0,
            0.07958029955625534,
            0.16093020141124725,
            0.24611230194568634,
            0.33791524171829224,
            0.44070982933044434,
            0.5626170039176941,
            0.7229568362236023,
            1.0,
        ],
        np.float32,
    ),
    "fp4": np.concatenate([_FP4, -_FP4]).astype(np.float32),
}
#: What a row's scale is multiplied by, as a float32: 1/127 as the library writes it.
_PER_127 = np.float32(7.874015718698502e-3)


@dataclass(frozen=True)
class _State:
    kind: str
    block: int
    dtype: str
    shape: tuple[int, ...]
    nested_block: int = 0
    nested_offset: float = 0.0


def read_bnb(stock: Stock, dtype: str, values: Values) -> list[Origin]:
    """Find the weights that bitsandbytes quantized.

    Args:
        stock: The model's tensors; those that are used leave it.
        dtype: The type of the result, F16, BF16 or F32.
        values: Gives the bytes of small tensors.

    Returns:
        An origin of every one.

    Raises:
        CheckpointError: A tensor is missing, of another shape or type, or says what is unknown.
    """
    states = {name: name.partition(STATE)[0] for name in stock.tensors if STATE in name}
    for name in states:
        if math.prod(stock.shape(name)) > 1 << 16:
            raise stock.wrong(name, f"has shape {list(stock.shape(name))}; expected a short text")
        stock.require(name, ("U8",))
    read = values(list(states)) if states else {}
    found = [_four_bits(stock, each, name, read[each], dtype) for each, name in states.items()]
    eight = [name for name in stock.left if name.endswith(".weight") and stock.dtype(name) == "I8"]
    return found + [_eight_bits(stock, name.removesuffix(".weight"), dtype) for name in eight]


def _state(stock: Stock, name: str, data: bytes) -> _State:
    """The JSON beside a weight; CheckpointError for what is not as the library writes it."""
    kind = name.partition(STATE)[2]
    said = parse_json_object(data, f"{stock.where}: tensor {printable(name)!r}")
    shape, block, dtype = said.get("shape"), said.get("blocksize"), said.get("dtype")
    sound = (
        kind in _TABLES
        and said.get("quant_type") == kind
        and block in _BLOCKS
        and type(block) is int
        and dtype in TORCH_NAMES
        and isinstance(shape, list)
        and 1 <= len(shape) <= 4
        and all(type(n) is int and 0 < n < 1 << 40 for n in shape)
    )
    nested_block, offset = said.get("nested_blocksize"), said.get("nested_offset")
    nested = nested_block is not None or offset is not None
    if nested:
        sound = sound and type(nested_block) is int and 0 < nested_block < 1 << 40
        sound = sound and type(offset) in (int, float) and abs(float(offset or 0)) < 1e38
        sound = sound and said.get("nested_dtype") == "float32"
    if not sound:
        raise stock.wrong(name, f"says {printable(said, 200)}, which is no known form of 4 bits")
    return _State(
        kind,
        int(block or 0),
        TORCH_NAMES[str(dtype)],
        tuple(shape or ()),
        int(nested_block or 0) if nested else 0,
        float(offset or 0) if nested else 0.0,
    )


def _four_bits(stock: Stock, state_name: str, name: str, data: bytes, dtype: str) -> Origin:
    state = _state(stock, state_name, data)
    size = math.prod(state.shape)
    blocks = ceil_div(size, state.block)
    stock.take(name)
    stored_bytes = math.prod(stock.shape(name)) * _ITEMS.get(stock.dtype(name), 0)
    if stored_bytes != ceil_div(size, 2):
        raise stock.wrong(
            name,
            f"is {stock.dtype(name)} {list(stock.shape(name))}; expected {ceil_div(size, 2)} bytes "
            f"for a weight of {list(state.shape)}",
        )
    parts = {"weight": name, "state": state_name}
    parts["code"] = stock.require(f"{name}.quant_map", ("F32",), (16,))
    absmax = f"{name}.absmax"
    if state.nested_block:
        outer = ceil_div(blocks, state.nested_block)
        parts["absmax"] = stock.require(absmax, ("U8",), (blocks,))
        parts["outer"] = stock.require(f"{name}.nested_absmax", ("F32",), (outer,))
        parts["outer code"] = stock.require(f"{name}.nested_quant_map", ("F32",), (256,))
    else:
        parts["absmax"] = stock.require(absmax, ("F32",), (blocks,))

    def compute(stored: Mapping[str, Stored]) -> Iterator[F32]:
        if _state(stock, state_name, stored["state"].data.tobytes()) != state:
            raise stock.wrong(state_name, "says something else than it said before")
        code = stored["code"].floats()
        if np.abs(code - _TABLES[state.kind]).max() > 2.0**-20:
            raise stock.wrong(f"{name}.quant_map", f"holds other numbers than {state.kind} has")
        scale = _absmax(stored, state)
        packed = stored["weight"].data
        step = max(_ROOM // state.block, 1) * state.block
        for begin in range(0, size, step):
            end = min(begin + step, size)
            pairs = packed[begin // 2 : ceil_div(end, 2)]
            numbers = np.empty(2 * pairs.size, np.float32)
            numbers[0::2], numbers[1::2] = code[pairs >> 4], code[pairs & 15]
            block = np.arange(begin, end) // state.block
            with np.errstate(over="ignore"):
                values = numbers[: end - begin] * scale[block]
            yield values

    return Origin(OutputTensor(name, dtype, state.shape), parts, compute, state.dtype)


def _absmax(stored: Mapping[str, Stored], state: _State) -> F32:
    """The scale of each block, float32 [blocks]."""
    if not state.nested_block:
        return stored["absmax"].floats()
    codes = stored["absmax"].data
    outer = stored["outer"].floats()[np.arange(codes.size) // state.nested_block]
    with np.errstate(over="ignore"):
        inner: F32 = stored["outer code"].floats()[codes] * outer
        return inner + np.float32(state.nested_offset)


def _eight_bits(stock: Stock, module: str, dtype: str) -> Origin:
    name = stock.take(f"{module}.weight")
    shape = stock.shape(name)
    if len(shape) != 2 or 0 in shape:
        raise stock.wrong(name, f"has shape {list(shape)}; a quantized weight is a matrix")
    scale = stock.require(f"{module}.SCB", ("F32",), shape[:1])
    parts = {"weight": name, "scale": scale}
    if f"{module}.weight_format" in stock.tensors:
        parts["format"] = stock.require(f"{module}.weight_format", ("U8",), (), (1,))
    grid = Grid(shape, (shape[0], 1), 1, shape[1])

    def compute(stored: Mapping[str, Stored]) -> Iterator[F32]:
        if "format" in stored and stored["format"].data[0] != 0:
            raise stock.wrong(
                f"{module}.weight_format",
                f"is {stored['format'].data[0]}; only weights in rows (0) can be read: load and "
                "save the model with a newer bitsandbytes",
            )
        numbers = stored["weight"].data.view(np.int8).reshape(shape)
        for values in scaled(
            lambda begin, end: numbers[begin:end].astype(np.float32), grid, stored["scale"].floats()
        ):
            yield values * _PER_127  # smaller: it cannot overflow

    return Origin(OutputTensor(name, dtype, shape), parts, compute)


#: Bytes of the types as which four-bit weights may be stored (`bnb_4bit_quant_storage`).
_ITEMS = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}


def require_linear(config: Mapping[str, Any], where: str) -> None:
    """CheckpointError for GPT-2, whose weights the library stores the other way round."""
    if config.get("model_type") in ("gpt2", "openai-gpt"):
        raise CheckpointError(
            f"{where}: bitsandbytes stores the Conv1D weights of {config['model_type']} "
            "transposed; dequantize the model with transformers"
        )
