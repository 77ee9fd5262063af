"""Linear, passthrough, slerp and the methods on task vectors equal their references to the bit."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remerge.arithmetic import scalars
from remerge.arithmetic.philox import draw_key, draws
from remerge.arithmetic.sums import fsum8
from remerge.errors import NumericError, RecipeError
from remerge.methods.registry import METHODS
from tests.kernels import reference as kernels_reference
from tests.methods import reference
from tests.methods.cases import families, same, values_of
from tests.methods.running import NAME, inputs_of, merged

weights = st.one_of(st.sampled_from([1.0, 0.5, 0.0, -1.0, 1e-42]), st.floats(-4, 4))
densities = st.one_of(st.sampled_from([1.0, 0.5, 0.33]), st.floats(0.01, 0.99))


def arrays(family: dict) -> tuple[np.ndarray, list[np.ndarray]]:
    shape = family["shape"]
    return values_of(family["base"], shape), [values_of(m, shape) for m in family["models"]]


@given(families(), st.data(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_linear_equals_the_reference(family: dict, data: st.DataObject, normalize: bool) -> None:
    _, models = arrays(family)
    weight = data.draw(st.lists(weights, min_size=len(models), max_size=len(models)))
    small = abs(reference.sum_weights(weight)) < 1e-8 or sums_to_nothing(weight, "none")
    if normalize and small:
        with pytest.raises(RecipeError, match="sum to 0"):
            METHODS["linear"].resolve({"weight": weight}, len(models))
        return
    given = {"weight": weight, "normalize": normalize}
    same("linear", family, False, given, lambda: reference.linear(models, weight, normalize))


@given(families(models=(1, 1)), st.one_of(st.none(), st.floats(-4, 4)))
@settings(max_examples=80, deadline=None)
def test_passthrough_equals_the_reference(family: dict, scale: float | None) -> None:
    _, (model,) = arrays(family)
    given = {} if scale is None else {"scale": scale}
    same("passthrough", family, False, given, lambda: reference.passthrough(model, scale))


@given(families(models=(1, 1)), st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)))
@settings(max_examples=80, deadline=None)
def test_slerp_equals_the_reference(family: dict, t: float) -> None:
    base, (model,) = arrays(family)
    same("slerp", family, True, {"t": t}, lambda: reference.slerp(base, model, t))


KIN = (
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "breadcrumbs",
    "breadcrumbs_ties",
    "della",
    "della_linear",
)


@pytest.mark.parametrize("method", KIN)
@given(families(), st.data())
@settings(max_examples=60, deadline=None)
def test_task_vectors_equal_the_reference(method: str, family: dict, data: st.DataObject) -> None:
    base, models = arrays(family)
    count = len(models)

    def each(strategy: st.SearchStrategy) -> list:
        return data.draw(st.lists(strategy, min_size=count, max_size=count))

    given = {
        "weight": each(weights),
        "lambda": data.draw(st.floats(-2, 2)),
        "normalize": data.draw(st.booleans()),
        "divide_by": data.draw(st.sampled_from(["magnitudes", "weights"])),
    }
    consensus = "none"
    if method != "task_arithmetic":
        given["density"] = each(densities)
        given["rescale"] = data.draw(st.booleans())
    if method == "ties":
        given["weight"][0] = 1.0
        # Without it, and divided by magnitudes, it is the kernel of TIES; see test_ties.
        signed = given["divide_by"] == "weights" and min(given["weight"]) < 0
        given["rescale"] = given["rescale"] or not signed
    if method.endswith("ties") or method == "della":
        consensus = given["elect"] = data.draw(st.sampled_from(["sum", "count"]))
    norm = "l1"
    if method[:5] in ("dare_", "della"):
        given["seed"] = data.draw(st.integers(0, 9))
        norm = given["rescale_norm"] = data.draw(st.sampled_from(["l1", "density"]))
    if "breadcrumbs" in method:
        given["gamma"] = each(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    if "della" in method:
        given["epsilon"] = [min(d, 1 - d) * 0.9 for d in given["density"]]

    def expected() -> np.ndarray:
        if method == "task_arithmetic":
            keep, factors = None, [None] * count
        else:
            reference.finite([base, *models])
            deltas = [x - base for x in models]
            reference.finite(deltas)
            keep, factors = [], []
            for i, (delta, density) in enumerate(zip(deltas, given["density"], strict=True)):
                inverse = None
                if method == "ties":
                    mask = reference.kept_by_ties(delta, density)
                elif "breadcrumbs" in method:
                    mask = reference.kept_by_breadcrumbs(delta, density, given["gamma"][i])
                elif "dare" in method:
                    mask = reference.kept_by_dare(delta.shape, density, given["seed"], i, NAME)
                    inverse = reference.f32(1.0 / density)
                else:
                    mask, inverse = reference.kept_by_della(
                        delta, density, given["epsilon"][i], given["seed"], i, NAME
                    )
                keep.append(mask)
                l1 = norm == "l1"
                factor = reference.l1_factor(delta, mask) if l1 else inverse
                factors.append(factor if given["rescale"] else None)
        return reference.task_vectors(
            base,
            models,
            keep,
            factors,
            given["weight"],
            given["lambda"],
            given["normalize"],
            consensus,
            given["divide_by"],
        )

    divides = given["normalize"] and given["divide_by"] == "weights" and min(given["weight"]) < 0
    if divides and sums_to_nothing(given["weight"], consensus):
        with pytest.raises(RecipeError, match=r"sum to nearly 0.*divide_by: magnitudes"):
            METHODS[method].resolve(given, count)
        return
    same(method, family, True, given, expected)


def sums_to_nothing(given: list[float], consensus: str) -> bool:
    """Whether weights of donors that may agree cancel out; without consensus all agree."""
    exact = [Fraction(float(np.float32(w))) for w in given]
    if consensus == "none":
        groups = [exact]
    else:
        groups = [
            [w for i, w in enumerate(exact) if chosen >> i & 1] for chosen in range(2 ** len(exact))
        ]
    limit = Fraction(1, 10**6)
    return any(abs(sum(g)) < limit * sum(map(abs, g)) for g in groups if any(g))


@pytest.mark.parametrize("method", KIN)
def test_negative_weight_negates_a_task_vector(method: str) -> None:
    base = np.array([1.0, 2.0, 3.0, -4.0], np.float32)
    delta = np.array([0.5, -0.25, 0.0, 1.0], np.float32)
    typed = [("F32", x.view(np.uint8)) for x in (base, base + delta)]
    family = {"shape": (4,), "base": typed[0], "models": typed[1:], "dtype": "F32"}
    for normalize in (True, False):
        given = {"weight": -1.0, "normalize": normalize}
        data, _ = merged(method, inputs_of(family, True), given)
        assert np.array_equal(np.frombuffer(data, np.float32), base - delta)
    # mergekit divides by −1, which turns the sign back.
    given = {"weight": -1.0, "normalize": True, "divide_by": "weights"}
    data, _ = merged(method, inputs_of(family, True), given)
    assert np.array_equal(np.frombuffer(data, np.float32), base + delta)


@given(families(), st.data())
@settings(max_examples=60, deadline=None)
def test_ties_equals_the_reference_of_ties(family: dict, data: st.DataObject) -> None:
    base, models = arrays(family)
    count = len(models)
    density = data.draw(st.lists(densities, min_size=count, max_size=count))
    weight = [1.0, *data.draw(st.lists(st.floats(0, 4), min_size=count - 1, max_size=count - 1))]
    given = {"density": density, "weight": weight, "lambda": data.draw(st.floats(-2, 2))}
    given["normalize"] = data.draw(st.booleans())
    given["elect"] = data.draw(st.sampled_from(["sum", "count"]))

    def expected() -> np.ndarray:
        flat = [x.ravel() for x in models]
        options = (given["lambda"], given["normalize"], given["elect"])
        try:
            return kernels_reference.ties(base.ravel(), flat, density, weight, *options)
        except FloatingPointError as error:
            raise reference.Refused(str(error)) from error

    same("ties", family, True, given, expected)


@given(families(models=(2, 2)), st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)))
@settings(max_examples=60, deadline=None)
def test_gradient_equals_the_reference(family: dict, ratio: float) -> None:
    _, (first, second) = arrays(family)
    same("gradient", family, False, {"ratio": ratio},
         lambda: kernels_reference.blend(first, second, ratio))  # fmt: skip


@given(st.lists(st.floats(-1e200, 1e200), min_size=8, max_size=8))
@settings(max_examples=500, deadline=None)
def test_sum_of_lanes_is_that_of_fsum(lanes: list[float]) -> None:
    assert fsum8(np.array(lanes)) == math.fsum(lanes)


@given(st.floats(0, 3.2), st.floats(-1, 1))
@settings(max_examples=80, deadline=None)
def test_scalar_functions_are_correctly_rounded(angle: float, x: float) -> None:
    assert scalars.sin(angle) == reference.sin(angle)
    assert scalars.cos(angle) == reference.cos(angle)
    assert scalars.acos(x) == reference.acos(x)


@pytest.mark.parametrize("x", [1.0, -1.0, 0.0, 1 - 2**-53, -1 + 2**-53, 1 - 1e-9, 5e-324, 1e-200])
def test_arccos_is_correctly_rounded_at_its_ends(x: float) -> None:
    assert scalars.acos(x) == reference.acos(x)


def test_draws_are_those_of_philox() -> None:
    # Known answers of the paper's own library, Random123 1.14.
    assert reference.philox(0, (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    out = np.empty(1024, np.uint32)
    key = draw_key(7, 2, NAME)
    for first in (0, 2**34 - 512):
        draws(*key, first, out)
        for j in (0, 1, 2, 3, 500, 1023):
            assert out[j] == reference.draw(7, 2, NAME, first + j)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_bad_number_names_model_and_index(bad: float, damaged: int) -> None:
    tensors = [np.zeros((3, 5), np.float32) for _ in range(3)]
    tensors[damaged][2, 4] = bad
    typed = [("F32", t.ravel().view(np.uint8)) for t in tensors]
    family = {"shape": (3, 5), "base": typed[0], "models": typed[1:], "dtype": "F16"}
    with pytest.raises(NumericError, match=rf"(base|m{damaged - 1}): .*index \[2, 4\]"):
        merged("task_arithmetic", inputs_of(family, True), {"weight": 0.0})
