"""Tables for DVC have a row for each mark, and `dvc.yaml` names tables and templates that exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from remerge.report.build import Build
from remerge.report.plots import plots
from tests.report.conftest import KINDS, LAYERS

ROOT = Path(__file__).resolve().parents[2]
TENSORS = LAYERS * len(KINDS) + 2


def test_there_is_a_row_for_each_mark(small_build: Build) -> None:
    tables = plots(small_build)
    assert len(tables["scores"]) == 7 * 3
    assert len(tables["blend"]) == TENSORS
    assert len(tables["task_vectors"]) == TENSORS * 3
    assert len(tables["cosines"]) == TENSORS
    assert [row["format"] for row in tables["formats"]] == ["gguf_f16", "gguf_q4_0"]


def test_shares_of_a_tensor_sum_to_one(small_build: Build) -> None:
    rows = [r for r in plots(small_build)["task_vectors"] if r["part"] == "p1"]
    for name in {row["tensor"] for row in rows}:
        shares = [row["contribution"] for row in rows if row["tensor"] == name]
        assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_the_ratio_runs_from_the_first_part_to_the_second(small_build: Build) -> None:
    ratios = [row["ratio"] for row in plots(small_build)["blend"]]
    assert ratios[0] == 0
    assert ratios[-1] == 1
    assert ratios == sorted(ratios)


def test_the_pipeline_shows_every_table_in_a_template_of_its_own(small_build: Build) -> None:
    tables = plots(small_build)
    shown = {}
    for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]:
        ((name, plot),) = entry.items()
        ((path, y),) = plot["y"].items()
        assert path == f"report/plots/{name}.json"
        template = json.loads((ROOT / f".dvc/plots/{plot['template']}.json").read_text())
        assert template["data"]["values"] == "<DVC_METRIC_DATA>"
        assert plot["title"]
        assert {plot["x"], y} <= tables[name][0].keys()
        shown[name] = template
    assert shown.keys() == tables.keys()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("task_vectors", ["norm", "contribution", "conflict", "kept"]),
        ("formats", ["bits_per_weight", "perplexity", "divergence"]),
    ],
)
def test_what_was_measured_is_drawn(name: str, fields: list[str], small_build: Build) -> None:
    template = json.loads((ROOT / f".dvc/plots/{name}.json").read_text())
    encodings = [view.get("spec", view)["encoding"] for view in template["vconcat"]]
    drawn = [e["color"]["field"] if name == "task_vectors" else e["x"]["field"] for e in encodings]
    assert drawn == fields
    assert set(fields) <= {key for row in plots(small_build)[name] for key in row}
