"""What the card says to type composes to the parameters of the build, whatever was overridden."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    assert found is not None
    assert sorted(found) == sorted(expected)
    command = rebuild_commands(replace(small_build, overrides=found))[0]
    words = shlex.split(command)
    assert words[:3] == ["dvc", "exp", "run"]
    assert set(words[3::2]) == {"-S"}
    assert params_of(*words[4::2]) == params


@pytest.mark.parametrize("place", params_of()["report"]["formats"])
def test_every_format_can_be_scored_in_its_own_runtime(place: str) -> None:
    params = params_of("quantize=all", f"+eval/quants=[{place}]")
    out = params["report"]["quants"][place]
    (item,) = (e for e in params["quantize_eval"].values() if e["out"] == out)
    assert (item["kind"], item["reads"]) == ("evaluate", params["report"]["formats"][place])


def test_the_scored_recipe_scores_every_donor() -> None:
    params = params_of("recipe=stheno_l2_13b_scored")
    items = {item["out"]: item["reads"] for item in params["quantize_eval"].values()}
    for part in ("p1", "p2"):
        for place, folder in params["places"][part].items():
            if folder != UNUSED:
                assert items[params["report"]["scores"][f"{part}_{place}"]] == folder


def test_parameters_of_no_recipe_are_rebuilt_as_they_stand(
    small_build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    params = params_of()
    params["eval"]["published"] = {"Stheno-1.1": {"addition": 1.0}}  # no path of Hydra's has dots
    assert overrides(params) is None
    assert rebuild_commands(replace(small_build, overrides=None))[0] == "dvc repro"


def test_a_model_that_takes_plain_text_is_talked_to_in_plain_text(small_build: Build) -> None:
    raw = replace(small_build, recipe={**small_build.recipe, "prompt": "raw"})
    for text in (card(raw), page(raw)):
        assert "remerge chat merged/final --raw\n" in text or "--raw</code>" in text
    assert "--raw" not in card(small_build)
