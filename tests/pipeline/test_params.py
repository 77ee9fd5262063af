"""A wrong parameter is one clear line before anything runs."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from remerge.errors import RecipeError
from remerge.stages.compose import composed
from remerge.stages.params import check_params
from tests.pipeline.closure import SRC

CONF = SRC.parent / "conf"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ties.densty=0.3", "densty"),
        ("+ties.densty=0.3", "unknown key 'densty'"),
        ("recipe=../../x", "x"),
        ("recipe=nosuch", "nosuch"),
        ("ties.density=abc", "ties.density is 'abc'"),
        ("ties.lambda=1e39", "ties.lambda is 1e+39"),
        ("+eval.surprise=1", "eval.surprise"),
        ("eval.dtype=abc", "eval.dtype"),
        ("+recipe.parts.p3=${recipe.parts.p1}", "expected p1 and p2"),
        ("recipe.parts.p1.d2.path=models/addition", "models/addition stands in d1 already"),
        ("recipe.parts.p1.d1.weight=1e39", "recipe.parts.p1.d1.weight"),
        ("recipe.loras.lookup.model=models/nosuch", "of no source of kind model"),
        ("recipe.loras.lookup.adapter=models/base", "of no source of kind adapter"),
        ("recipe.sources.base.out=src/remerge", "recipe.sources.base.out"),
        ("recipe.sources.addition.out=models/base", "recipe.sources.addition's as well"),
        ("quantize.measure=maybe", "quantize.measure is 'maybe'"),
        ("+quantize.surprise=1", "quantize: unknown key 'surprise'"),
        ("+quantize.gguf.surprise=1", "quantize.gguf: unknown key 'surprise'"),
        ("quantize.calibration=1", "quantize.calibration is 1"),
        ("quantize_eval.score_base.kind=nosuch", "quantize_eval.score_base.kind"),
        ("quantize_eval.score_base.reads=models/nosuch", "which nothing makes"),
        ("report.scores.p1_d7=scores/nosuch", "report.scores.p1_d7"),
    ],
)
def test_a_wrong_override_does_not_compose(override: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        composed([override], CONF)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and str(CONF) not in str(caught.value)


def test_a_part_whose_donors_all_weigh_nothing_does_not_compose() -> None:
    overrides = [f"recipe.parts.p1.d{place}.weight=0" for place in (1, 2, 3)]
    with pytest.raises(RecipeError, match=r"recipe\.parts\.p1: the weights of all donors are 0"):
        composed(overrides, CONF)


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("ties.density", 0, "ties.density is 0"),
        ("ties.density", 1.5, "ties.density is 1.5"),
        ("ties.density", -0.1, "ties.density"),
        ("ties.density", math.nan, "ties.density is nan"),
        ("ties.density", math.inf, "ties.density is inf"),
        ("ties.density", [0.3], "ties.density"),
        ("ties.density", None, "ties.density is None"),
        ("ties.density", True, "ties.density is True"),
        ("ties.lambda", math.inf, "ties.lambda"),
        ("ties.normalize", 2, "ties.normalize"),
        ("ties.elect", "maybe", "ties.elect"),
        ("gradient.values", [0.5], "at least two"),
        ("gradient.values", [0.5, 2], "gradient.values[1] is 2"),
        ("gradient.values", "x", "gradient.values"),
        ("gradient.along", "sideways", "along"),
        ("surprise", 1, "unknown key 'surprise'"),
        ("recipe.parts.p1.d2.name", "addition", "two places"),
        ("recipe.parts.p1.d2.path", "models/nosuch", "the out of no source"),
        ("recipe.parts.p1.d1.weight", -1, "weight"),
        ("recipe.parts.p1.d1.density", 2, "density"),
        ("recipe.parts.p1.d1.name", "a;reboot", "must be 1 to 64"),
        ("recipe.parts.p1.d1.name", "-rf", "must be 1 to 64"),
        ("recipe.parts.p1.d9", {"name": "x"}, "unknown key 'd9'"),
        ("recipe.base", "models/elsewhere", "recipe.base"),
        ("recipe.shard_bytes", 0, "recipe.shard_bytes"),
        ("recipe.shard_bytes", 1.5, "recipe.shard_bytes"),
        ("recipe.dtype", "int8", "dtype"),
    ],
)
def test_a_wrong_value_is_refused_by_name(where: str, value: Any, says: str) -> None:
    params = valid()
    *path, last = where.split(".")
    holder = params
    for key in path:
        holder = holder[key]
    holder[last] = value
    with pytest.raises(RecipeError) as caught:
        check_params(params)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["$(reboot)", "a b", "x\ny", "'", '"', "..", ".hidden", "-x", "", "a/b"]
)
def test_a_name_that_a_shell_could_misread_is_refused(name: str) -> None:
    params = valid()
    params["recipe"]["sources"][name] = params["recipe"]["sources"]["base"]
    with pytest.raises(RecipeError, match="name"):
        check_params(params)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    value=json_values,
    where=st.sampled_from(["recipe", "ties", "gradient", "parts", "sources", "loras", "p1", "d1"]),
)
def test_no_value_anywhere_is_more_than_one_clear_line(value: Any, where: str) -> None:
    params = valid()
    recipe = params["recipe"]
    holder = {
        "parts": recipe,
        "sources": recipe,
        "loras": recipe,
        "p1": recipe["parts"],
        "d1": recipe["parts"]["p1"],
    }.get(where, params)
    holder[where] = value
    try:
        check_params(params)
    except RecipeError as error:
        assert "\n" not in str(error)


@cache
def composed_text() -> str:
    return composed([], CONF)


def valid() -> dict[str, Any]:
    """Fresh parameters that pass."""
    params: dict[str, Any] = yaml.load(composed_text(), yaml.CSafeLoader)
    return params
