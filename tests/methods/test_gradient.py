"""The blend of two models equals its reference to the bit; both ends are copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remerge.kernels.blocks import BAD_INPUT, OVERFLOW
from tests.kernels.drivers import DTYPES, Bad, blend_kernel, raw_tensors
from tests.kernels.reference import blend, decode, encode, round_to

ratios = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 1e-300, 5e-324]), st.floats(0, 1))


@given(st.integers(1, 300), ratios, st.sampled_from(DTYPES), st.data())
@settings(max_examples=300, deadline=None)
def test_equals_the_reference(size: int, ratio: float, out_dtype: str, data: st.DataObject) -> None:
    first, second = data.draw(raw_tensors(size)), data.draw(raw_tensors(size))
    blended = blend(decode(first[1], first[0]), decode(second[1], second[0]), ratio)
    if not np.isfinite(round_to(blended, out_dtype)).all():
        with pytest.raises(Bad, match=str(OVERFLOW)):
            blend_kernel(first, second, ratio, out_dtype)
        return
    for block in (4096, 64, 7):
        actual = blend_kernel(first, second, ratio, out_dtype, block)
        assert np.array_equal(actual, encode(blended, out_dtype))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_ends_copy_the_bytes_of_every_finite_half(ratio: float) -> None:
    every = np.arange(65536, dtype=np.uint16)
    finite = every[(every & 0x7C00) != 0x7C00].view(np.uint8)
    other = np.full(finite.size, 0x3C, np.uint8)
    pair = [("F16", finite), ("F16", other)]
    assert np.array_equal(blend_kernel(*(pair if ratio == 0 else pair[::-1]), ratio, "F16"), finite)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("damaged", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_number_in_either_model_is_refused(ratio: float, damaged: int, bad: float) -> None:
    models = [np.zeros(5000, np.float32), np.zeros(5000, np.float32)]
    models[damaged][4999] = bad
    with pytest.raises(Bad, match=str(BAD_INPUT)):
        blend_kernel(*(("F32", model.view(np.uint8)) for model in models), ratio, "F16")
