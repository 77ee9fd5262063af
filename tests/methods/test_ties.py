"""TIES equals its reference to the bit, whatever the types, densities, weights and equals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remerge.kernels.blocks import BAD_INPUT, OVERFLOW, RawTensor
from remerge.methods.ties_kernel import SAMPLE_RUN
from remerge.methods.trim import SMALL, find_trims
from tests.kernels.drivers import DTYPES, ITEM, Bad, raw_tensors, ties_kernel
from tests.kernels.reference import CODES, decode, encode, round_to, ties, trim

densities = st.one_of(
    st.sampled_from([1.0, 0.33, 0.5, 1e-9, math.nextafter(1.0, 0.0)]),
    st.floats(0, 1, exclude_min=True),
)
weights = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-42]), st.floats(-100, 100, width=32))


@st.composite
def merges(draw: st.DrawFn, sizes: st.SearchStrategy[int]) -> dict:
    size, models = draw(sizes), draw(st.integers(1, 8))
    return {
        "base": draw(raw_tensors(size)),
        "donors": [draw(raw_tensors(size)) for _ in range(models)],
        "densities": draw(st.lists(densities, min_size=models, max_size=models)),
        "weights": draw(st.lists(weights, min_size=models, max_size=models)),
        "lam": draw(st.one_of(st.just(1.0), st.floats(-4, 4, width=32))),
        "normalize": draw(st.booleans()),
        "elect": draw(st.sampled_from(["sum", "count"])),
        "out_dtype": draw(st.sampled_from(DTYPES)),
    }


def expected_bytes(case: dict) -> np.ndarray | int:
    """What the reference gives: bytes, or the status that the kernel should return."""
    try:
        merged = ties(
            decode(case["base"][1], case["base"][0]),
            [decode(raw, dtype) for dtype, raw in case["donors"]],
            case["densities"],
            case["weights"],
            case["lam"],
            case["normalize"],
            case["elect"],
        )
    except FloatingPointError:
        return BAD_INPUT
    if not np.isfinite(round_to(merged, case["out_dtype"])).all():
        return OVERFLOW
    return encode(merged, case["out_dtype"])


def kernel_bytes(case: dict, **how: object) -> np.ndarray:
    dtype, raw = case["base"]
    size = raw.size // ITEM[dtype]
    keeps = [math.floor(density * size) for density in case["densities"]]
    chosen = {k: case[k] for k in case if k != "densities"}
    return ties_kernel(**chosen, keeps=keeps, **how)


def check(case: dict, **how: object) -> None:
    expected = expected_bytes(case)
    if isinstance(expected, int):
        with pytest.raises(Bad) as raised:
            kernel_bytes(case, **how)
        # Where both apply, the one met first is reported.
        assert raised.value.args[0] in (expected, OVERFLOW)
    else:
        assert np.array_equal(kernel_bytes(case, **how), expected)


@given(merges(st.integers(1, 70)))
@settings(max_examples=300, deadline=None)
def test_small_tensors_equal_the_reference(case: dict) -> None:
    check(case)


@given(merges(st.integers(SAMPLE_RUN - 2, 2 * SAMPLE_RUN + 70)), st.data())
@settings(max_examples=25, deadline=None)
def test_tensors_of_several_blocks_equal_the_reference(case: dict, data: st.DataObject) -> None:
    dtype, raw = case["base"]
    longer = raw.size // ITEM[dtype] > SAMPLE_RUN
    check(case, cuts=[SAMPLE_RUN] if longer and data.draw(st.booleans()) else [])


@given(merges(st.integers(1, 70)), st.integers(0, 10_000), st.sampled_from(["nan", "inf", "-inf"]))
@settings(max_examples=100, deadline=None)
def test_a_bad_number_anywhere_is_refused(case: dict, place: int, bad: str) -> None:
    tensors = [case["base"], *case["donors"]]
    dtype, raw = tensors[place % len(tensors)]
    damaged = decode(raw, dtype)
    damaged[place % damaged.size] = float(bad)
    # The reference has no NaN to write: float32 holds all three.
    tensors[place % len(tensors)] = ("F32", damaged.view(np.uint8))
    broken = case | {"base": tensors[0], "donors": tensors[1:]}
    with pytest.raises(Bad):
        kernel_bytes(broken)


def fine_tunes(size: int, donors: int, seed: int, step: float = 0.0) -> dict:
    """A base and its fine-tunes as float16; with a `step`, task vectors are multiples of it."""
    rng = np.random.default_rng(seed)
    base = (rng.standard_normal(size) * 0.02).astype(np.float16)
    raws = []
    for _ in range(donors):
        delta = rng.standard_normal(size) * 0.002
        delta = np.rint(delta / step) * step if step else delta
        raws.append((base.astype(np.float64) + delta).astype(np.float16).view(np.uint8))
    return {
        "base": ("F16", base.view(np.uint8)),
        "donors": [("F16", raw) for raw in raws],
        "densities": [0.33, 0.1, 0.9, 0.5, 0.01, 0.999, 0.25, 0.75][:donors],
        "weights": [1.0, 0.3, 2.5, 0.0, 1.0, 0.7, 1.0, 0.1][:donors],
        "lam": 1.0,
        "normalize": True,
        "elect": "sum",
        "out_dtype": "F16",
    }


@pytest.mark.parametrize("donors, step", [(1, 0.0), (1, 0.002), (3, 0.0), (2, 0.008), (8, 0.002)])
def test_tensors_large_enough_for_sampling_equal_the_reference(donors: int, step: float) -> None:
    check(fine_tunes(100_003, donors, seed=donors, step=step))


@given(raw_tensors(200), st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_trimming_one_donor_keeps_what_the_reference_keeps(
    tensor: tuple[str, np.ndarray], keep: int
) -> None:
    dtype, raw = tensor
    zeros = ("F32", np.zeros(800, np.uint8))
    merged = ties_kernel(zeros, [tensor], [keep], [1.0], 1.0, False, "sum", "F32").view(np.float32)
    # λ·μ = δ̂, and 0 + δ̂ has no negative zero.
    assert np.array_equal(merged, trim(decode(raw, dtype), keep) + np.float32(0))


@st.composite
def sampled_trims(draw: st.DrawFn) -> tuple[tuple[str, np.ndarray], int]:
    """A tensor too large to be collected whole, and how much of it to keep: its ends too."""
    size = draw(st.integers(SMALL + 1, SMALL + 3 * SAMPLE_RUN))
    keep = st.one_of(st.sampled_from([0, 1, 2, size - 1, size]), st.integers(0, size))
    return draw(raw_tensors(size)), draw(keep)


@given(sampled_trims())
@settings(max_examples=60, deadline=None)
def test_a_trim_that_guesses_from_a_sample_keeps_what_sorting_keeps(
    case: tuple[tuple[str, np.ndarray], int],
) -> None:
    tensor, keep = case
    values = decode(tensor[1], tensor[0])
    zeros = ("F32", np.zeros(values.size * 4, np.uint8))
    merged = ties_kernel(zeros, [tensor], [keep], [1.0], 1.0, False, "sum", "F32").view(np.float32)
    expected = np.zeros_like(values)
    largest_first = np.argsort(-np.abs(values), kind="stable")[:keep]
    expected[largest_first] = values[largest_first]
    assert np.array_equal(merged, expected + np.float32(0))


@given(merges(st.just(SMALL + 1)), st.data())
@settings(max_examples=10, deadline=None)
def test_donors_of_any_type_are_trimmed_together_as_they_are_alone(
    case: dict, data: st.DataObject
) -> None:
    """One pass finds the thresholds of all donors: none may disturb another."""
    size = SMALL + 1
    keeps = [data.draw(st.sampled_from([0, 1, size // 3, size - 1, size])) for _ in case["donors"]]
    base = RawTensor(case["base"][1], CODES[case["base"][0]])
    donors = [RawTensor(raw, CODES[dtype]) for dtype, raw in case["donors"]]
    together = find_trims(base, donors, size, keeps)
    alone = [find_trims(base, [d], size, [k]) for d, k in zip(donors, keeps, strict=True)]
    if together is None:
        assert None in alone
    else:
        assert [[trim] for trim in together] == alone


def test_of_equal_magnitudes_the_first_are_kept_whatever_their_sign() -> None:
    zeros = ("F32", np.zeros(20_000 * 4, np.uint8))
    signs = np.where(np.arange(20_000) % 3 == 0, -1, 1).astype(np.float32)
    for keep in (0, 1, SAMPLE_RUN, SAMPLE_RUN + 1, 19_999, 20_000):
        merged = ties_kernel(
            zeros, [("F32", signs.view(np.uint8))], [keep], [1.0], 1.0, True, "sum", "F32"
        ).view(np.float32)
        assert np.array_equal(merged, np.where(np.arange(20_000) < keep, signs, 0))


def test_the_order_of_donors_is_the_order_of_the_sum() -> None:
    values = [np.full(1, v, np.float32).view(np.uint8) for v in (1.0, 2.0**-24, 2.0**-24)]
    one_way, other_way = (
        ties_kernel(
            ("F32", np.zeros(4, np.uint8)),
            [("F32", v) for v in order],
            [1, 1, 1],
            [1.0] * 3,
            1.0,
            False,
            "sum",
            "F32",
        ).view(np.float32)[0]
        for order in (values, values[::-1])
    )
    assert (one_way, other_way) == (1.0, np.float32(1 + 2.0**-23))
