"""The low-rank bake equals its reference to the bit: float64, k in order, one rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remerge.kernels.blocks import BAD_INPUT, OVERFLOW
from tests.kernels.drivers import DTYPES, Bad, bake_kernel, raw_tensors
from tests.kernels.reference import bake, decode, encode, round_to


@st.composite
def factors(draw: st.DrawFn, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    rank = draw(st.integers(1, 12))
    (a_type, a), (b_type, b) = (
        draw(raw_tensors(rank * columns)),
        draw(raw_tensors(rows * rank)),
    )
    return decode(a, a_type).reshape(rank, columns), decode(b, b_type).reshape(rows, rank)


def check(
    weight: tuple, a: np.ndarray, b: np.ndarray, scale: float, out_dtype: str, block: int
) -> None:
    baked = bake(decode(weight[1], weight[0]).reshape(b.shape[0], a.shape[1]), a, b, scale)
    if not np.isfinite(round_to(baked, out_dtype)).all():
        with pytest.raises(Bad, match=str(OVERFLOW)):
            bake_kernel(weight, a, b, scale, out_dtype, block)
        return
    assert np.array_equal(
        bake_kernel(weight, a, b, scale, out_dtype, block), encode(baked, out_dtype)
    )


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    scale=st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(-8, 8)),
    out_dtype=st.sampled_from(DTYPES),
    block=st.sampled_from([1024, 16, 3]),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_equals_the_reference(
    rows: int, columns: int, scale: float, out_dtype: str, block: int, data: st.DataObject
) -> None:
    weight = data.draw(raw_tensors(rows * columns))
    a, b = data.draw(factors(rows, columns))
    check(weight, a, b, scale, out_dtype, block)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("out_dtype", DTYPES)
def test_zeros_and_subnormals_are_numbers_like_others(sign: float, out_dtype: str) -> None:
    """The sum over k begins with +0, and no processor may take a subnormal number for 0."""
    least = np.array([0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-133, 2.0**-24], np.float32)
    weight = ("F32", np.repeat(least, 6).view(np.uint8))
    check(
        weight,
        least.reshape(1, 6),
        np.full((6, 1), sign * 2.0**-149, np.float32),
        1.0,
        out_dtype,
        3,
    )
    check(weight, least.reshape(1, 6), np.full((6, 1), sign, np.float32), 0.5, out_dtype, 3)


@pytest.mark.parametrize("rank", range(1, 65))
def test_equals_the_reference_at_every_rank(rank: int) -> None:
    rng = np.random.default_rng(rank)
    weight = (rng.standard_normal((37, 131)) * 0.02).astype(np.float16)
    a = rng.standard_normal((rank, 131)).astype(np.float32)
    b = (rng.standard_normal((37, rank)) * 0.01).astype(np.float32)
    for out_dtype in DTYPES:
        check(("F16", weight.view(np.uint8).ravel()), a, b, 2.0 / rank, out_dtype, 1024)


def test_a_bad_weight_is_refused() -> None:
    weight = np.zeros((4, 4), np.float16)
    weight[3, 3] = np.nan
    with pytest.raises(Bad, match=str(BAD_INPUT)):
        bake_kernel(
            ("F16", weight.view(np.uint8).ravel()), np.ones((1, 4)), np.ones((4, 1)), 1.0, "F16"
        )
