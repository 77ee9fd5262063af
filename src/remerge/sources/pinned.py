"""A pinned source: which files, of which revision, with which digests.

>>> source = parse_source("chronos", {"kind": "model", "repo": "elinas/chronos-13b-v2",
...     "revision": "4d963ea0…", "files": {"config.json": {"sha256": "…", "size": 585}}})

A source is either a repository of a hub at a 40-hex commit, or a folder anywhere on disk. Either
way only the listed files are used, and none before its size and SHA-256 match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from remerge.errors import CheckpointError, SourceError, printable
from remerge.files import regular_file_size, sha256_of
from remerge.schema import Table, read_table, shown
from remerge.tensors.checkpoint import check_file_name, check_no_twins

KINDS = ("model", "adapter", "dataset")
_REVISION = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class _Pin(Table):
    """A file's entry; what is missing is filled in by `remerge pin`."""

    sha256: str | None = None
    size: Annotated[int, Field(ge=0)] | None = None


class _Entry(Table):
    """A source's entry."""

    kind: Literal["model", "adapter", "dataset"]
    repo: str | None = None
    ref: str | None = None
    revision: str | None = None
    path: str | None = None
    subfolder: str | None = None
    select: list[str] | None = None
    files: dict[str, _Pin | None] | None = None
    config: dict[str, Any] | None = None
    dequantize: bool = False
    licence: str | None = None
    expected_bytes: Annotated[int, Field(ge=0)] | None = None
    out: str | None = None


@dataclass(frozen=True)
class PinnedFile:
    """What a file must be before it may be used."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Source:
    """A pinned source. `repo` and `revision`, or `path`; `subfolder` within either, or empty.

    config      entries of the model's config.json that the recipe corrects
    dequantize  whether its weights are quantized, and become plain ones on the way in
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
    dequantize: bool = False

    @property
    def origin(self) -> str:
        """Where it comes from, for messages and manifests."""
        return f"{self.repo}@{self.revision}" if self.repo else self.path


def parse_sources(recipe: Mapping[str, Any], suite: str = "") -> dict[str, Source]:
    """All sources of a recipe; SourceError names every one that is not pinned, before any use.

    suite  the name of the suite whose data sets are among them, for that message
    """
    table = recipe.get("sources") or {}
    if not isinstance(table, Mapping):
        raise SourceError(f"sources is {shown(table)}; expected a table of entries")
    entries = {str(name): _read(str(name), entry) for name, entry in table.items()}
    loose = {name: lacks for name, entry in entries.items() if (lacks := _lacks(entry))}
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
        kinds = {entries[name].kind for name in loose}
        commands = [f"`remerge pin {recipe_name}`"] if kinds - {"dataset"} else []
        if "dataset" in kinds:
            commands.append(f"`remerge pin {printable(suite, 64) or 'SUITE'}`")
        once = " once where the hub is reachable" if any(entries[n].repo for n in loose) else ""
        raise SourceError(
            f"recipe {recipe_name} is not pinned: {'; '.join(parts)}; nothing was downloaded. Run "
            f"{' and '.join(commands)}{once}, and commit what is written"
        )
    return {name: _source(name, entry) for name, entry in entries.items()}


def unpinned(entries: Mapping[str, Any]) -> dict[str, str]:
    """What each source that is not pinned lacks: `revision`, or `digests` where that is known."""
    read = {str(name): _read(str(name), entry) for name, entry in entries.items()}
    return {name: lacks for name, entry in read.items() if (lacks := _lacks(entry))}


def _lacks(entry: _Entry) -> str:
    if entry.repo and not entry.revision:
        return "revision"
    pins = (entry.files or {}).values()
    whole = pins and all(pin and pin.sha256 is not None and pin.size is not None for pin in pins)
    return "" if whole else "digests"


