"""What the card says to type composes to the parameters of the build, whatever was overridden."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from remerge.quantize.formats import FORMATS
from remerge.recipes.described import described, pins_of
from remerge.recipes.tables import UNUSED
from remerge.report.build import Build
from remerge.report.card import card
from remerge.report.commands import rebuild_commands
from remerge.report.page import page
from remerge.stages.compose import composed
from remerge.stages.report import overrides

ROOT = Path(__file__).resolve().parents[2]


def params_of(*settings: str) -> dict[str, Any]:
    params: dict[str, Any] = yaml.safe_load(composed(list(settings), ROOT / "conf"))
    return params


def without_record(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters but for how they were composed."""
    return {key: value for key, value in params.items() if key != "composed"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], ["recipe=tiny"]),
        (
            ["gradient=inverted", "ties.density=0.6"],
            ["recipe=tiny", "gradient=inverted", "ties.density=0.6"],
        ),
        (["gradient.values=[0.1,1.0]"], ["recipe=tiny", "gradient.values=[0.1,1.0]"]),
        (
            ["gradient.containing='mlp up'", "eval.limit=10"],
            ["recipe=tiny", "eval.limit=10", "gradient.containing='mlp up'"],
        ),
        (
            ["recipe=tiny_2x4", "quantize=[gguf_f16,gguf_q4_k_m]"],
            ["recipe=tiny_2x4", "quantize=[gguf_f16,gguf_q4_k_m]"],
        ),
        (["recipe=stheno_l2_13b_scored"], ["recipe=stheno_l2_13b_scored"]),
        (
            ["quantize=[gguf_q8_0,ggml_f16]", "+eval/quants=[gguf_q8_0]"],
            ["recipe=tiny", "quantize=[gguf_q8_0,ggml_f16]", "+eval/quants=[gguf_q8_0]"],
        ),
        (
            ["recipe=stheno_l2_13b", "recipe.merges.p1.models.chronos.density=0.5"],
            ["recipe=stheno_l2_13b", "recipe.merges.p1.models.chronos.density=0.5"],
        ),
    ],
)
def test_the_printed_command_composes_to_the_parameters(
    settings: list[str], expected: list[str], small_build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    params = params_of(*settings)
    found = overrides(params)
    assert sorted(found) == sorted(expected)
    command = rebuild_commands(replace(small_build, overrides=found))[0]
    words = shlex.split(command)
    assert words[:3] == ["dvc", "exp", "run"]
    assert set(words[3::2]) == {"-S"}
    assert without_record(params_of(*words[4::2])) == without_record(params)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_can_be_scored_in_its_own_runtime(name: str) -> None:
    params = params_of("quantize=all", f"+eval/quants=[{name}]")
    found = described(params, pins_of(params))["report"]
    assert found["quants"] == {name: f"scores/{name}"}
    assert set(found["formats"]) == set(FORMATS)
    item = params["quantize_eval"][f"score_{name}"]
    assert (item["section"], item["reads"]) == ("digests.eval", found["formats"][name])


@pytest.mark.parametrize("settings", [(), ("quantize=all",), ("quantize=none", "recipe.score=[]")])
def test_every_format_and_score_is_collected(settings: tuple[str, ...]) -> None:
    params = params_of(*settings)
    collections = list(params["collect"].values())
    read = [f for entry in collections for f in entry["folders"].values() if f != UNUSED]
    assert read == [item["out"] for item in params["quantize_eval"].values()]
    outs = [UNUSED, *(entry["out"] for entry in collections)]
    assert [entry["after"] for entry in collections] == outs[:-1]
    assert params["report"]["collected"] == outs[-1]


def test_the_scored_recipe_scores_every_donor() -> None:
    params = params_of("recipe=stheno_l2_13b_scored")
    items = {item["out"]: item["reads"] for item in params["quantize_eval"].values()}
    scores = described(params, pins_of(params))["report"]["scores"]
    for part in ("p1", "p2"):
        for place, folder in params["places"][part].items():
            if folder != UNUSED:
                assert items[scores[f"{part}_{place}"]] == folder


def test_a_build_of_unknown_overrides_is_rebuilt_as_it_stands(small_build: Build) -> None:
    assert rebuild_commands(replace(small_build, overrides=None))[0] == "dvc repro"


def test_a_model_that_takes_plain_text_is_talked_to_in_plain_text(small_build: Build) -> None:
    raw = replace(small_build, recipe={**small_build.recipe, "prompt": "raw"})
    for text in (card(raw), page(raw)):
        assert "remerge chat merged/final --raw\n" in text or "--raw</code>" in text
    assert "--raw" not in card(small_build)
