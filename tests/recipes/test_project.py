"""A project of one's own: its stages follow the recipe, and what the user changed stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

from remerge.errors import RecipeError
from remerge.recipes.new_project import project_files, sync_stages
from remerge.recipes.project import derive_project, dvc_stages
from remerge.recipes.schema import read_recipe
from tests.proof.models import llama, save

ROOT = Path(__file__).parents[2]
RECIPE = {
    "name": "mine",
    "dtype": "float16",
    "base": "./base",
    "bakes": {"tuned": {"model": "./a", "adapter": "o/lora"}},
    "merges": {
        "first": {"method": "linear", "models": {"tuned": {"weight": 0.3}, "b": {"model": "./b"}}},
        "final": {"method": "ties", "models": {"first": None, "c": {"model": "o/c@v1"}}},
        "unused": {"method": "linear", "models": ["./x"]},
    },
    "result": "final",
}
CONFIG = """\
name: first
merge_method: linear
models: [{model: ./a, parameters: {weight: 0.3}}, {model: ./b, parameters: {weight: 0.7}}]
dtype: float16
---
name: second
merge_method: slerp
base_model: first
models: [{model: ./b}]
parameters: {t: [0.2, 0.6]}
dtype: float16
---
merge_method: ties
base_model: ./base
models: [{model: second}, {model: ./a}]
parameters: {weight: 1, density: 0.5}
dtype: float16
"""


def test_stages_are_those_that_the_result_needs() -> None:
    stages = dvc_stages(read_recipe(RECIPE))
    assert list(stages) == ["fetch_a", "fetch_b", "fetch_base", "fetch_c", "fetch_lora", "tuned",
                            "first", "final"]  # fmt: skip
    assert stages["tuned"]["deps"] == ["models/a", "adapters/lora"]
    assert stages["first"]["deps"] == ["baked/tuned", "models/b"]
    assert stages["final"]["deps"] == ["models/base", "merged/first", "models/c"]
    assert "recipe.base" in stages["final"]["params"]
    assert "recipe.base" not in stages["first"]["params"]


def test_fused_node_has_no_stage_and_its_inputs_are_its_readers() -> None:
    merges = {**RECIPE["merges"], "first": {**RECIPE["merges"]["first"], "fuse": True}}
    stages = dvc_stages(read_recipe(RECIPE | {"merges": merges}))
    assert "first" not in stages
    assert stages["final"]["deps"] == ["models/base", "models/c", "baked/tuned", "models/b"]
    assert {"recipe.merges.final", "recipe.merges.first"} <= set(stages["final"]["params"])


def test_derived_tables_name_every_folder() -> None:
    tables = derive_project({"recipe": RECIPE}, {})
    assert tables["nodes"]["final"] == {
        "out": "merged/final",
        "reads": {"./base": "models/base", "first": "merged/first", "o/c@v1": "models/c"},
    }
    assert tables["pins"] == dict.fromkeys(("a", "b", "base", "c", "lora"))
    with pytest.raises(RecipeError, match=r"unknown key 'tise'.* known are recipe, execution"):
        derive_project({"recipe": RECIPE, "tise": {}}, {})
    with pytest.raises(RecipeError, match=r"recipe\.formats: a project makes models"):
        derive_project({"recipe": RECIPE | {"formats": ["gguf_f16"]}}, {})


def test_sync_keeps_what_the_user_changed() -> None:
    text = project_files(RECIPE, "mine", "merge.yml")["dvc.yaml"]
    command = "python -m remerge.stages.node first"
    edited = text.replace(command, f"nice {command}")
    inputs = "    - merged/first\n"
    edited = edited.replace(
        f"{inputs}    - models/c\n", f"{inputs}    - notes.txt\n    - models/c\n"
    )
    edited += "  mine:\n    cmd: echo mine  # my own\n"
    recipe = read_recipe(RECIPE)
    assert sync_stages(text, dvc_stages(recipe)).lines == ()
    assert sync_stages(edited, dvc_stages(recipe)).text == edited
    final = {"method": "linear", "models": {"first": {"weight": 1}}}
    changed = read_recipe(RECIPE | {"merges": {**RECIPE["merges"], "final": final}})
    synced = sync_stages(edited, dvc_stages(changed))
    stages = yaml.safe_load(synced.text)["stages"]
    assert set(stages["final"]["deps"]) == {"merged/first", "notes.txt"}
    assert stages["first"]["cmd"].startswith("nice ")
    assert "# my own" in synced.text
    assert "dropped stage fetch_c: the recipe has no such node" in synced.lines
    assert "fetch_base" not in stages


def test_stage_of_the_user_with_the_name_of_a_node_is_refused() -> None:
    with pytest.raises(RecipeError, match="stage final is not one of remerge"):
        sync_stages("stages:\n  final:\n    cmd: echo\n", dvc_stages(read_recipe(RECIPE)))


@pytest.mark.full
def test_project_of_an_installed_wheel_rebuilds_the_model(tmp_path: Path) -> None:
    """Three levels, no checkout: the model id is that of `remerge merge`."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", system_site_packages=False, with_pip=True)
    programs = tmp_path / "env" / "bin"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # Its dependencies are those of this environment, without this checkout.
    (here,) = (Path(sys.prefix)).glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{here}\n")
    subprocess.run([programs / "pip", "install", "--quiet", "--no-deps", "--force-reinstall",
                    str(wheel)], check=True)  # fmt: skip
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }
    environment.pop("PYTHONPATH", None)

    def say(folder: Path, *words: str) -> str:
        command = [str(programs / "python"), "-m", *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    for seed, name in enumerate(("base", "a", "b")):
        save(tmp_path / name, llama(seed))
    (tmp_path / "merge.yml").write_text(CONFIG)
    remerge = "remerge.cli"
    wanted = say(tmp_path, remerge, "merge", "merge.yml", "out").split()[0]
    say(tmp_path, remerge, "new", "my", "--from", "merge.yml")
    project = tmp_path / "my"
    say(project, remerge, "pin")
    say(project, remerge, "sync")
    say(project, "dvc", "repro")
    manifest = json.loads((project / "merged/final/manifest.json").read_text())
    assert manifest["model_id"] == wanted
    first = (project / "dvc.lock").read_text()
    assert "Running" not in say(project, "dvc", "repro")
    assert (project / "dvc.lock").read_text() == first
