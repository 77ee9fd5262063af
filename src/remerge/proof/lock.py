"""What `dvc.lock` records of a build: its stages, and the MD5 of every file of every output.

>>> recorded_files(Path("merged/final")).files["manifest.json"]
'd41d8cd9…'

The lock is committed, so it is the first witness that an edit in place does not reach. It names a
folder by the MD5 of a list of its files, which lies in DVC's cache or can be made from the folder.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.tensors.json_files import JSON_LIMIT
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


@dataclass(frozen=True)
class Recorded:
    """What a lock records of an output.

    listing  digest of its list of files, as the lock has it
    files    MD5 of every file by its name; None if the list is not at hand
    """

    listing: str
    files: dict[str, str] | None

    def with_files(self, files: Mapping[str, str]) -> Recorded:
        """The same with these files, if they are what was recorded; without any if they are not."""
        return replace(self, files=dict(files) if listing_digest(files) == self.listing else None)


def recorded_files(folder: Path) -> Recorded | None:
    """What the lock of its project records of an output.

    None where there is nothing to record it: no project, no lock, no output of this name.
    CheckpointError for an entry that cannot be compared with a folder. Nothing is run: the lock,
    DVC's settings and the cache are only read, and what they say is believed if its MD5 is right.
    """
    root = project_of(folder)
    if root is None or not (root / "dvc.lock").is_file():
        return None
    name = folder.resolve().relative_to(root).as_posix()
    out = _outputs(root, (root / "dvc.lock").stat().st_mtime_ns).get(name)
    if out is None:
        return None
    where = f"{root / 'dvc.lock'}: its entry {printable(name)!r}"
    if "files" in out:  # a remote that keeps versions: the list stands in the lock itself
        files = _file_entries(out["files"], where)
        return Recorded(listing_digest(files), files)
    digest = str(out.get("md5", ""))
    if out.get("hash", "md5") != "md5" or not re.fullmatch(r"[0-9a-f]{32}\.dir", digest):
        raise CheckpointError(
            f"{where} has no MD5 of a folder; build it again with this version (`dvc repro`)"
        )
    return Recorded(digest, None).with_files(_cached_listing(root, digest))


def _file_entries(entries: Any, where: str) -> dict[str, str]:
    """MD5 by name from a list of a lock or of the cache; CheckpointError if one is missing."""
    try:
        files = {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
        whole = len(files) == len(entries)
    except (KeyError, TypeError):
        files, whole = {}, False
    if not whole or not all(re.fullmatch(r"[0-9a-f]{32}", md5) for md5 in files.values()):
        raise CheckpointError(
            f"{where} does not give the MD5 of each file, so nothing can be compared with it"
        )
    return files


def _cached_listing(root: Path, digest: str) -> dict[str, str]:
    """The list of this digest from the cache, empty if it is not there; it is not yet believed."""
    for folder in cache_folders(root):
        try:
            path = folder / object_name(digest)
            if path.is_file() and path.stat().st_size <= JSON_LIMIT:
                return _file_entries(json.loads(path.read_bytes()), str(path))
        except (OSError, ValueError, RecursionError, CheckpointError):
            continue
    return {}


def listing_digest(files: Mapping[str, str]) -> str:
    """The digest by which DVC names a folder: the MD5 of the list of its files."""
    entries = [{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + _DIRECTORY


@cache
def _outputs(root: Path, _changed: int) -> dict[str, dict[str, Any]]:
    outs = [out for stage in read_lock(root).values() for out in stage.get("outs", [])]
    return {str(out["path"]): out for out in outs}


def object_name(md5: str) -> str:
    """Where an object lies in a cache or a remote."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def cache_folders(root: Path) -> list[Path]:
    """Where the cache of a project may be: as its settings say, or in its usual place."""
    found = []
    for name in ("config.local", "config"):
        settings = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            settings.read_string((root / ".dvc" / name).read_text())
            stated = settings.get("cache", "dir", fallback="").strip().strip("'\"")
        except (OSError, ValueError, configparser.Error):
            continue
        if stated and "\0" not in stated:
            found.append(root / ".dvc" / Path(stated).expanduser())
    return [*found, root / ".dvc" / "cache"]
