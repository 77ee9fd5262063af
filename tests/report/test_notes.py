"""Scores that cannot be compared or published are not, and the reader is told why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remerge.errors import RecipeError
from remerge.report.build import Build, Scored
from remerge.report.card import card, metadata
from remerge.report.collect import collect, metrics, results
from remerge.report.collected import collect_folders
from remerge.report.page import page
from remerge.tensors.json_files import write_json
from tests.report.test_page import Elements

LIMIT_NOTE = "scored on the first 10 items of each task only: no number to publish"


def limited(build: Build) -> Build:
    def result(model: Scored) -> dict[str, Any]:
        settings = {**model.result["settings"], "limit": 10}
        return {**model.result, "settings": settings, "notes": [LIMIT_NOTE]}

    return replace(
        build,
        suite=replace(build.suite, limit=10),
        scored=tuple(replace(model, result=result(model)) for model in build.scored),
    )


def told(build: Build) -> list[str]:
    return [card(build), " ".join(Elements(page(build)).text)]


def test_limited_scores_are_no_results_and_get_no_verdict(small_build: Build) -> None:
    assert "model-index" in metadata(small_build)
    assert all("published against rebuilt" in text.lower() for text in told(small_build))
    build = limited(small_build)
    assert "model-index" not in metadata(build)
    for text in told(build):
        assert LIMIT_NOTE in text.replace("\\", "")
        assert "published against rebuilt" not in text.lower()


def test_the_suites_notes_are_told_where_nothing_was_published(small_build: Build) -> None:
    build = replace(small_build, suite=replace(small_build.suite, published={}))
    for text in told(build):
        assert "counted in another way than it was when published" in text


def test_a_note_of_some_models_names_them(small_build: Build) -> None:
    note = "addition: some prompts are longer than the model's context and lost their beginning"
    scored = tuple(
        replace(m, result={**m.result, "notes": [*m.result["notes"], note]})
        if m.name in ("base", "p1")
        else m
        for m in small_build.scored
    )
    for text in told(replace(small_build, scored=scored)):
        assert f"base, p1: {note}" in text
        assert text.count(note) == 1


def with_quant(build: Build) -> Build:
    final = build.role("final")[0]
    result = {
        **final.result,
        "runtime": "llama.cpp",
        "scores": {**final.result["scores"], "addition": 0.65},
        "average": 0.685,
    }
    return replace(build, scored=(*build.scored, Scored("gguf_q4_0", "quant", "", result)))


def test_a_quant_is_compared_with_the_result_and_stands_in_no_other_table(
    small_build: Build,
) -> None:
    build = with_quant(small_build)
    for text in told(build):
        assert "Formats against the result" in text
        assert "−5.0" in text  # addition: 65 against 70
    kept = results(build)
    assert "gguf_q4_0" not in kept["scores"]
    assert kept["quants"]["gguf_q4_0"]["difference"] == {
        "addition": -0.05,
        "sorting": 0.0,
        "mean": -0.025,
    }
    assert "quants" not in results(small_build)


def test_results_hold_what_was_lost_by_quantisation(small_build: Build) -> None:
    row = results(small_build)["formats"]["gguf_q4_0"]
    assert (row["perplexity"], row["reference_perplexity"], row["agreement"]) == (5.5, 5.0, 0.975)
    assert row["divergence"] == 0.0123
    assert all("12.300" in text for text in told(small_build))


def write_collected(places: dict[str, str]) -> None:
    """What the stage collect writes."""
    write_json(Path("collected.json"), collect_folders(map(Path, places.values())))


@pytest.fixture
def project(
    small_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], dict[str, Any]]:
    """A folder with the outputs of a build, and its parameters."""
    monkeypatch.chdir(tmp_path)
    for part, manifest in small_build.merges.items():
        path = Path("merged") / part / "manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(manifest))
    places = {}
    for name in ("base", "final"):
        model = next(m for m in small_build.scored if m.name == name)
        path = Path("scores") / name / "scores.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(model.result))
        path.with_name("answers.json").write_text(json.dumps(model.answers))
        places[name] = str(path.parent)
    write_collected(places)
    task = {"kind": "skill", "metric": "exact_match"}
    suite = {
        "suite": "skills",
        "dtype": "float64",
        "tasks": {n: {**task, "data": f"{n}.jsonl"} for n in ("addition", "sorting")},
    }
    return lambda: {
        "recipe": small_build.recipe,
        "ties": small_build.ties,
        "gradient": small_build.gradient,
        "eval": suite,
        "report": {"scores": places, "formats": {}, "quants": {}, "collected": "collected.json"},
    }


@pytest.mark.parametrize(
    ("key", "value"), [("limit", 10), ("dtype", "float32"), ("suite", "others")]
)
def test_scores_made_in_two_ways_are_refused(
    key: str, value: Any, project: Callable[[], dict[str, Any]]
) -> None:
    params = project()
    assert [model.name for model in collect(params).scored] == ["base", "final"]
    path = Path("scores/base/scores.json")
    result = json.loads(path.read_text())
    (result if key == "suite" else result["settings"])[key] = value
    path.write_text(json.dumps(result))
    write_collected(params["report"]["scores"])
    with pytest.raises(RecipeError, match=f"base was scored with {key} {value}"):
        collect(params)


def test_metrics_are_headline_figures_that_a_terminal_holds(small_build: Build) -> None:
    assert metrics(small_build) == {
        "mean": {"base": 0.2, "best_donor": 0.5, "final": 0.71},
        "final": {"addition": 0.7, "sorting": 0.72},
        "bytes": 2000,
    }
    assert metrics(replace(small_build, scored=(), formats={})) == {}


def test_results_hold_model_ids_for_git_to_find(small_build: Build) -> None:
    found = results(small_build)["models"]
    assert found["final"] == small_build.final["model_id"]
    assert set(found) == set(small_build.merges)
