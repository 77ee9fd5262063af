"""Kernels called on whole arrays, as the plans call them on mapped files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from remerge.baking.bake_kernel import bake_rows
from remerge.kernels.blocks import (
    BAD_INPUT,
    DEFAULT_BLOCK,
    RawTensor,
    address,
    part_of,
    records,
)
from remerge.methods.gradient_kernel import blend_chunk
from remerge.methods.ties_kernel import LANES, donor_records, merge_chunk, rule_record
from remerge.methods.trim import find_trims
from tests.kernels.reference import CODES

ITEM = {"F16": 2, "BF16": 2, "F32": 4}
DTYPES = tuple(CODES)


class Bad(Exception):
    """The kernel refused: the status it returned."""


def ties_kernel(
    base: tuple[str, np.ndarray],
    donors: Sequence[tuple[str, np.ndarray]],
    keeps: Sequence[int],
    weights: Sequence[float],
    lam: float,
    normalize: bool,
    elect: str,
    out_dtype: str,
    block: int = DEFAULT_BLOCK,
    cuts: Sequence[int] = (),
) -> np.ndarray:
    """Bytes of the merge of (type, raw bytes) pairs, computed in the chunks that `cuts` ends."""
    dtype, base_u8 = base
    size = base_u8.size // ITEM[dtype]
    base_raw = RawTensor(base_u8, CODES[dtype])
    tensors = [RawTensor(raw, CODES[d]) for d, raw in donors]
    trims = find_trims(base_raw, tensors, size, keeps)
    if trims is None:
        raise Bad(BAD_INPUT)
    out = np.empty(size * ITEM[out_dtype], np.uint8)
    models = len(donors)
    gram, projections = np.zeros((models * models, LANES)), np.zeros((models, LANES))
    for begin, end in zip((0, *cuts), (*cuts, size), strict=True):
        target = address(out[begin * ITEM[out_dtype] :])
        status = merge_chunk(
            base_raw.record,
            records(tensors),
            donor_records(trims, weights),
            rule_record(lam, normalize, elect, size),
            part_of(begin, end, target, CODES[out_dtype], block),
            gram,
            projections,
            np.zeros(3 + models, np.int64),
        )
        if status:
            raise Bad(status)
    return out


def blend_kernel(
    first: tuple[str, np.ndarray],
    second: tuple[str, np.ndarray],
    ratio: float,
    out_dtype: str,
    block: int = 4096,
) -> np.ndarray:
    size = first[1].size // ITEM[first[0]]
    out = np.empty(size * ITEM[out_dtype], np.uint8)
    one, two = (RawTensor(raw, CODES[dtype]) for dtype, raw in (first, second))
    part = part_of(0, size, address(out), CODES[out_dtype], block)
    status = blend_chunk(one.record, two.record, ratio, part)
    if status:
        raise Bad(status)
    return out


def bake_kernel(
    weight: tuple[str, np.ndarray],
    a: np.ndarray,
    b: np.ndarray,
    scale: float,
    out_dtype: str,
    block: int = 1024,
) -> np.ndarray:
    rows, columns = b.shape[0], a.shape[1]
    out = np.empty(rows * columns * ITEM[out_dtype], np.uint8)
    status = bake_rows(
        RawTensor(weight[1], CODES[weight[0]]).record,
        columns,
        np.ascontiguousarray(a, np.float64),
        np.ascontiguousarray(b, np.float64),
        scale,
        part_of(0, rows, address(out), CODES[out_dtype], block),
    )
    if status:
        raise Bad(status)
    return out


#: Bit patterns worth meeting: both zeros, subnormals, the least normal, 1, and its neighbours.
_NOTABLE = {
    "F16": (0, 0x8000, 1, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x3C01, 0x7BFF),
    "BF16": (0, 0x8000, 1, 0x8001, 0x007F, 0x0080, 0x3F80, 0xBF80, 0x3F81),
    "F32": (0, 1 << 31, 1, 0x007FFFFF, 0x00800000, 0x3F800000, 0xBF800000, 0x3F800001),
}
_INFINITY = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000}


@st.composite
def raw_tensors(draw: st.DrawFn, size: int) -> tuple[str, np.ndarray]:
    """A type and `size` finite numbers of it as bytes: few different, so that many are equal."""
    dtype = draw(st.sampled_from(DTYPES))
    sign = 1 << (ITEM[dtype] * 8 - 1)
    finite = st.integers(0, _INFINITY[dtype] - 1)
    pattern = st.one_of(
        st.sampled_from(_NOTABLE[dtype]), finite, finite.map(lambda bits: bits | sign)
    )
    palette = draw(st.lists(pattern, min_size=1, max_size=8))
    seed = draw(st.integers(0, 2**32 - 1))
    picks = np.random.default_rng(seed).integers(0, len(palette), size)
    unsigned = "<u4" if dtype == "F32" else "<u2"
    return dtype, np.array(palette, unsigned)[picks].view(np.uint8)
