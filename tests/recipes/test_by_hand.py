"""A recipe without stages of its own is refused with the commands that merge it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from remerge.errors import RecipeError
from remerge.recipes.derive import WRITTEN, derive
from remerge.recipes.described import pins_of
from tests.pipeline.project import ROOT, Project
from tests.quantize.conftest import save_llama


def refused(**changes: object) -> str:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    written = {key: params[key] for key in WRITTEN}
    kept = {k: v for k, v in params["recipe"].items() if k not in ("bakes", "merges", "score")}
    written["recipe"] = {**kept, "formats": {}, **changes}
    with pytest.raises(RecipeError) as error:
        derive(written, pins_of(params, ROOT / "conf/pins"))
    return str(error.value)


def test_one_step_is_refused_with_its_command() -> None:
    models = {"addition": {"density": 0.5}, "lookup": {"weight": 2.0, "vocabulary": "truncate"}}
    merges = {"mine": {"method": "ties", "models": models, "elect": "count"}}
    line = refused(merges=merges, result="mine", dtype="bfloat16")
    wanted = (
        "remerge ties models/base models/addition:0.5 models/lookup:0.33:2.0:truncate "
        "--elect count --dtype bfloat16 --out outputs/mine"
    )
    assert wanted in line and "remerge new FOLDER --from FILE" in line
    assert "\n" not in line


def test_every_step_of_a_graph_is_named_in_order() -> None:
    line = refused(
        bakes={"baked": {"model": "lookup", "adapter": "reversal_lora"}},
        merges={
            "end": {"method": "gradient", "models": ["part", "sorting"], "values": [0, 1]},
            "part": {"method": "ties", "models": ["addition", {"model": "baked"}]},
        },
        result="end",
    )
    steps = line.partition("by hand: ")[2].partition("; or")[0].split(" && ")
    assert [step.split()[1] for step in steps] == ["bake", "ties", "gradient"]
    assert steps[0].split()[2:4] == ["models/lookup", "adapters/reversal_lora"]
    assert steps[2].split()[2:6] == ["outputs/part", "embedded/sources/sorting", "0.0", "1.0"]


def test_method_settings_without_an_option_name_no_command() -> None:
    merges = {"end": {"method": "gradient", "models": ["addition", "sorting"], "along": "layers"}}
    line = refused(merges=merges, result="end")
    assert "merged by hand; or make a project" in line


def test_named_command_makes_the_merge(tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        save_llama(tmp_path / name, num_hidden_layers=1, initializer_range=0.02 + 0.01 * seed)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "conf/recipe/one.yaml").write_text(
        "# @package _global_\nrecipe:\n  name: one\n  title: One\n  prompt: raw\n"
        "  dtype: float16\n  base: base\n  result: mine\n"
        "  merges:\n    mine: {method: ties, models: {a: {density: 0.5}, b: {weight: 2}}}\n"
    )
    entries = "".join(f"  {n}:\n    kind: model\n    path: {n}\n" for n in ("base", "a", "b"))
    (tmp_path / "conf/pins/one.yaml").write_text(f"sources:\n{entries}")
    project = Project(tmp_path, {"PYTHONPATH": str(ROOT / "src")})
    said = project.run("remerge", "use", "one", expect=1)
    command = said.partition("by hand: ")[2].partition("; or")[0]
    project.run(*shlex.split(command))
    manifest = json.loads((tmp_path / "outputs/mine/manifest.json").read_text())
    donors = manifest["parameters"]["donors"]
    assert [(d["density"], d["weight"]) for d in donors] == [(0.5, 1.0), (0.33, 2.0)]
