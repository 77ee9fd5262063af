"""Methods that look at tensors as vectors, and those by variance and importance, to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remerge.arithmetic.fusion import exp_f64, log_f64
from remerge.errors import RecipeError
from remerge.methods.registry import METHODS
from remerge.methods.selection import ascending, kth_largest
from tests.methods import reference_vectors as reference
from tests.methods.cases import families, same, values_of

weights = st.one_of(st.sampled_from([1.0, 0.5, 0.0, -1.0]), st.floats(-4, 4))
floors = st.sampled_from([0.0, 1e-6])


def arrays(family: dict) -> tuple[np.ndarray, list[np.ndarray]]:
    shape = family["shape"]
    return values_of(family["base"], shape), [values_of(m, shape) for m in family["models"]]


@given(families(models=(2, 2)), st.lists(weights, min_size=2, max_size=2), st.data())
@settings(max_examples=80, deadline=None)
def test_nuslerp_equals_the_reference(family: dict, weight: list, data: st.DataObject) -> None:
    base, models = arrays(family)
    with_base, flatten, row_wise = (data.draw(st.booleans()) for _ in range(3))
    given = {"weight": weight, "nuslerp_flatten": flatten, "nuslerp_row_wise": row_wise}
    origin = base if with_base else None
    same("nuslerp", family, with_base, given,
         lambda: reference.nuslerp(origin, models, weight, flatten, row_wise))  # fmt: skip


@given(families(), st.data(), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_multislerp_equals_the_reference(
    family: dict, data: st.DataObject, normalize: bool, with_base: bool
) -> None:
    base, models = arrays(family)
    weight = data.draw(st.lists(weights, min_size=len(models), max_size=len(models)))
    given = {"weight": weight, "normalize_weights": normalize}
    if normalize and math.fsum(weight) == 0:
        with pytest.raises(RecipeError, match="sum to 0"):
            METHODS["multislerp"].resolve(given, len(models))
        return
    origin = base if with_base else None
    same("multislerp", family, with_base, given,
         lambda: reference.multislerp(origin, models, weight, normalize))  # fmt: skip


@given(families(models=(1, 5)), st.integers(0, 6), st.sampled_from([1e-5, 1e-10, 1e-2]))
@settings(max_examples=50, deadline=None)
def test_karcher_equals_the_reference(family: dict, max_iter: int, tol: float) -> None:
    _, models = arrays(family)
    given = {"max_iter": max_iter, "tol": tol}
    same("karcher", family, False, given, lambda: reference.karcher(models, max_iter, tol))


@given(families(models=(2, 8)), st.booleans(), floors)
@settings(max_examples=80, deadline=None)
def test_model_stock_equals_the_reference(family: dict, filter_wise: bool, floor: float) -> None:
    base, models = arrays(family)
    given = {"filter_wise": filter_wise, "floor": floor}
    same("model_stock", family, True, given,
         lambda: reference.model_stock(base, models, filter_wise, floor))  # fmt: skip


@given(families(), st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), floors)
@settings(max_examples=80, deadline=None)
def test_sce_equals_the_reference(family: dict, select: float, floor: float) -> None:
    base, models = arrays(family)
    given = {"select_topk": select, "floor": floor}
    same("sce", family, True, given, lambda: reference.sce(base, models, select, floor))


@given(families(models=(1, 1)), st.one_of(st.sampled_from([0.0, 0.001]), st.floats(0, 10)))
@settings(max_examples=80, deadline=None)
def test_nearswap_equals_the_reference(family: dict, t: float) -> None:
    base, (model,) = arrays(family)
    same("nearswap", family, True, {"t": t}, lambda: reference.nearswap(base, model, t))


@given(families(models=(1, 1)))
@settings(max_examples=80, deadline=None)
def test_arcee_fusion_equals_the_reference(family: dict) -> None:
    base, (model,) = arrays(family)
    same("arcee_fusion", family, True, {}, lambda: reference.arcee_fusion(base, model))


@given(st.floats(-800, 0), st.floats(1e-9, 1e9))
@settings(max_examples=300, deadline=None)
def test_exp_and_log_equal_the_reference(x: float, y: float) -> None:
    assert exp_f64(x) == reference.EXP(x)
    assert log_f64(y) == reference.LOG(y)
    assert reference.EXP(x) == pytest.approx(math.exp(x), rel=1e-14, abs=1e-307)
    assert reference.LOG(y) == pytest.approx(math.log(y), rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("size", [1, 7, 4097, 262145, 600000])
def test_order_statistics_of_keys_equal_sorting(size: int) -> None:
    values = np.random.default_rng(size).integers(0, 50, size).astype(np.float32) / 7

    def keys(begin: int, end: int, out_f32: np.ndarray) -> None:
        out_f32[:] = values[begin:end]

    order = np.argsort(-values, kind="stable")
    for k in {0, 1, size // 3, size - 1, size}:
        trim = kth_largest(keys, size, k)
        bits = values.view(np.uint32)
        kept = (bits > trim.threshold) | ((bits == trim.threshold) & (np.arange(size) <= trim.last))
        assert set(np.flatnonzero(kept)) == set(order[:k])
    places = sorted({0, size // 4, size // 2, size - 1})
    found = np.array(ascending(keys, size, places), np.uint32).view(np.float32)
    assert found.tolist() == np.sort(values)[places].tolist()
