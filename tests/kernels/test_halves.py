"""Conversions between the types: every half, and every place where rounding could go wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from remerge.kernels.blocks import narrow, widen
from remerge.kernels.halves import (
    f16_bits_to_f32,
    f32_to_bf16_bits,
    f32_to_f16_bits,
    f64_to_odd_f32,
)
from tests.kernels.reference import CODES, decode, encode, round_to

ALL_HALVES = np.arange(65536, dtype="<u2")


def widened(raw_u8: np.ndarray, dtype: str) -> np.ndarray:
    out = np.empty(raw_u8.size // (4 if dtype == "F32" else 2), np.float32)
    widen(raw_u8, CODES[dtype], out)
    return out


def narrowed(values_f32: np.ndarray, dtype: str) -> np.ndarray:
    out = np.empty(values_f32.size * (4 if dtype == "F32" else 2), np.uint8)
    narrow(values_f32, CODES[dtype], out)
    return out


@njit
def _by_integers(halves, widened, narrowed):
    for j in range(halves.size):
        widened[j] = f16_bits_to_f32(halves[j])
        narrowed[j] = f32_to_f16_bits(widened[j])


@njit
def _narrow_f64(values, to_f16, out):
    for j in range(values.size):
        odd = f64_to_odd_f32(values[j])
        out[j] = f32_to_f16_bits(odd) if to_f16 else f32_to_bf16_bits(odd)


def narrowed_f64(values_f64: np.ndarray, dtype: str) -> np.ndarray:
    out = np.empty(values_f64.size, np.uint16)
    _narrow_f64(values_f64, dtype == "F16", out)
    return out.view(np.uint8)


def same_numbers(actual_f32: np.ndarray, expected_f32: np.ndarray) -> bool:
    """Bit for bit, except that any NaN is as good as another."""
    same_bits = actual_f32.view(np.uint32) == expected_f32.view(np.uint32)
    return bool((same_bits | (np.isnan(actual_f32) & np.isnan(expected_f32))).all())


def finite_halves(dtype: str) -> np.ndarray:
    """All finite numbers of a 16-bit type in ascending order, float64."""
    values = decode(ALL_HALVES.view(np.uint8), dtype)
    values = values[np.isfinite(values)].astype(np.float64)
    return np.unique(values)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_half_widens_exactly(dtype: str) -> None:
    raw = ALL_HALVES.view(np.uint8)
    assert same_numbers(widened(raw, dtype), decode(raw, dtype))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_half_comes_back_as_it_was(dtype: str) -> None:
    values = decode(ALL_HALVES.view(np.uint8), dtype)
    kept = ~np.isnan(values)
    back = narrowed(values, dtype).view(np.uint16)
    assert np.array_equal(back[kept], ALL_HALVES[kept])
    assert np.isnan(widened(back[~kept].view(np.uint8), dtype)).all()


def test_integers_convert_as_the_processor_does() -> None:
    values, back = np.empty(65536, np.float32), np.empty(65536, np.uint16)
    _by_integers(ALL_HALVES, values, back)
    kept = ~np.isnan(values)
    assert same_numbers(values, decode(ALL_HALVES.view(np.uint8), "F16"))
    assert np.array_equal(back[kept], ALL_HALVES[kept])


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_float32_rounds_to_the_nearest_half_at_every_midpoint_and_beside_it(dtype: str) -> None:
    halves = finite_halves(dtype)
    middles = ((halves[:-1] + halves[1:]) / 2).astype(np.float32)
    above, below = np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, -np.inf)
    for values in (middles, above, below.astype(np.float32)):
        assert np.array_equal(narrowed(values, dtype), encode(values, dtype))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_float64_rounds_once_at_every_midpoint_and_beside_it(dtype: str) -> None:
    halves = finite_halves(dtype)
    middles = (halves[:-1] + halves[1:]) / 2
    # A hair off the midpoint vanishes in float32: rounding twice would then choose the even half.
    tiny = np.ldexp(np.maximum(np.abs(middles), 2.0**-160), -40)
    for values in (middles, middles + tiny, middles - tiny):
        assert np.array_equal(narrowed_f64(values, dtype), encode(values, dtype))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@given(value=st.floats(width=64, allow_nan=False, allow_infinity=False))
def test_any_float64_rounds_once(dtype: str, value: float) -> None:
    values = np.array([value])
    assert np.array_equal(narrowed_f64(values, dtype), encode(values, dtype))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=70))
def test_any_float32_rounds_to_nearest(dtype: str, values: list[float]) -> None:
    array = np.array(values, np.float32)
    out = np.empty(array.size * (4 if dtype == "F32" else 2), np.uint8)
    assert narrow(array, CODES[dtype], out) == np.isfinite(round_to(array, dtype)).all()
    assert np.array_equal(out, encode(array, dtype))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_a_number_that_is_not_finite_is_reported(dtype: str) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        values = np.zeros(100, np.float32)
        values[77] = bad
        assert not narrow(values, CODES[dtype], np.empty(400, np.uint8))


def test_the_reference_rounds_as_numpy_does() -> None:
    halves = finite_halves("F16")
    middles = (halves[:-1] + halves[1:]) / 2
    values = np.concatenate([middles, halves * (1 + 2.0**-30), [1e5, 65519.9]])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    assert np.array_equal(encode(values, "F16").view(np.float16), expected)


def test_the_reference_rounds_bfloat16_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    halves = finite_halves("BF16")
    values = ((halves[:-1] + halves[1:]) / 2).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint8)
    assert np.array_equal(encode(values, "BF16"), expected)