def _listed(names: list[str]) -> str:
    shown = [printable(name, 64) for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def parse_source(name: str, entry: object) -> Source:
    """A source from its entry in the recipe; SourceError says what is wrong or not pinned."""
    return _source(name, _read(name, entry))


def _read(name: str, entry: object) -> _Entry:
    """The entry of a source, every value of the type that its key asks for."""
    where = f"source {printable(name)!r}"
    return read_table(_Entry, entry, where, separator=": ", error=SourceError)


def _source(name: str, entry: _Entry) -> Source:
    where = f"source {printable(name)!r}"
    repo, path, subfolder = entry.repo or "", entry.path or "", entry.subfolder or ""
    if bool(repo) == bool(path):
        raise SourceError(f"{where}: give either a repo of the hub or a path of a folder")
    if repo:
        _check_repo(where, repo, entry.revision)
    if not entry.files:
        raise SourceError(f"{where}: no files are pinned; run `remerge pin` to fill them in")
    if entry.dequantize and entry.kind != "model":
        raise SourceError(f"{where}: dequantize is for models; it is of kind {entry.kind}")
    if not path.isprintable():
        raise SourceError(f"{where}: {printable(path, 80)!r} is no path of a folder")
    if not subfolder.isprintable() or ".." in subfolder.split("/") or subfolder.startswith("/"):
        raise SourceError(f"{where}: {printable(subfolder, 80)!r} is no folder of a source")
    try:
        check_no_twins(entry.files, where)
    except CheckpointError as error:
        raise SourceError(str(error)) from None
    return Source(
        name=name,
        kind=entry.kind,
        files={
            check_source_file(file, entry.kind, where): _pin(pin, f"{where}: {printable(file)!r}")
            for file, pin in entry.files.items()
        },
        repo=repo,
        revision=entry.revision or "",
        path=path,
        subfolder=subfolder,
        licence=entry.licence or "",
        config=dict(entry.config or {}),
        dequantize=entry.dequantize,
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


def check_source_file(name: str, kind: str, where: str) -> str:
    """`name`, if a source may have a file of it; SourceError else.

    Models and adapters have plain names; files of a dataset may lie in folders.
    """
    parts = name.split("/") if kind == "dataset" else [name]
    try:
        return "/".join(check_file_name(part, where) for part in parts)
    except CheckpointError as error:
        raise SourceError(str(error)) from None


def _pin(pin: _Pin | None, where: str) -> PinnedFile:
    if pin is None or pin.sha256 is None or not _DIGEST.fullmatch(pin.sha256):
        raise SourceError(f"{where}: has no sha256 of 64 hexadecimal digits; run `remerge pin`")
    if pin.size is None:
        raise SourceError(f"{where}: has no size in bytes; run `remerge pin`")
    return PinnedFile(pin.sha256, pin.size)


def verify_file(path: Path, pin: PinnedFile, where: str) -> None:
    """SourceError, naming both digests, unless `path` is the pinned file."""
    size = regular_file_size(path)
    if size != pin.size:
        raise SourceError(f"{where}: {path} has {size} bytes, pinned are {pin.size}")
    digest = sha256_of(path)
    if digest != pin.sha256:
        raise SourceError(f"{where}: {path} has SHA-256 {digest}, pinned is {pin.sha256}")


def local_files(source: Source, root: Path) -> dict[str, Path]:
    """The files of a source that is a folder, each verified; a relative path is below `root`."""
    found = local_paths(source, root)
    for name, path in found.items():
        verify_file(path, source.files[name], f"source {source.name!r}")
    return found


def local_paths(source: Source, root: Path) -> dict[str, Path]:
    """The files of a source that is a folder, none of them verified as yet.

    SourceError for a missing file, or a link that leads out of the folder.
    """
    where = f"source {source.name!r}"
    folder = local_folder(source.path, root) / source.subfolder
    found = {}
    for name in source.files:
        path = folder / name
        if not path.exists():
            raise SourceError(f"{where}: {path} is missing")
        if not stays_within(path, folder):
            raise SourceError(f"{where}: {path} is a link out of its folder; refused")
        found[name] = path
    return found


def local_folder(path: str, root: Path) -> Path:
    """The folder that a source names: below `root`, absolute, or from the home folder (`~/…`)."""
    try:
        return (root / Path(path).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"path {printable(path, 80)!r}: {printable(error)}") from None


def stays_within(path: Path, folder: Path) -> bool:
    """Whether a file, followed through links, lies in its folder, or where the hub's cache has it.

    A snapshot of the hub's cache is a folder of links to `blobs` beside `snapshots`.
    """
    real, folder = path.resolve(), folder.resolve()
    if real.is_relative_to(folder):
        return True
    return any(
        above.parent.name == "snapshots" and real.parent == above.parent.parent / "blobs"
        for above in (folder, *folder.parents)
    )
