"""A project of one's own: its stages follow the recipe, and what the user changed stays."""

from __future__ import annotations

import pytest
import yaml

from remerge.errors import RecipeError
from remerge.recipes.new_project import project_files, sync_stages
from remerge.recipes.project import derive_project, dvc_stages
from remerge.recipes.schema import read_recipe

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
