"""A wrong parameter is one clear line before anything runs."""

from __future__ import annotations

import math
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from remerge.errors import RecipeError
from remerge.stages.compose import composed
from remerge.stages.params import check_params, item
from tests.pipeline.closure import SRC

CONF = SRC.parent / "conf"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ties.densty=0.3", "did you mean 'density'?"),
        ("+ties.densty=0.3", "unknown key 'densty'"),
        ("recipe=../../x", "x"),
        ("recipe=nosuch", "nosuch"),
        ("recipe=tinny", "did you mean 'tiny'?"),
        ("recipe.name=mine", "no source is pinned: write conf/pins/mine.yaml, or name"),
        ("eval.batch_sise=3", "did you mean 'batch_size'?"),
        ("density=0.5", "did you mean 'ties.density'?"),
        ("+valus=[0,1]", "did you mean 'gradient.values'?"),
        ("ties.density=[0.5", "ties.density=[0.5: cannot be read as KEY=VALUE"),
        ("ties.density", "ties.density: cannot be read as KEY=VALUE"),
        ("quantise=all", "did you mean 'quantize'?"),
        ("quantize=[]", "quantize=[] names no format"),
        ("quantize=[gguf_q4_k_mm]", "did you mean 'gguf_q4_k_m'?"),
        ("recipe.formats=[gguf_q4_k_mm]", "did you mean 'gguf_q4_k_m'?"),
        ("ties.density=abc", "ties.density is 'abc'"),
        ("ties.lambda=1e39", "ties.lambda is 1e+39"),
        ("+eval.surprise=1", "eval.surprise"),
        ("eval.dtype=abc", "eval.dtype"),
        ("~recipe.parts.p1.d3", "recipe has no 'parts'"),
        ("~recipe.merges.p1.models.sortin", "did you mean 'sorting'?"),
        ("recipe.merges.p1.method=tise", "did you mean 'ties'?"),
        ("recipe.merges.p1.method=gradient", "gradient merges two models, not 3"),
        ("recipe.merges.p1.models.addition.model=sorting", "is the same model as addition"),
        ("recipe.merges.p1.models.addition.weight=1e39", "models.addition.weight is 1e+39"),
        ("recipe.merges.p1.models.adition.weight=1", "did you mean 'addition'?"),
        ("recipe.merges.p1.models=[p2,addition]", "is merged by hand"),
        ("recipe.merges.p1.models.p1={}", "which is no node and no pinned source"),
        ("recipe.merges.p2.models.p1={}", "is merged by hand"),
        ("recipe.result=p1", "is merged by hand"),
        ("recipe.result=finale", "did you mean 'final'?"),
        ("recipe.score=[additon]", "did you mean 'addition'?"),
        ("recipe.bakes.lookup.model=nosuch", "recipe.bakes.lookup.model is 'nosuch'"),
        ("recipe.bakes.lookup.adapter=base", "used as model and as adapter"),
        ("recipe.bakes.lookup.model=maximum_lora", "used as"),
        ("recipe.base=reversal_lora", "reversal_lora"),
        ("recipe.base=bsae", "did you mean 'base'?"),
        ("+recipe.sources={x: 1}", "recipe: unknown key 'sources'"),
        ("quantize.measure=maybe", "quantize.measure is 'maybe'"),
        ("+quantize.surprise=1", "quantize: unknown key 'surprise'"),
        ("+quantize.gguf.surprise=1", "quantize.gguf: unknown key 'surprise'"),
        ("quantize.calibration=1", "quantize.calibration is 1"),
    ],
)
def test_a_wrong_override_does_not_compose(override: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        composed([override], CONF)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and str(CONF) not in str(caught.value)


def test_a_file_that_is_no_yaml_is_named_with_line_and_column(tmp_path: Path) -> None:
    conf = Path(shutil.copytree(CONF, tmp_path / "conf"))
    (conf / "recipe" / "bad.yaml").write_text("recipe:\n  merges: [a, b}\n")
    with pytest.raises(RecipeError) as caught:
        composed(["recipe=bad"], conf)
    assert str(caught.value).startswith("conf/recipe/bad.yaml: line 2, column 16: did not find")


def test_an_unknown_item_of_a_stage_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"fetch has no 'bse'; did you mean 'base'\? it has"):
        item({"base": 1, "chronos": 2}, "bse", "fetch")


