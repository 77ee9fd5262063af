"""`dvc.yaml` names exactly the code that each stage runs, and `params.yaml` is what conf/ says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stages.compose import composed
from tests.pipeline.closure import KINDS, SRC, code_of, is_own, room_closure

ROOT = SRC.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def code_deps(stage: str) -> set[str]:
    body = STAGES[stage].get("do", STAGES[stage])
    return {dep for dep in body["deps"] if dep.startswith("src/") and "$" not in dep}


def test_the_stages_are_the_six_of_the_recipe_and_the_report() -> None:
    assert list(STAGES) == [
        "fetch",
        "bake_loras",
        "ties_p1",
        "ties_p2",
        "gradient",
        "quantize_eval",
        "report",
    ]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "report"])
def test_a_stage_depends_on_exactly_the_code_it_runs(stage: str) -> None:
    assert code_deps(stage) == code_of(stage)


def test_the_report_states_the_digest_of_all_code_and_depends_on_it() -> None:
    assert "src" in STAGES["report"]["deps"]
    assert not code_deps("report")


def test_items_of_one_kind_run_no_code_of_the_other() -> None:
    for kind in KINDS:
        others = [other for other in KINDS if other != kind]
        assert not any(is_own(file, other) for file in room_closure(kind) for other in others)


def test_evaluation_code_is_no_dependency_of_any_merge() -> None:
    for stage in ("fetch", "bake_loras", "ties_p1", "ties_p2", "gradient"):
        assert not any("/evaluate" in dep or "/quantize" in dep for dep in code_deps(stage))


def test_the_committed_params_are_what_conf_composes_to() -> None:
    assert (ROOT / "params.yaml").read_text() == composed([], ROOT / "conf")


@pytest.mark.parametrize(
    "recipe",
    [
        p.stem
        for p in sorted(Path(ROOT / "conf/recipe").glob("tiny*.yaml"))
        if "sources" not in p.stem
    ],
)
def test_every_embedded_recipe_composes(recipe: str) -> None:
    assert f"name: {recipe}\n" in composed([f"recipe={recipe}"], ROOT / "conf")
