"""Experiments in one table that a terminal holds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from remerge.errors import RecipeError
from remerge.report.experiments import compare, comparison_page
from tests.pipeline.project import Project

TASKS = ("addition", "brackets", "counting", "dates", "lookup", "maximum", "reversal", "sorting")


def entry(rev: str, density: float, mean: float | None, name: str | None = None) -> dict[str, Any]:
    params = {
        "ties": {"density": density},
        "recipe": {"formats": {"gguf_q4_k_m": None}},
        "places": {"p1": {"d1": f"models/{rev}"}},
    }
    scores = {task: (mean or 0) * (i + 1) / 8 for i, task in enumerate(TASKS)}
    metrics = {
        "scores": {"final": {**scores, "mean": mean}},
        "formats": {"gguf_f16": {"size": 4_000_000}, "gguf_q4_k_m": {"size": 1_170_000}},
    }
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
        "json.dump({'scores': {'final': {'a': d, 'mean': d}}}, open('metrics.json', 'w'))\n"
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
    assert json.loads((tmp_path / "metrics.json").read_text())["scores"]["final"]["mean"] == 0.5


def test_compare_outside_of_a_project_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        ["remerge", "compare"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: dvc.yaml: not here; run this in a project's folder\n"
