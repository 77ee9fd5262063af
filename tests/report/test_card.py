"""The model card passes the hub's own checks, and says what is known and what is assumed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from remerge.recipes.described import described, pins_of
from remerge.report.build import Build
from remerge.report.card import card, metadata
from remerge.report.origins import shown
from remerge.report.page import page
from remerge.stages.compose import composed
from tests.sources.unpinned import unpinned_conf


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_the_hubs_library_reads_the_head(small_build: Build) -> None:
    read = ModelCard(card(small_build))
    assert isinstance(read.data, ModelCardData)
    assert read.data.license == "llama2"
    assert read.data.base_model == [
        "meta/base-13b",
        "elinas/chronos",
        "nous/hermes",
        "ehartford/wizard",
    ]
    assert read.data.pipeline_tag == "text-generation"
    assert "merge" in read.data.tags


def test_results_come_back_from_the_model_index(small_build: Build) -> None:
    results = ModelCard(card(small_build)).data.eval_results
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in results] == [
        ("addition", "exact_match", 70.0),
        ("sorting", "exact_match", 72.0),
    ]


def test_a_licence_that_the_hub_does_not_know_is_named_as_another(small_build: Build) -> None:
    head = metadata(replace(small_build, recipe={**small_build.recipe, "licence": "My Own 1"}))
    assert (head["license"], head["license_name"]) == ("other", "my-own-1")


def test_what_is_assumed_is_said_and_makes_it_a_reconstruction(small_build: Build) -> None:
    text = card(small_build)
    assert "**This is a reconstruction.**" in text
    assert "- The densities: the author published none." in text
    known = card(replace(small_build, recipe={**small_build.recipe, "assumptions": []}))
    assert "reconstruction" not in known


def test_pins_id_prompt_licences_and_commands_are_there(small_build: Build) -> None:
    text = card(small_build)
    assert f"elinas/chronos@{'a' * 40}" in text
    assert small_build.final["model_id"] in text
    assert "### Instruction:" in text
    assert "remerge id merged/final" in text
    assert "- cc-by-nc-4.0: chronos" in text
    assert "- not known: limarp" in text
    assert "| LoRA on hermes | limarp |" in text


def test_untrusted_names_change_neither_head_nor_tables(hostile_build: Build) -> None:
    text = card(hostile_build)
    read = ModelCard(text)
    model_index_to_eval_results(metadata(hostile_build)["model-index"])
    assert set(read.data.to_dict()) <= {
        "license",
        "license_name",
        "license_link",
        "language",
        "library_name",
        "pipeline_tag",
        "tags",
        "model-index",
    }
    shown = re.sub(r"(?<!\\)`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert not re.search(r"(?<!\\)[<\[](script|a)", shown.partition("\n# ")[2])
    assert not any(c in text for c in ("\x1b", "\u202e"))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    widths = {line.replace("\\|", "").count("|") for line in rows}
    assert widths <= {3, 5, 6, 10}


def test_cards_are_pure(small_build: Build) -> None:
    assert card(small_build) == card(small_build)


@pytest.mark.parametrize("overrides", [[], ["gradient=inverted"]])
def test_the_recipe_of_stheno_is_told_with_its_gaps(
    small_build: Build, overrides: list[str], tmp_path: Path
) -> None:
    conf = unpinned_conf(tmp_path)
    plain = yaml.safe_load(composed(["recipe=stheno_l2_13b", *overrides], conf))
    params = described(plain, pins_of(plain, conf / "pins"))
    sections = {key: params[key] for key in ("recipe", "ties", "gradient")}
    build = replace(small_build, **sections, scored=())
    text = card(build)
    head = ModelCard(text).data
    assert "**This is a reconstruction.**" in text
    assert head.license == "llama2"
    assert len(head.base_model) == 9
    assert head.base_model[0] == "TheBloke/Llama-2-13B-fp16"
    assert "/Kimiko-v2-13B@not pinned" in text
    assert "### Instruction:" in text
    assert f"`gradient.values` | `{shown(params['gradient']['values'])}`" in text
    assert params["recipe"]["title"] in page(build)
