"""Experiments in one table that a terminal holds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from remerge.errors import RecipeError, RemergeError
from remerge.report.build import Build
from remerge.report.experiments import compare, comparison_page, read_kept, to_keep
from remerge.report.page import page
from remerge.tensors.json_files import write_json
from tests.pipeline.project import Project

TASKS = ("addition", "brackets", "counting", "dates", "lookup", "maximum", "reversal", "sorting")


def entry(rev: str, density: float, mean: float | None, name: str | None = None) -> dict[str, Any]:
    params = {
        "ties": {"density": density},
        "recipe": {"formats": {"gguf_q4_k_m": None}},
        "places": {"p1": {"d1": f"models/{rev}"}},
    }
    scores = {task: (mean or 0) * (i + 1) / 8 for i, task in enumerate(TASKS)}
    metrics = {"mean": {"base": 0.1, "final": mean}, "final": scores, "bytes": 1_170_000}
    data = {
        "params": {"params.yaml": {"data": params}},
        "metrics": {"metrics.json": {"data": metrics if mean is not None else {}}},
    }
    return {"rev": rev, "name": name, "data": data, "error": None}


def shown() -> list[dict[str, Any]]:
    experiments = [
        {"name": "low-tide", "revs": [entry("aa", 0.2, 0.40)], "executor": None},
        {"name": "high-tide", "revs": [entry("bb", 0.6, 0.50)], "executor": None},
        {"name": "waits", "revs": [entry("cc", 0.9, None)], "executor": {"state": "queued"}},
    ]
    head = entry("dd", 0.33, 0.45, "main") | {"experiments": experiments}
    return [entry("workspace", 0.33, 0.45) | {"experiments": None}, head]


def test_table_has_ten_columns_sorted_by_mean() -> None:
    comparison = compare(shown())
    assert len(comparison.columns) <= 10
    rows = list(comparison.rows())
    assert [row[0] for row in rows] == ["workspace", "high-tide", "main", "low-tide", "waits"]
    assert [row[1] for row in rows][:3] == ["", "ties.density=0.6", ""]
    assert rows[1][2] == "0.500" and rows[1][-1] == "1.17 MB"
    assert rows[-1][2] == "queued"
    assert comparison.left_out == ("addition", "brackets")  # they differ least
    assert max(sum(map(len, row)) + 2 * len(row) for row in rows) <= 160


def test_chosen_scores_are_shown_and_unknown_ones_refused() -> None:
    assert compare(shown(), ["addition"]).columns == (
        "experiment",
        "changed",
        "mean",
        "addition",
        "size",
    )
    with pytest.raises(RecipeError, match="sortng: no experiment has it; did you mean 'sorting'"):
        compare(shown(), ["sortng"])


def test_page_draws_density_against_mean() -> None:
    comparison = compare(shown())
    ((key, picture),) = comparison.pictures()
    assert key == "ties.density"
    assert [choice.name for choice in picture.choices] == ["low-tide", "workspace", "high-tide"]
    assert [choice.kind for choice in picture.choices] == ["best", "best", "final"]
    page = comparison_page(comparison)
    assert "ties.density against the mean score" in page
    assert "<script" not in page and "http:" not in page and "https:" not in page


def test_kept_experiments_stand_in_the_report(small_build: Build, tmp_path: Path) -> None:
    pins = {"base": "0" * 64}
    file = tmp_path / "mini.json"
    write_json(file, to_keep(compare(shown()), pins))
    kept = read_kept(file, pins)
    assert kept is not None and len(kept.columns) <= 10
    assert [row[:3] for row in kept.rows()] == [
        ("high-tide", "ties.density=0.6", "0.500"),
        ("main", "", "0.450"),
        ("low-tide", "ties.density=0.2", "0.400"),
    ]
    ((key, picture),) = kept.pictures()
    assert key == "ties.density"
    assert [choice.name for choice in picture.choices] == ["low-tide", "main", "high-tide"]
    text = page(small_build, kept)
    assert 'href="#experiments"' in text and "ties.density against the mean score" in text
    assert "experiments" not in page(small_build).lower()


def test_experiments_of_other_sources_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "mini.json"
    write_json(file, to_keep(compare(shown()), {"base": "0" * 64}))
    assert read_kept(file, {"base": "1" * 64}) is None
    assert read_kept(tmp_path / "none.json", {}) is None


@pytest.mark.parametrize("damage", ["[]", "{}", '{"pins": []}', "{"])
def test_a_damaged_file_of_experiments_is_named(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "mini.json"
    file.write_text(damage)
    with pytest.raises(RemergeError, match=r"mini\.json"):
        read_kept(file, {})


def test_nothing_finished_is_nothing_to_keep() -> None:
    rows = shown()
    rows[1]["experiments"] = rows[1]["experiments"][2:]
    with pytest.raises(RecipeError, match="no experiment is finished"):
        to_keep(compare(rows), {})


def test_names_of_experiments_are_no_markup() -> None:
    rows = shown()
    rows[1]["experiments"][0]["name"] = "<script>x</script>"
    assert "<script>" not in comparison_page(compare(rows))


@pytest.mark.full
def test_experiments_of_dvc_are_compared(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "make.py").write_text(
        "import json, yaml\n"
        "d = yaml.safe_load(open('params.yaml'))['ties']['density']\n"
        "json.dump({'final': {'a': d}, 'mean': {'final': d}}, open('metrics.json', 'w'))\n"
    )
    (tmp_path / "params.yaml").write_text("ties: {density: 0.25}\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  report:\n    cmd: python make.py\n    params: [ties]\n"
        "    metrics: [metrics.json: {cache: false}]\n"
    )
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "repro", "-q"]):
        project.run(*command)
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "first")
    project.run("dvc", "exp", "run", "-q", "-n", "half", "-S", "ties.density=0.5")
    out = project.run("remerge", "compare")
    (row,) = [line.split() for line in out.splitlines() if line.startswith("half")]
    assert row == ["half", "ties.density=0.5", "0.500", "0.50"]
    assert json.loads((tmp_path / "metrics.json").read_text())["mean"]["final"] == 0.5


def test_compare_outside_of_a_project_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        ["remerge", "compare"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: dvc.yaml: not here; run this in a project's folder\n"
