"""Which tensors of two models differ, by how much, and in which layers.

>>> difference = compare("merged/final", "downloads/stheno")
>>> difference.same, difference.layers()[0].max_ulp

Distances are units in the last place of the stored type, which say what a rounding could explain:
1 is a rounding that went the other way, thousands are another number. Cosine and largest absolute
difference are computed from the values (of quantised tensors, the values they stand for).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from remerge.architectures import layer_number
from remerge.arithmetic import distance
from remerge.errors import CheckpointError
from remerge.progress import track
from remerge.proof.models import Weights, open_weights, read_bytes
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE
from remerge.tensors.safetensors import TensorInfo
from remerge.threads import thread_count

#: Elements that are compared at a time: a multiple of every block.
CHUNK = 1 << 20


@dataclass(frozen=True)
class TensorDifference:
    """One tensor that both models have.

    differing    elements whose bits differ (blocks, for quantised types)
    max_ulp      largest and
    mean_ulp     mean distance over all elements, in units in the last place; None where the two
                 types differ or are no plain floats
    max_abs      largest absolute difference of the values
    cosine       of the two tensors taken as vectors; None when a value is NaN or Inf, or the types
                 have no values known here
    change       "" when bits were compared, else what makes that impossible ("F16 → BF16")
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    differing: int
    max_ulp: int | None
    mean_ulp: float | None
    max_abs: float | None
    cosine: float | None
    change: str = ""

    @property
    def items(self) -> int:
        """What `differing` counts: elements, or blocks of them."""
        return self.elements // _block_of(self.dtype)[0]

    @property
    def same(self) -> bool:
        """Type, shape and every bit agree."""
        return not self.differing and not self.change

    @property
    def layer(self) -> str:
        """`layer 7`, or the tensor's own name outside of the layers."""
        return layer_of(self.name)


@dataclass(frozen=True)
class LayerDifference:
    """The tensors of one layer together; `cosine` is the lowest among them."""

    layer: str
    tensors: int
    differing_tensors: int
    max_ulp: int | None
    mean_ulp: float | None
    cosine: float | None


