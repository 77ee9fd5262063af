"""Which stages other parameters would run, without DVC."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from remerge.proof.affected import affected, in_words, stages_of
from tests.pipeline.project import ROOT


@pytest.fixture(scope="module")
def committed() -> tuple[Any, dict[str, Any]]:
    """The parameters of this project, and a lock in which each stage tracks them as they are."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())
    for entry in lock["stages"].values():
        tracked = entry.get("params", {}).get("params.yaml", {})
        for key in tracked:
            value: Any = params
            for part in key.split("."):
                value = value[part]
            tracked[key] = value
    return lock, params


def test_same_parameters_run_nothing(committed: tuple[Any, dict[str, Any]]) -> None:
    lock, params = committed
    assert affected(lock, params) == []
    assert set(stages_of(params)) == set(lock["stages"])


def test_density_runs_both_parts_and_what_follows(committed: tuple[Any, dict[str, Any]]) -> None:
    lock, params = committed
    changed = copy.deepcopy(params)
    changed["ties"]["density"] = 0.6
    names = affected(lock, changed)
    assert not any(name.startswith(("fetch", "bake")) for name in names)
    assert {"ties_p1", "ties_p2", "gradient", "report"} <= set(names)
    scores = {name for name in names if "@score_" in name}
    assert scores == {f"quantize_eval@score_{label}" for label in ("p1", "p2", "final")}
    items = params["quantize_eval"].items()
    formats = [key for key, item in items if item["section"] != "digests.eval"]
    assert {f"quantize_eval@{key}" for key in formats} <= set(names)


def test_one_source_runs_its_fetch_and_its_part(committed: tuple[Any, dict[str, Any]]) -> None:
    lock, params = committed
    changed = copy.deepcopy(params)
    changed["pins"]["sorting"] = "0" * 64
    names = affected(lock, changed)
    assert [name for name in names if name.startswith("fetch")] == ["fetch@sorting"]
    assert "ties_p1" in names and "ties_p2" not in names


def test_new_format_runs_alone_with_the_report(committed: tuple[Any, dict[str, Any]]) -> None:
    lock, params = committed
    changed = copy.deepcopy(params)
    changed["quantize_eval"]["gguf_new"] = {"reads": "merged/final"}
    changed["collect"]["c1"]["folders"]["d24"] = "quantized/gguf_new"
    assert affected(lock, changed) == ["quantize_eval@gguf_new", "collect@c1", "report"]


def test_lock_that_is_none_runs_all(committed: tuple[Any, dict[str, Any]]) -> None:
    _, params = committed
    assert affected(None, params) == stages_of(params)
    assert in_words(["gradient", "fetch@a"], 9) == "gradient, fetch (a): 2 of 9 stages"
    assert in_words([], 9) == "nothing: 0 of 9 stages"
