"""A pinned source: which files, of which revision, with which digests.

>>> source = parse_source("chronos", {"kind": "model", "repo": "elinas/chronos-13b-v2",
...     "revision": "4d963ea0…", "files": {"config.json": {"sha256": "…", "size": 585}}})

A source is either a repository of a hub at a 40-hex commit, or a folder of this project. Either
way only the listed files are used, and none before its size and SHA-256 match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, SourceError, printable
from remerge.files import regular_file_size, sha256_of
from remerge.tensors.checkpoint import check_file_name, check_no_twins

KINDS = ("model", "adapter", "dataset")
_REVISION = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KEYS = {
    "kind",
    "repo",
    "ref",
    "revision",
    "path",
    "subfolder",
    "select",
    "files",
    "config",
    "licence",
    "expected_bytes",
    "out",
}


@dataclass(frozen=True)
class PinnedFile:
    """What a file must be before it may be used."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Source:
    """A pinned source. `repo` and `revision`, or `path`; `subfolder` within either, or empty.

    config  entries of the model's config.json that the recipe corrects
    """

    name: str
    kind: str
    files: dict[str, PinnedFile]
    repo: str = ""
    revision: str = ""
    path: str = ""
    subfolder: str = ""
    licence: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where it comes from, for messages and manifests."""
        return f"{self.repo}@{self.revision}" if self.repo else self.path


def parse_sources(recipe: Mapping[str, Any], suite: str = "") -> dict[str, Source]:
    """All sources of a recipe; SourceError names every one that is not pinned, before any use.

    suite  the name of the suite whose data sets are among them, for that message
    """
    entries = recipe.get("sources") or {}
    loose = unpinned(entries)
    if loose:
        no_revision = [name for name, lacks in loose.items() if lacks == "revision"]
        no_digests = [name for name, lacks in loose.items() if lacks == "digests"]
        parts = []
        if no_revision:
            verb = "has" if len(no_revision) == 1 else "have"
            parts.append(f"{_listed(no_revision)} {verb} no revision")
        if no_digests:
            parts.append(f"no digests of the files of {_listed(no_digests)} are known")
        recipe_name = printable(recipe.get("name"), 64)
        kinds = {entries[name].get("kind") for name in loose}
        commands = [f"`remerge pin {recipe_name}`"] if kinds - {"dataset"} else []
        if "dataset" in kinds:
            commands.append(f"`remerge pin {printable(suite, 64) or 'SUITE'}`")
        raise SourceError(
            f"recipe {recipe_name} is not pinned: {'; '.join(parts)}; nothing was downloaded. Run "
            f"{' and '.join(commands)} once where the hub is reachable, and commit what is written"
        )
    return {name: parse_source(name, entry) for name, entry in entries.items()}


def unpinned(entries: Mapping[str, Any]) -> dict[str, str]:
    """What each source that is not pinned lacks: `revision`, or `digests` where that is known."""
    loose = {}
    for name, entry in entries.items():
        if isinstance(entry, Mapping):
            files = entry.get("files") or {}
            if not isinstance(files, Mapping):
                continue  # parse_source says what is wrong
            if entry.get("repo") and not entry.get("revision"):
                loose[name] = "revision"
            elif not files or not all(files.values()):
                loose[name] = "digests"
    return loose


def _listed(names: list[str]) -> str:
    shown = [printable(name, 64) for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def parse_source(name: str, entry: Mapping[str, Any]) -> Source:
    """A source from its entry in the recipe; SourceError says what is wrong or not pinned."""
    where = f"source {printable(name)!r}"
    if not isinstance(entry, Mapping):
        raise SourceError(f"{where} is {printable(entry, 40)!r}; expected a table of entries")
    unknown = sorted(printable(key) for key in entry if key not in _KEYS)
    if unknown:
        raise SourceError(f"{where}: unknown key {unknown[0]!r}")
    kind = entry.get("kind")
    if kind not in KINDS:
        raise SourceError(f"{where}: kind is {printable(kind, 40)!r}; expected {', '.join(KINDS)}")
    repo, path = entry.get("repo") or "", entry.get("path") or ""
    if bool(repo) == bool(path):
        raise SourceError(f"{where}: give either a repo of the hub or a path of this project")
    revision = entry.get("revision") or ""
    if repo:
        _check_repo(where, str(repo), revision)
    files, config = entry.get("files") or {}, entry.get("config") or {}
    if not isinstance(files, Mapping) or not files:
        raise SourceError(f"{where}: no files are pinned; run `remerge pin` to fill them in")
    if not isinstance(config, Mapping):
        raise SourceError(f"{where}: config is {printable(config, 40)!r}, no table of entries")
    subfolder = str(entry.get("subfolder") or "")
    for text in (str(path), subfolder):
        if not text.isprintable() or ".." in text.split("/"):
            raise SourceError(f"{where}: {printable(text, 80)!r} is no folder of a source")
    try:
        check_no_twins(map(str, files), where)
    except CheckpointError as error:
        raise SourceError(str(error)) from None
    return Source(
        name=name,
        kind=kind,
        files={
            _file_name(file, kind, where): _pin(pin, f"{where}: {printable(file)!r}")
            for file, pin in files.items()
        },
        repo=str(repo),
        revision=str(revision),
        path=str(path),
        subfolder=subfolder,
        licence=str(entry.get("licence") or ""),
        config=dict(config),
    )


def check_repo_name(repo: str, where: str) -> None:
    """SourceError unless `repo` is of the form owner/name."""
    if not _REPO.fullmatch(repo) or ".." in repo:
        raise SourceError(f"{where}: repo {printable(repo, 80)!r} is not of the form owner/name")


def is_commit(revision: object) -> bool:
    """Whether `revision` is a full commit id, 40 hexadecimal digits."""
    return isinstance(revision, str) and _REVISION.fullmatch(revision) is not None


def _check_repo(where: str, repo: str, revision: Any) -> None:
    check_repo_name(repo, where)
    if not revision:
        raise SourceError(
            f"{where}: {repo} is not pinned; run `remerge pin` where the hub is reachable"
        )
    if not is_commit(revision):
        raise SourceError(
            f"{where}: revision {printable(revision, 60)!r} is not a commit of 40 hexadecimal "
            "digits; run `remerge pin` to resolve it"
        )


def _file_name(name: object, kind: str, where: str) -> str:
    """Models and adapters have plain names; files of a dataset may lie in folders."""
    parts = str(name).split("/") if kind == "dataset" else [name]
    try:
        return "/".join(check_file_name(part, where) for part in parts)
    except CheckpointError as error:
        raise SourceError(str(error)) from None


def _pin(pin: Any, where: str) -> PinnedFile:
    digest = pin.get("sha256") if isinstance(pin, Mapping) else None
    size = pin.get("size") if isinstance(pin, Mapping) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise SourceError(f"{where}: has no sha256 of 64 hexadecimal digits; run `remerge pin`")
    if type(size) is not int or size < 0:
        raise SourceError(f"{where}: has no size in bytes; run `remerge pin`")
    return PinnedFile(digest, size)


def verify_file(path: Path, pin: PinnedFile, where: str) -> None:
    """SourceError, naming both digests, unless `path` is the pinned file."""
    size = regular_file_size(path)
    if size != pin.size:
        raise SourceError(f"{where}: {path} has {size} bytes, pinned are {pin.size}")
    digest = sha256_of(path)
    if digest != pin.sha256:
        raise SourceError(f"{where}: {path} has SHA-256 {digest}, pinned is {pin.sha256}")


def local_files(source: Source, root: Path) -> dict[str, Path]:
    """The files of a source that is a folder under `root`, each verified."""
    found = local_paths(source, root)
    for name, path in found.items():
        verify_file(path, source.files[name], f"source {source.name!r}")
    return found


def local_paths(source: Source, root: Path) -> dict[str, Path]:
    """The files of a source that is a folder under `root`, none of them verified as yet.

    SourceError for a missing file, or a link that leads out of the folder.
    """
    where = f"source {source.name!r}"
    root = root.resolve()
    folder = (root / source.path / source.subfolder).resolve()
    if not folder.is_relative_to(root):
        raise SourceError(f"{where}: path {printable(source.path)!r} leads out of the project")
    found = {}
    for name in source.files:
        path = folder / name
        if not path.exists():
            raise SourceError(f"{where}: {path} is missing")
        if not path.resolve().is_relative_to(folder):
            raise SourceError(f"{where}: {path} is a link out of its folder; refused")
        found[name] = path
    return found
