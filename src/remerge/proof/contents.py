"""The one rule for what a model folder may contain: regular files that are listed, nothing else.

>>> contents = read_contents(Path("merged/final"))
>>> contents.require_plain()

A list is the folder's `manifest.json`, its `SHA256SUMS`, `dvc.lock`, or a signature. Links, FIFOs,
devices, sockets, empty subfolders, and names that one file system or another takes for the same
are refused: what they stand for can change, or be something else, without any digest noticing.
The two things that hubs and their clients add are passed over, and only those (`IGNORED`).
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from remerge.errors import CheckpointError, printable

#: What a hub adds to a repository, and where its client notes what it downloaded. Signatures state
#: that they do not cover these, so that other verifiers pass over them as well.
IGNORED = (".gitattributes", ".cache/huggingface")
_CLIENT_FILES = (".gitignore", "CACHEDIR.TAG")
_CLIENT_SUFFIXES = (".metadata", ".lock", ".incomplete")
_CLIENT_TREE = re.compile(r"\.cache/huggingface/trees/[0-9a-f]{40}\.json")
_DEPTH_LIMIT = 16
_KINDS = (
    (stat.S_ISLNK, "is a link"),
    (stat.S_ISFIFO, "is a FIFO"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)
_LINK_ADVICE = "only regular files are checked: copy the folder with `cp -rL` first"


@dataclass(frozen=True)
class Contents:
    """What lies in a folder. Names are relative to it, with `/`.

    files    status of each regular file
    refused  why an entry may not be in a model folder, by name
    """

    folder: Path
    files: dict[str, os.stat_result]
    refused: dict[str, str]

    def unlisted(self, listed: Iterable[str]) -> list[str]:
        """Files that are neither listed nor passed over."""
        return sorted(n for n in self.files.keys() - set(listed) if not is_ignored(n))

    def ignored(self, listed: Iterable[str]) -> list[str]:
        """Which of `IGNORED` are there and not listed."""
        names = [name for name in self.files.keys() - set(listed) if is_ignored(name)]
        return [place for place in IGNORED if any(_within(name, place) for name in names)]

    def require_plain(self) -> None:
        """CheckpointError if there is anything but regular files."""
        for name, why in self.refused.items():
            raise CheckpointError(f"{self.folder}: {printable(name)} {why}")

    def require_unchanged(self) -> None:
        """CheckpointError if a file is not the one that was listed: it was replaced or edited."""
        for name, before in self.files.items():
            try:
                now = (self.folder / name).lstat()
            except OSError:
                now = None
            if now is None or _identity(now) != _identity(before):
                raise CheckpointError(
                    f"{self.folder / name}: changed while it was read; run it again when nothing "
                    "writes there"
                )


def is_ignored(name: str) -> bool:
    """Whether a file is one that hubs or their clients add: passed over unless it is listed."""
    attributes, client = IGNORED
    path = PurePosixPath(name)
    noted = path.name in _CLIENT_FILES or path.suffix in _CLIENT_SUFFIXES
    return name == attributes or (
        _within(name, client) and (noted or _CLIENT_TREE.fullmatch(name) is not None)
    )


def ignored_note(places: Iterable[str]) -> str:
    """A line about what was passed over, or an empty text."""
    named = ", ".join(places)
    return f"not checked, as hubs and their clients write it: {named}" if named else ""


def read_contents(folder: Path) -> Contents:
    """List a folder without following any link in it; CheckpointError if it cannot be listed."""
    files: dict[str, os.stat_result] = {}
    refused: dict[str, str] = {}
    if not folder.is_dir():
        kind = "is not a folder" if os.path.lexists(folder) else "does not exist"
        raise CheckpointError(f"{folder}: {kind}")
    for name, status in _walk(folder, ""):
        problem = _name_problem(name) or _kind_problem(status)
        if problem:
            refused[name] = problem
        elif stat.S_ISREG(status.st_mode):
            files[name] = status
    seen: dict[str, str] = {}
    for name in sorted(files):
        twin = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            refused[name] = f"and {printable(twin)} are one file on some disks"
    return Contents(folder, dict(sorted(files.items())), dict(sorted(refused.items())))


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry but folders that hold something, whose entries follow."""
    try:
        with os.scandir(folder / prefix) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name, status = f"{prefix}{entry.name}", entry.stat(follow_symlinks=False)
            inside: Iterator[tuple[str, os.stat_result]] = iter(())
            if stat.S_ISDIR(status.st_mode) and prefix.count("/") < _DEPTH_LIMIT:
                inside = _walk(folder, f"{name}/")
            first = next(inside, None)
            if first is None:
                yield name, status
            else:
                yield first
                yield from inside
    except OSError as error:
        raise CheckpointError(f"{folder / prefix}: cannot be listed ({error.strerror})") from None


def _name_problem(name: str) -> str:
    plain = name.isprintable() and all(
        part not in (".", "..") and "\\" not in part and ":" not in part for part in name.split("/")
    )
    return "" if plain else "has a name that is not a plain file name"


def _kind_problem(status: os.stat_result) -> str:
    if stat.S_ISDIR(status.st_mode):
        return "is a folder that holds nothing, or lies too deep"
    kind = next((said for is_kind, said in _KINDS if is_kind(status.st_mode)), "")
    return f"{kind}; {_LINK_ADVICE}" if kind else ""


def _within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}/")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """The time of change is the one that no program can set back."""
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, *times
