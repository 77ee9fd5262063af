"""No model is built from parameters that conf/ does not compose to, however DVC is called."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from remerge.errors import RecipeError
from remerge.recipes.choice import parse_setting, read_choice, with_choice
from remerge.stages.composed import record, require_composed
from tests.pipeline.project import ROOT, Project, clone, without_evaluation


def made(folder: Path, text: str = "ties: {density: 0.3}\n", **files: str) -> dict[str, object]:
    (folder / "conf").mkdir()
    for name, content in {"config": "a: 1\n", **files}.items():
        (folder / "conf" / f"{name}.yaml").write_text(content)
    paths = (folder / "conf").glob("*.yaml")
    return {**yaml.safe_load(text), "composed": record(text, ["a=b c"], paths, folder / "conf")}


def test_composed_parameters_pass_with_any_line_ends(tmp_path: Path) -> None:
    params = made(tmp_path)
    require_composed(params, tmp_path)
    (tmp_path / "conf" / "config.yaml").write_bytes(b"a: 1\r\n")
    require_composed(params, tmp_path)


def test_changed_conf_is_refused_with_the_command(tmp_path: Path) -> None:
    params = made(tmp_path)
    (tmp_path / "conf" / "config.yaml").write_text("a: 2\n")
    with pytest.raises(RecipeError, match=r"conf/config.yaml has changed .*exp run -S 'a=b c'`"):
        require_composed(params, tmp_path)


def test_file_of_conf_that_was_not_read_may_change(tmp_path: Path) -> None:
    params = made(tmp_path)
    (tmp_path / "conf" / "other.yaml").write_text("b: 2\n")
    require_composed(params, tmp_path)


def test_removed_file_of_conf_is_refused(tmp_path: Path) -> None:
    params = made(tmp_path, mine="b: 1\n")
    (tmp_path / "conf" / "mine.yaml").unlink()
    with pytest.raises(RecipeError, match=r"conf/mine.yaml, .* is missing here"):
        require_composed(params, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ties", {"density": 0.4}, "edited by hand"),
        ("surprise", 1, "edited by hand"),
        ("composed", None, "does not say what it was composed of"),
        ("composed", {"overrides": [[]], "files": {}, "values": ""}, "does not say"),
        ("composed", {"overrides": [], "files": {"../x": ""}, "values": ""}, "missing here"),
    ],
)
def test_edited_parameters_are_refused(tmp_path: Path, key: str, value: object, says: str) -> None:
    params = made(tmp_path)
    with pytest.raises(RecipeError, match=says):
        require_composed({**params, key: value}, tmp_path)


def test_folder_without_conf_composes_nothing(tmp_path: Path) -> None:
    require_composed({}, tmp_path)


CONFIG = (ROOT / "conf" / "config.yaml").read_text()


def test_choice_keeps_every_other_byte() -> None:
    assert with_choice(CONFIG, {"recipe": "tiny"}, {}, []) == CONFIG
    changed = with_choice(CONFIG, {"recipe": "mine"}, {"ties.density": 0.5}, [])
    assert changed == CONFIG.replace("recipe: tiny", "recipe: mine") + "ties:\n  density: 0.5\n"
    assert read_choice(changed).options["recipe"] == "mine"
    assert read_choice(changed).values == {"ties.density": 0.5}
    assert with_choice(changed, {"recipe": "tiny"}, {}, ["ties.density"]) == CONFIG


def test_choice_of_derived_or_unknown_keys_is_refused() -> None:
    for key in ("report.scores.base", "composed", "defaults.recipe"):
        with pytest.raises(RecipeError, match="follows from the recipe"):
            with_choice(CONFIG, {}, {key: 1}, [])
    with pytest.raises(RecipeError, match="no such value is chosen; chosen are none"):
        with_choice(CONFIG, {}, {}, ["ties.density"])
    for text in ("ties.density", "=1", "a..b=1", "a=[", "a=\0"):
        with pytest.raises(RecipeError):
            parse_setting(text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return without_evaluation(clone(tmp_path_factory.mktemp("composed") / "clone"))


def use(project: Project, *arguments: str, expect: int = 0) -> str:
    return project.run(sys.executable, "-m", "remerge.cli", "use", *arguments, expect=expect)


def test_use_writes_what_composes_and_nothing_else(project: Project) -> None:
    before = project.read("conf/config.yaml"), project.read("params.yaml")
    for wrong in (["quikc"], ["quick", "ties.density=7"], ["quick", "gradient=nosuch"]):
        out = use(project, *wrong, expect=1)
        assert out.startswith("error: ") and out.count("\n") == 1, out
    assert "did you mean 'quick'?" in use(project, "quikc", expect=1)
    assert (project.read("conf/config.yaml"), project.read("params.yaml")) == before
    assert "ties.density=0.5" in use(project, "quick", "ties.density=0.5")
    assert use(project).startswith("recipe quick\n") and "ties.density=0.5" in use(project)
    assert b"density: 0.5" in project.read("params.yaml")
    use(project, "quick", "~ties.density")
    assert (project.read("conf/config.yaml"), project.read("params.yaml")) == before


def density(folder: Path) -> float:
    manifest = json.loads((folder / "merged" / "p1" / "manifest.json").read_text())
    return float(manifest["parameters"]["donors"][0]["density"])


@pytest.mark.full
def test_old_parameters_build_no_model_under_dvc(project: Project, tmp_path: Path) -> None:
    recipes = project.folder / "conf" / "recipe"
    mine = (recipes / "quick.yaml").read_text() + "ties: {density: 0.31}\n"
    (recipes / "mine.yaml").write_text(mine)
    use(project, "mine")
    project.run("dvc", "repro")
    project.commit("mine at 0.31")
    assert density(project.folder) == 0.31
    # An edit of the recipe: repro refuses, exp run builds the new model.
    (recipes / "mine.yaml").write_text(mine.replace("0.31", "0.41"))
    out = project.run("dvc", "repro", expect=None)
    assert "error: conf/recipe/mine.yaml has changed" in out and "failed to reproduce" in out
    project.run("dvc", "exp", "run")
    assert density(project.folder) == 0.41
    project.commit("mine at 0.41")
    assert project.stages_run("repro") == []
    # The choice is kept by plain, overridden and queued runs.
    project.run("dvc", "exp", "run", "-S", "ties.lambda=0.9")
    manifest = json.loads(project.read("merged/p1/manifest.json"))
    assert manifest["parameters"]["lam"] == 0.9 and density(project.folder) == 0.41
    assert project.stages_run("repro") == []
    out = project.run("dvc", "exp", "run")
    assert "note: composed without -S ties.lambda=0.9 of the last time" in out
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "exp", "run", "--temp", "-S", "ties.density=0.43")
    project.run("dvc", "exp", "run", "--queue", "-S", "ties.density=0.44")
    out = project.run("dvc", "exp", "run", "--run-all")
    assert "Failed" not in out
    shown = json.dumps(json.loads(project.run("dvc", "exp", "show", "--json", "-n", "3")))
    for value in ("0.43", "0.44"):
        assert re.search(rf'"density": {value}\b', shown)
    # A hand edit of params.yaml is refused by the first stage that it reaches.
    text = project.read("params.yaml").decode()
    (project.folder / "params.yaml").write_text(text.replace("density: 0.41", "density: 0.5"))
    assert "params.yaml was edited by hand" in project.run("dvc", "repro", expect=None)
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "--force")
    # An older commit, and a clean clone, have what belongs together.
    project.run("git", "checkout", "-q", "HEAD~1")
    project.run("dvc", "checkout", "--force")
    assert density(project.folder) == 0.31 and project.stages_run("repro") == []
    elsewhere = Project(tmp_path / "clean")
    project.run("git", "clone", "-q", str(project.folder), str(elsewhere.folder))
    shutil.rmtree(elsewhere.folder / ".dvc" / "cache", ignore_errors=True)
    elsewhere.run("dvc", "repro")
    assert elsewhere.read("dvc.lock") == project.read("dvc.lock")