@dataclass(frozen=True)
class ModelDifference:
    """What `compare` found, tensors in the first model's order."""

    tensors: tuple[TensorDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Both have the same model id."""
        return not self.only_a and not self.only_b and all(t.same for t in self.tensors)

    @property
    def differing(self) -> tuple[TensorDifference, ...]:
        """The tensors that are not the same."""
        return tuple(tensor for tensor in self.tensors if not tensor.same)

    def layers(self) -> tuple[LayerDifference, ...]:
        """The same by layer, in the order in which layers first appear."""
        groups: dict[str, list[TensorDifference]] = {}
        for tensor in self.tensors:
            groups.setdefault(tensor.layer, []).append(tensor)
        return tuple(_summary(layer, group) for layer, group in groups.items())

    def as_json(self) -> dict[str, Any]:
        """A JSON object: totals, layers, and the tensors that differ."""
        return {
            "same": self.same,
            "tensors": len(self.tensors),
            "only_in_first": list(self.only_a),
            "only_in_second": list(self.only_b),
            "layers": [asdict(layer) for layer in self.layers()],
            "differing": [asdict(tensor) for tensor in self.differing],
        }


def layer_of(name: str) -> str:
    """`model.layers.7.mlp.up_proj.weight` → `layer 7`; other tensors are their own layer."""
    layer = layer_number.layer_of(name)
    return name if layer is None else f"layer {layer}"


def _summary(layer: str, tensors: Sequence[TensorDifference]) -> LayerDifference:
    measured = [t for t in tensors if t.mean_ulp is not None and t.max_ulp is not None]
    elements = sum(t.elements for t in measured)
    mean = (
        sum(t.mean_ulp * t.elements for t in measured if t.mean_ulp) / elements if elements else 0
    )
    whole = len(measured) == len(tensors)
    cosines = [t.cosine for t in tensors]
    return LayerDifference(
        layer,
        len(tensors),
        sum(not t.same for t in tensors),
        max((t.max_ulp or 0 for t in measured), default=0) if whole else None,
        mean if whole else None,
        None if None in cosines else min(c for c in cosines if c is not None),
    )


def compare(
    first: Path | str | Weights, second: Path | str | Weights, threads: int | None = None
) -> ModelDifference:
    """Compare two models tensor by tensor, reading each once.

    `threads` changes the time, never a digit. CheckpointError when one of them is malformed, or
    when they have no tensor name in common (a folder and a GGUF, two families).
    """
    a, b = _opened(first), _opened(second)
    common = [name for name in a.tensors if name in b.tensors]
    if not common:
        raise CheckpointError(
            f"{a.path} and {b.path} have no tensor name in common; compare two folders of one "
            "family, or two GGUF files"
        )
    pairs = [(a.tensors[name], b.tensors[name]) for name in common]
    with (
        track(sum(x.nbytes for x, _ in pairs), "diff") as bar,
        ThreadPoolExecutor(thread_count(threads)) as pool,
    ):

        def block(work: Callable[[], np.ndarray], nbytes: int) -> np.ndarray:
            result = work()
            bar.advance(nbytes)
            return result

        jobs = [
            [pool.submit(block, work, nbytes) for work, nbytes in _blocks(x, y)] for x, y in pairs
        ]
        found = [
            _difference(x, y, distance.combine([job.result() for job in of_pair]))
            for (x, y), of_pair in zip(pairs, jobs, strict=True)
        ]
    return ModelDifference(
        tuple(found),
        tuple(name for name in a.tensors if name not in b.tensors),
        tuple(name for name in b.tensors if name not in a.tensors),
    )


def _opened(model: Path | str | Weights) -> Weights:
    return model if isinstance(model, Weights) else open_weights(model)


def _blocks(a: TensorInfo, b: TensorInfo) -> Iterable[tuple[Callable[[], np.ndarray], int]]:
    """The pieces of work for a pair of tensors, each with the bytes of `a` that it reads."""
    if a.shape != b.shape:
        return
    if a.dtype == b.dtype:
        compare_block = _compare_bits if a.dtype in KERNEL_CODE else _compare_items
    elif _has_values(a) and _has_values(b):
        compare_block = _compare_values
    else:
        return
    for start in range(0, a.size, CHUNK):
        stop = min(start + CHUNK, a.size)
        begin, end = _span(a, start, stop)
        yield partial(compare_block, a, b, start, stop), end - begin


def _compare_bits(a: TensorInfo, b: TensorInfo, start: int, stop: int) -> np.ndarray:
    result = np.zeros(distance.RESULTS)
    x, y = (read_bytes(info, *_span(info, start, stop)) for info in (a, b))
    if a.dtype == "F32":
        distance.compare_32(x.view("<u4"), y.view("<u4"), result)
    else:
        distance.compare_16(x.view("<u2"), y.view("<u2"), KERNEL_CODE[a.dtype], result)
    return result


def _compare_values(a: TensorInfo, b: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Of two types, whose bits cannot be compared: what they stand for."""
    result = np.zeros(distance.RESULTS)
    x, y = (_values(info, start, stop) for info in (a, b))
    if x is None or y is None:
        result[distance.NOT_FINITE] = 1
    else:
        distance.compare_32(x.view("<u4"), y.view("<u4"), result)
    return result


def _compare_items(a: TensorInfo, b: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Quantised blocks and integers: how many differ, and the values where they are known."""
    result = _compare_values(a, b, start, stop)
    x, y = (read_bytes(info, *_span(info, start, stop)) for info in (a, b))
    _, item = _block_of(a.dtype)
    result[distance.DIFFERING] = np.any((x != y).reshape(-1, item), axis=1).sum()
    return result


def _block_of(dtype: str) -> tuple[int, int]:
    """Elements and bytes of what a type is stored in."""
    if dtype in ITEM_SIZE:
        return 1, ITEM_SIZE[dtype]
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    elements, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    return int(elements), int(nbytes)


def _span(info: TensorInfo, start: int, stop: int) -> tuple[int, int]:
    """Where elements [start:stop] lie within the tensor's bytes, at whole blocks."""
    elements, nbytes = _block_of(info.dtype)
    return start // elements * nbytes, stop // elements * nbytes


def _has_values(info: TensorInfo) -> bool:
    return info.dtype in KERNEL_CODE or info.dtype not in ITEM_SIZE


def _values(info: TensorInfo, start: int, stop: int) -> np.ndarray | None:
    """What elements [start:stop] stand for, as float32; None for a type whose values are unknown.

    Quantised blocks are expanded by `gguf`, as their readers do it.
    """
    raw = read_bytes(info, *_span(info, start, stop))
    if info.dtype == "F32":
        return raw.view("<f4")
    if info.dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    if info.dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if info.dtype in ITEM_SIZE:
        return None
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        values = dequantize(raw.reshape(1, -1), GGMLQuantizationType[info.dtype])
    except NotImplementedError:
        return None
    return np.ascontiguousarray(values, np.float32).reshape(-1)


def _difference(a: TensorInfo, b: TensorInfo, sums: np.ndarray) -> TensorDifference:
    if a.shape != b.shape:
        change = f"{list(a.shape)} → {list(b.shape)}"
        return TensorDifference(
            a.name, a.dtype, a.shape, a.size, a.size, None, None, None, None, change
        )
    same_type = a.dtype == b.dtype
    change = "" if same_type else f"{a.dtype} → {b.dtype}"
    finite = sums[distance.NOT_FINITE] == 0 and _has_values(a) and _has_values(b)
    in_ulps = a.dtype in KERNEL_CODE and same_type
    return TensorDifference(
        a.name,
        a.dtype,
        a.shape,
        a.size,
        int(sums[distance.DIFFERING]),
        int(sums[distance.MAX_ULP]) if in_ulps else None,
        float(sums[distance.SUM_ULP] / max(a.size, 1)) if in_ulps else None,
        float(sums[distance.MAX_ABS]) if finite else None,
        _cosine(sums) if finite else None,
        change,
    )


def _cosine(sums: np.ndarray) -> float:
    a, b = float(sums[distance.NORM_A]), float(sums[distance.NORM_B])
    if a == 0.0 or b == 0.0:
        return 1.0 if a == b else 0.0
    if sums[distance.MAX_ABS] == 0.0:
        return 1.0
    return max(-1.0, min(1.0, float(sums[distance.DOT]) / math.sqrt(a) / math.sqrt(b)))
