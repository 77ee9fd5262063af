"""What DVC makes of `dvc.yaml` for given parameters: every stage with what it depends on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo

from remerge.stages.compose import composed
from tests.pipeline.closure import SRC

ROOT = SRC.parent


class Resolved(NamedTuple):
    """A stage as DVC sees it: paths it depends on, and the values of its parameters."""

    deps: frozenset[str]
    params: dict[str, Any]


def new_repository(folder: Path) -> Path:
    """An empty repository with this project's `dvc.yaml`."""
    folder.mkdir(parents=True)
    Repo.init(str(folder), no_scm=True).close()
    shutil.copy(ROOT / "dvc.yaml", folder)
    return folder


def resolve(folder: Path, *overrides: str) -> dict[str, Resolved]:
    """Every stage by name, as DVC resolves it for what conf/ composes to with the overrides."""
    text = composed(list(overrides), ROOT / "conf")
    (folder / "params.yaml").write_text(text)
    values = yaml.load(text, yaml.CSafeLoader)
    with Repo(str(folder)) as repo:
        return {stage.name: _seen(stage, folder, values) for stage in repo.index.stages}


def _seen(stage: Any, folder: Path, values: dict[str, Any]) -> Resolved:
    params = {
        name: value_at(values, name)
        for dep in stage.deps
        if isinstance(dep, ParamsDependency)
        for name in dep.params
    }
    files = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    paths = {Path(dep.fs_path).relative_to(folder).as_posix() for dep in files}
    return Resolved(frozenset(paths), params)


def value_at(values: Any, name: str) -> Any:
    """The value at a dotted name."""
    for key in name.split("."):
        values = values[key]
    return values


def changed(before: dict[str, Resolved], after: dict[str, Resolved]) -> set[str]:
    """Stages that `dvc repro` runs again when the parameters go from one to the other."""
    return {name for name, stage in after.items() if before.get(name) != stage}
