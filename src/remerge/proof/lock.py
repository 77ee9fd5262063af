"""What `dvc.lock` records of a build: its stages, and the MD5 of every file of every output.

>>> recorded_files(Path("merged/final"))["manifest.json"]
'd41d8cd9…'

The lock is committed, so it is the first witness that an edit in place does not reach. It names a
folder by the MD5 of a listing, which lies in DVC's cache and is believed only if it has that MD5.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.yaml_text import read_yaml

_DIRECTORY = ".dir"


def read_lock(root: Path) -> dict[str, dict[str, Any]]:
    """The stages of `dvc.lock` in the order of the pipeline; CheckpointError if there is none."""
    path = root / "dvc.lock"
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict):
        raise CheckpointError(f"{path}: names no stage; build first (`dvc repro`)")
    for name, stage in stages.items():
        _check_stage(name, stage, f"{path}: stage {printable(name, 80)!r}")
    return in_pipeline_order(stages)


def _check_stage(name: object, stage: object, where: str) -> None:
    """CheckpointError unless the entry has the form that DVC writes."""
    if not isinstance(name, str) or not isinstance(stage, dict):
        raise CheckpointError(f"{where}: is not an entry that DVC writes")
    if not isinstance(stage.get("cmd", ""), (str, list)):
        raise CheckpointError(f"{where}: cmd is no command")
    if not isinstance(stage.get("params", {}), dict):
        raise CheckpointError(f"{where}: params is no table")
    for key in ("deps", "outs"):
        entries = stage.get(key, [])
        if not isinstance(entries, list):
            raise CheckpointError(f"{where}: {key} is no list")
        for entry in entries:
            if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                raise CheckpointError(f"{where}: an entry of {key} has no path")
            if not isinstance(entry.get("md5", ""), str):
                raise CheckpointError(f"{where}: an entry of {key} has no digest")
            if not isinstance(entry.get("files", []), list):
                raise CheckpointError(f"{where}: an entry of {key} has no list of files")


def in_pipeline_order(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stages after those that make what they read; by name where that leaves a choice."""
    made = makers(stages)
    ordered: dict[str, dict[str, Any]] = {}
    waiting = {name: made[name] for name in sorted(stages)}
    while waiting:
        ready = [name for name, before in waiting.items() if before <= set(ordered)]
        for name in ready or list(waiting)[:1]:  # a lock edited into a circle still has an order
            ordered[name] = dict(stages[name])
            del waiting[name]
    return ordered


def makers(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """For each stage those whose outputs it reads."""
    maker = {out["path"]: name for name, stage in stages.items() for out in stage.get("outs", [])}
    found = {}
    for name, stage in stages.items():
        paths = [PurePosixPath(dep["path"]) for dep in stage.get("deps", [])]
        places = [str(place) for path in paths for place in (path, *path.parents)]
        found[name] = {maker[place] for place in places if place in maker} - {name}
    return found


def stages_needed(stages: Mapping[str, Mapping[str, Any]], targets: Sequence[str]) -> list[str]:
    """The stages that `targets` name and all before them, in the order of `stages`.

    A target is a stage, a group of stages (`fetch` for `fetch@base`) or an output; none means all.
    """
    if not targets:
        return list(stages)
    before = makers(stages)
    todo = [
        name
        for name, stage in stages.items()
        if {name, name.partition("@")[0], *(out["path"] for out in stage.get("outs", []))}
        & set(targets)
    ]
    needed: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += before[name]
    return [name for name in stages if name in needed]


def project_of(path: Path) -> Path | None:
    """The DVC project that `path` lies in, if it lies in one."""
    return next((p for p in path.resolve().parents if (p / ".dvc").is_dir()), None)


def recorded_files(folder: Path) -> dict[str, str] | None:
    """MD5 of every file of an output by its name there, as the lock of its project has it.

    None where nothing is recorded: no project, no lock, no output of this name, or a listing that
    is not in the cache or is itself damaged.
    """
    root = project_of(folder)
    if root is None or not (root / "dvc.lock").is_file():
        return None
    name = folder.resolve().relative_to(root).as_posix()
    digest = _outputs(root, (root / "dvc.lock").stat().st_mtime_ns).get(name, "")
    if not digest.endswith(_DIRECTORY):
        return None
    try:
        data = (_cache(root) / object_name(digest)).read_bytes()
        entries = json.loads(data)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() + _DIRECTORY != digest:
            return None
        return {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return None


@cache
def _outputs(root: Path, _changed: int) -> dict[str, str]:
    outs = [out for stage in read_lock(root).values() for out in stage.get("outs", [])]
    return {str(out["path"]): str(out.get("md5", "")) for out in outs}


def object_name(md5: str) -> str:
    """Where an object lies in a cache or a remote."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


@cache
def _cache(root: Path) -> Path:
    """The cache of a project: DVC is asked, since five files may say where it is."""
    ask = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(ask, cwd=root, check=False, capture_output=True, text=True)
    return Path(done.stdout.strip()) if done.returncode == 0 else root / ".dvc" / "cache"
