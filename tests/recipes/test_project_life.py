"""A project from an installed wheel: built, tried, shared, taken by others, built elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.proof.models import CONFIG as LLAMA
from tests.proof.models import encode, save
from tests.recipes.installed import Installed, install
from tests.sources.hub_server import HubServer, reachable_hub

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]
REMERGE = "remerge.cli"
LAYERS = 8
#: Shapes of files of several documents that people published, with models of our own.
CHAIN = """\
name: first
merge_method: linear
models: [{model: ./base}, {model: ./a}]
parameters: {weight: 0.5}
---
name: second
merge_method: slerp
base_model: first
models: [{model: ./b}]
parameters: {t: 0.5}
---
merge_method: dare_ties
base_model: ./base
models:
  - {model: second, parameters: {density: 0.6, weight: 0.5}}
  - {model: ./c, parameters: {density: 0.8, weight: 0.5}}
dtype: float16
"""
STACK = """\
name: core
merge_method: nuslerp
models: [{model: ./a, parameters: {weight: 0.4}}, {model: ./b, parameters: {weight: 0.6}}]
---
name: blend
merge_method: nuslerp
models: [{model: ./c, parameters: {weight: 0.6}}, {model: ./base, parameters: {weight: 0.4}}]
---
merge_method: passthrough
slices:
- sources: [{model: ./d, layer_range: [0, 2]}]
- sources: [{model: ./base, layer_range: [2, 3]}]
- sources: [{model: core, layer_range: [3, 5]}]
- sources: [{model: blend, layer_range: [5, 7]}]
- sources: [{model: ./base, layer_range: [7, 8]}]
dtype: float16
"""
LEVELS = """\
name: first
merge_method: linear
models: [{model: ann/a, parameters: {weight: 0.3}}, {model: bob/b, parameters: {weight: 0.7}}]
dtype: float16
---
name: second
merge_method: slerp
base_model: first
models: [{model: bob/b}]
parameters: {t: [0.2, 0.6]}
dtype: float16
---
merge_method: ties
base_model: ann/base
models: [{model: second}, {model: ann/a}]
parameters: {weight: 1, density: 0.5}
dtype: float16
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("installed"))


def save_deep(folder: Path, seed: int) -> None:
    """A Llama of eight thin layers."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (40, 32)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        shapes |= {f"{stem}.self_attn.{part}_proj.weight": (32, 32) for part in "qkvo"}
        shapes |= {f"{stem}.mlp.{part}_proj.weight": (48, 32) for part in ("gate", "up")}
        shapes[f"{stem}.mlp.down_proj.weight"] = (32, 48)
        shapes[f"{stem}.input_layernorm.weight"] = (32,)
        shapes[f"{stem}.post_attention_layernorm.weight"] = (32,)
    shapes |= {"model.norm.weight": (32,), "lm_head.weight": (40, 32)}
    save(folder, {n: ("F16", encode(random.normal(0, 0.05, s), "F16")) for n, s in shapes.items()})
    (folder / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": LAYERS}))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that has the models of `LEVELS`."""
    with reachable_hub(monkeypatch, tmp_path / "hub-cache") as server:
        for seed, name in enumerate(("ann/base", "ann/a", "bob/b")):
            save_deep(tmp_path / name, seed)
            server.add_folder(name, tmp_path / name)
        yield server


def new_project(installed: Installed, folder: Path, config: str) -> tuple[Path, str]:
    """A pinned project, and the model id that `remerge merge` gives of the folders beside it."""
    (folder / "merge.yml").write_text(config)
    wanted = installed.say(folder, REMERGE, "merge", "merge.yml", "out").split()[0]
    installed.say(folder, REMERGE, "new", "my", "--from", "merge.yml")
    project = folder / "my"
    installed.say(project, REMERGE, "pin")
    installed.say(project, REMERGE, "sync")
    return project, wanted


def model_id(project: Path) -> str:
    found: str = json.loads((project / "merged/final/manifest.json").read_text())["model_id"]
    return found


def commit(installed: Installed, project: Path, message: str) -> None:
    who = {f"GIT_{role}_{part}": "a@b.c" for role in ("AUTHOR", "COMMITTER")
           for part in ("NAME", "EMAIL")}  # fmt: skip
    installed.run(project, ["git", "add", "-A"])
    installed.run(project, ["git", "commit", "-qm", message], who)


@pytest.mark.parametrize("config", [CHAIN, STACK], ids=["chain", "stack"])
def test_published_shapes_become_projects(
    installed: Installed, tmp_path: Path, config: str
) -> None:
    for seed, name in enumerate(("base", "a", "b", "c", "d")):
        save_deep(tmp_path / name, seed)
    project, wanted = new_project(installed, tmp_path, config)
    installed.say(project, "dvc", "repro")
    assert model_id(project) == wanted


def test_a_project_is_tried_shared_and_built_elsewhere(
    installed: Installed, hub: HubServer, tmp_path: Path
) -> None:
    project, wanted = new_project(installed, tmp_path, LEVELS)
    installed.say(project, "dvc", "repro")
    assert model_id(project) == wanted
    lock = (project / "dvc.lock").read_text()
    assert "Running" not in installed.say(project, "dvc", "repro")
    installed.say(project, "dvc", "remote", "add", "-d", "team", str(tmp_path / "remote"))
    commit(installed, project, "Build")
    installed.say(project, "dvc", "push")

    # Another value for one run: only what depends on it runs, and it is that merge.
    setting = "recipe.merges.final.models.second.density=0.8"
    said = installed.say(project, "dvc", "exp", "run", "-S", setting)
    assert said.count("Running stage") == 1 and "Running stage 'final'" in said
    text = LEVELS.replace("{model: second}", "{model: second, parameters: {density: 0.8}}")
    (tmp_path / "tried.yml").write_text(text)
    tried = installed.say(tmp_path, REMERGE, "merge", "tried.yml", "tried").split()[0]
    assert model_id(project) == tried != wanted
    installed.run(project, ["git", "checkout", "-q", "."])
    installed.say(project, "dvc", "checkout")
    assert model_id(project) == wanted

    # Somebody else pulls it, or takes the result alone.
    other = tmp_path / "a place, elsewhere"
    installed.run(tmp_path, ["git", "clone", "-q", str(project), str(other)])
    installed.say(other, "dvc", "pull")
    assert model_id(other) == wanted
    assert "Running" not in installed.say(other, "dvc", "repro")
    installed.say(tmp_path, "dvc", "get", str(project), "merged/final", "-o", "got")
    assert installed.say(tmp_path, REMERGE, "id", "got").split()[0] == wanted
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    installed.run(theirs, ["git", "init", "-q"])
    installed.say(theirs, "dvc", "init", "-q")
    installed.say(theirs, "dvc", "import", str(project), "merged/final", "-o", "final")
    assert installed.say(theirs, REMERGE, "id", "final").split()[0] == wanted

    # And without a byte of ours: another path, locale and number of threads, nothing cached.
    afresh = tmp_path / "z"
    installed.run(tmp_path, ["git", "clone", "-q", str(project), str(afresh)])
    surroundings = {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "1",
                    "PYTHONHASHSEED": "7"}  # fmt: skip
    installed.say(afresh, "dvc", "repro", **surroundings)
    assert (afresh / "dvc.lock").read_text() == lock