def test_a_default_that_dvc_tracks_is_written_out() -> None:
    params = yaml.safe_load(composed(["~recipe.shard_bytes"], CONF))
    assert params["recipe"]["shard_bytes"] == 2_000_000_000


def test_donors_that_all_weigh_nothing_are_refused() -> None:
    models = ("addition", "sorting", "lookup")
    overrides = [f"recipe.merges.p1.models.{name}.weight=0" for name in models]
    with pytest.raises(RecipeError, match=r"recipe\.merges\.p1\.models: the weights of all"):
        composed(overrides, CONF)


def test_more_models_than_places_name_the_limit() -> None:
    models = ",".join(f"m{i}: {{model: owner/m{i}}}" for i in range(9))
    with pytest.raises(RecipeError, match=r"dvc\.yaml has 8 places a part"):
        composed([f"recipe.merges.p1.models={{{models}}}"], CONF)


def test_what_the_result_does_not_reach_is_not_fetched() -> None:
    dropped = yaml.safe_load(composed(["~recipe.merges.p1.models.lookup"], CONF))
    assert not {"lookup", "reversal_lora"} & dropped["fetch"].keys()
    assert list(dropped["bake_loras"]) == ["brackets"]
    assert "score_lookup" not in dropped["quantize_eval"]
    none = yaml.safe_load(composed(["recipe=stheno_l2_13b", "eval=open_llm_leaderboard_v1"], CONF))
    assert not [out for out in none["fetch"].values() if out.startswith("datasets/")]
    assert "llama2_13b_meta" not in none["fetch"]


def test_models_are_a_list_or_a_table_alike() -> None:
    table, listed = valid(), valid()
    listed["recipe"]["merges"]["p1"]["models"] = [
        "addition",
        "sorting",
        {"model": "lookup", "vocabulary": "truncate"},
    ]
    assert check_params(listed).recipe == check_params(table).recipe


def test_a_hub_id_and_a_path_have_a_label_of_their_own() -> None:
    params = yaml.safe_load(
        composed(["recipe.merges.p2.models=[elinas/chronos-13b-v2,./my/model,dates]"], CONF)
    )
    assert list(params["places"]["p2"].values())[:3] == [
        "models/chronos-13b-v2",
        "models/model",
        "models/dates",
    ]
    assert params["pins"]["chronos-13b-v2"] is None


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
        ("recipe.merges.p1.models.sorting", {"weight": -1e39}, "sorting.weight is -1e+39"),
        ("recipe.merges.p1.models.sorting", {"density": 2}, "sorting.density is 2"),
        ("recipe.merges.p1.models.a;reboot", {}, "must be 1 to 64"),
        ("recipe.merges.p1.models.-rf", {}, "must be 1 to 64"),
        ("places.p1.d1", "src/remerge", "is no output"),
        ("fetch.base", "../precious", "is no output"),
        ("places.p1", {}, "places.p1"),
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
    for section in ("fetch", "bake_loras", "quantize_eval", "pins"):
        params = valid()
        params[section][name] = next(iter(params[section].values()))
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
    where=st.sampled_from(
        ["recipe", "ties", "gradient", "merges", "bakes", "p1", "models", "fetch"]
    ),
)
def test_no_value_anywhere_is_more_than_one_clear_line(value: Any, where: str) -> None:
    params = valid()
    recipe = params["recipe"]
    holder = {
        "merges": recipe,
        "bakes": recipe,
        "p1": recipe["merges"],
        "models": recipe["merges"]["p1"],
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
