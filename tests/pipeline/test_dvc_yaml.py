"""`dvc.yaml` names exactly the code that each stage runs, and `params.yaml` is what conf/ says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from remerge import code
from remerge.code import ITEMS
from remerge.quantize.formats import FORMATS
from remerge.stages.compose import composed
from tests.pipeline.closure import SRC, closure, item_closure
from tests.pipeline.resolved import Resolved, changed, new_repository, resolve

ROOT = SRC.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def code_deps(stage: str) -> set[str]:
    body = STAGES[stage].get("do", STAGES[stage])
    return {dep for dep in body["deps"] if dep.startswith("src/") and "$" not in dep}


def test_stages_are_six_of_the_recipe_and_two_that_collect() -> None:
    assert list(STAGES) == [
        "fetch",
        "bake_loras",
        "ties_p1",
        "ties_p2",
        "gradient",
        "quantize_eval",
        "collect",
        "report",
    ]


def decisive(files: set[str]) -> set[str]:
    """Paths in the package of those files that decide bytes."""
    inside = {file.removeprefix("src/remerge/") for file in files}
    return {file for file in inside if not code.is_neutral(file)}


@pytest.mark.parametrize("stage", code.STAGES)
def test_dvc_yaml_lists_what_the_table_of_code_says(stage: str) -> None:
    assert code_deps(stage) == {f"src/remerge/{path}" for path in code.STAGES[stage]}
    assert all((ROOT / dep).exists() for dep in code_deps(stage))


@pytest.mark.parametrize("stage", [stage for stage in code.STAGES if stage != "quantize_eval"])
def test_a_stage_imports_only_code_that_it_depends_on(stage: str) -> None:
    imported = decisive(closure(f"remerge.stages.{stage}"))
    assert {file for file in imported if not code.covers(code.STAGES[stage], file)} == set()


@pytest.mark.parametrize("name", code.ITEMS)
def test_an_item_imports_only_code_that_it_depends_on(name: str) -> None:
    listed = (*code.STAGES["quantize_eval"], *code.ITEMS[name])
    assert {f for f in decisive(item_closure(name)) if not code.covers(listed, f)} == set()


MERGES = ("bake_loras", "ties_p1", "ties_p2", "gradient")


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("errors.py", ()),
        ("progress.py", ()),
        ("files.py", ()),
        ("commands/plan.py", ()),
        ("methods/ties.py", ("ties_p1", "ties_p2")),
        ("methods/ties_kernel.py", ("ties_p1", "ties_p2")),
        ("methods/gradient.py", ("gradient",)),
        ("baking/bake.py", ("bake_loras",)),
        ("kernels/blocks.py", (*MERGES, "quantize_eval")),
        ("evaluate/run.py", ()),
        ("sources/download.py", ("fetch",)),
        ("arithmetic/sums.py", ("bake_loras",)),
        ("vocabulary/prompts.py", ("ties_p1", "ties_p2", "quantize_eval")),
        ("stages/quantize.py", ()),
        ("report/page.py", ()),
    ],
)
def test_a_change_runs_the_stages_that_it_concerns(file: str, stages: tuple[str, ...]) -> None:
    assert (ROOT / "src/remerge" / file).is_file()
    listed = {s for s in code.STAGES if code.covers(code.STAGES[s], file)}
    assert listed == set(stages)


def test_the_report_states_the_digest_of_all_code_and_depends_on_it() -> None:
    assert "src" in STAGES["report"]["deps"]
    assert not code_deps("report")


def test_evaluation_code_is_no_dependency_of_any_merge() -> None:
    for stage in ("fetch", "bake_loras", "ties_p1", "ties_p2", "gradient"):
        assert not any("/evaluate" in dep or "/quantize" in dep for dep in code_deps(stage))


def test_the_committed_params_are_what_conf_composes_to() -> None:
    assert (ROOT / "params.yaml").read_text() == composed([], ROOT / "conf")


RECIPES = sorted(
    path.stem
    for path in Path(ROOT / "conf/recipe").glob("*.yaml")
    if path.read_text().startswith("# @package _global_")
)
SUITES = sorted(path.stem for path in Path(ROOT / "conf/eval").glob("*.yaml"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_repository(tmp_path_factory.mktemp("dvc") / "repository")


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_dvc_resolves_every_recipe_with_every_suite(
    repository: Path, recipe: str, suite: str
) -> None:
    stages = resolve(repository, f"recipe={recipe}", f"eval={suite}", "quantize=all")
    items = {name for name in stages if name.startswith("quantize_eval@g")}
    assert len(items) == len(list((ROOT / "conf/quantize").glob("g*_*.yaml")))


@pytest.fixture(scope="module")
def as_committed(repository: Path) -> dict[str, Resolved]:
    return resolve(repository)


@pytest.mark.parametrize(
    ("override", "runs"),
    [
        ("quantize.calibration=README.md", {"quantize_eval@gptq_4bit_128g"}),
        ("quantize=all", {f"quantize_eval@{f.name}" for f in FORMATS.values() if not f.default}),
        ("recipe.prompt=alpaca", "gguf gptq"),
        ("recipe.tags=[merge]", "gguf"),
        ("eval.tolerance=0.5", set()),
        ("quantize.measure=false", "gguf ggml gptq"),
        ("eval.batch_size=3", "score"),
    ],
)
def test_an_item_runs_again_for_what_it_reads_and_for_nothing_else(
    repository: Path, as_committed: dict[str, Resolved], override: str, runs: set[str] | str
) -> None:
    if isinstance(runs, str):
        starts = tuple(f"quantize_eval@{start}" for start in runs.split())
        runs = {name for name in as_committed if name.startswith(starts)}
    found = changed(as_committed, resolve(repository, override))
    assert {name for name in found if not name.startswith(("collect@", "report"))} == runs


def test_the_code_of_one_container_is_no_dependency_of_another(
    as_committed: dict[str, Resolved],
) -> None:
    for container in ("gguf", "ggml", "gptq", "evaluate"):
        own = f"src/remerge/{ITEMS[container][0]}"
        start = "score" if container == "evaluate" else container
        users = {name for name, stage in as_committed.items() if own in stage.deps}
        items = {name for name in as_committed if name.startswith(f"quantize_eval@{start}")}
        assert users == items
