"""A folder against its manifest and `dvc.lock`: every tensor, header, config and tokenizer file.

>>> check_folder("merged/final").problems
()

DVC knows a hard-linked output by its inode, size and time: what root, a failing disk or a careless
program writes into it changes the cache too, and DVC may go on saying "up to date". Here every byte
is read. In a project the manifest itself, and an output that has none, is held against what the
lock records; elsewhere the model id on the card, or a signature, says that it is the right one.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.proof.digests import Range, identify, md5_of_files, sha256_of_ranges
from remerge.proof.lock import object_name, project_of, recorded_files
from remerge.tensors.checkpoint import check_file_name
from remerge.tensors.dtypes import ITEM_SIZE
from remerge.tensors.json_files import read_json
from remerge.tensors.model_id import model_id

MANIFEST = "manifest.json"
#: What a published model has beside it (`remerge release`) and what hubs put there.
_BESIDE = (
    *("README.md", "LICENSE.md", "provenance.json", "bom.cdx.json", "SHA256SUMS"),
    *(".gitattributes", "LICENSE", "LICENSE.txt"),
)


@dataclass(frozen=True)
class Problem:
    """One thing that is not as the manifest says; `tensor` is empty for a whole file."""

    file: str
    tensor: str
    text: str

    def __str__(self) -> str:
        of_tensor = f": tensor {printable(self.tensor)!r}" if self.tensor else ""
        return f"{printable(self.file)}{of_tensor} {self.text}"


@dataclass(frozen=True)
class FolderCheck:
    """What was found.

    model_id  that of the tensors as read, "" for what has none or is damaged
    against   what the files were held against: `manifest.json`, `dvc.lock` or both
    problems  what is damaged
    other     a line if it is sound but not the model that was expected, else ""
    objects   MD5 of files by name, where the project's lock records them
    """

    folder: Path
    model_id: str
    files: int
    nbytes: int
    against: str
    problems: tuple[Problem, ...]
    other: str = ""
    objects: Mapping[str, str] = field(default_factory=dict)

    @property
    def as_expected(self) -> bool:
        """Nothing is damaged, and it is the model that was expected, if one was."""
        return not self.problems and not self.other

    @property
    def damaged(self) -> tuple[str, ...]:
        """Names of the files that have a problem."""
        return tuple(dict.fromkeys(problem.file for problem in self.problems))


@dataclass(frozen=True)
class _Part:
    """A range of a file, and what it must hash to."""

    file: str
    tensor: str
    what: str
    span: Range
    sha256: str


@dataclass(frozen=True)
class _Found:
    """What one way of looking at a folder has found."""

    files: int
    nbytes: int
    problems: tuple[Problem, ...]
    model_id: str = ""


def check_folder(
    folder: Path | str, threads: int | None = None, expect: str | None = None
) -> FolderCheck:
    """Read every byte of the folder; CheckpointError if nothing says what it should be.

    `expect` is the model id that the folder should have, from a card or a signed statement.
    """
    folder = Path(folder)
    manifest, recorded = folder / MANIFEST, recorded_files(folder)
    if recorded is None and not manifest.exists():
        raise CheckpointError(
            f"{folder}: has no {MANIFEST}, and neither dvc.lock nor the cache says what its files "
            "should be: there is nothing to check it against"
        )
    if recorded is None:
        against, found = MANIFEST, _by_manifest(folder, threads, beside=_BESIDE)
    elif MANIFEST in recorded and manifest.is_file() and _is_recorded(manifest, recorded):
        # The manifest is the right one, so it can say which tensor is not.
        against, found = f"dvc.lock and {MANIFEST}", _by_manifest(folder, threads)
    else:
        against, found = "dvc.lock", _by_lock(folder, recorded, threads)
    identity, other = found.model_id, ""
    if expect is not None and not found.problems:
        identity = identity or identify(folder, threads).model_id
        if identity != expect.strip().lower():
            other = f"is the model {identity}, not {printable(expect)}"
    return FolderCheck(
        folder, identity, found.files, found.nbytes, against, found.problems, other, recorded or {}
    )


def _is_recorded(path: Path, recorded: Mapping[str, str]) -> bool:
    return md5_of_files([path], 1) == [recorded.get(path.name)]


def _by_lock(folder: Path, recorded: Mapping[str, str], threads: int | None) -> _Found:
    """Every file against the lock, by MD5."""
    present = sorted(name for name in recorded if (folder / name).is_file())
    digests = md5_of_files([folder / name for name in present], threads, f"check {folder.name}")
    problems = [Problem(name, "", "is missing") for name in sorted(recorded.keys() - set(present))]
    problems += [
        Problem(name, "", "has changed: it is not what dvc.lock records")
        for name, digest in zip(present, digests, strict=True)
        if digest != recorded[name]
    ]
    strays = _strays(folder, recorded)
    problems += [Problem(name, "", "is not what dvc.lock records") for name in strays]
    nbytes = sum((folder / name).stat().st_size for name in present)
    return _Found(len(recorded), nbytes, tuple(problems))


def _by_manifest(folder: Path, threads: int | None, beside: Iterable[str] = ()) -> _Found:
    """Every file, and every tensor where the manifest names them, by SHA-256."""
    manifest = folder / MANIFEST
    content = read_json(manifest)
    files, tensors = content.get("files"), content.get("tensors") or {}
    if not isinstance(files, dict) or not isinstance(tensors, dict):
        raise CheckpointError(f"{manifest}: lists no files; not a manifest of this program")
    problems: list[Problem] = []
    parts: list[_Part] = []
    for name, entry in files.items():
        try:
            parts += _parts(folder, name, entry, tensors, problems)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CheckpointError(
                f"{manifest}: its entry {printable(name)!r} is malformed"
            ) from None
    strays = _strays(folder, {*files, MANIFEST, *beside})
    problems += [Problem(name, "", "is not in the manifest") for name in strays]
    digests = sha256_of_ranges([p.span for p in parts], threads, f"check {folder.name}")
    problems += [
        Problem(part.file, part.tensor, part.what)
        for part, digest in zip(parts, digests, strict=True)
        if digest != part.sha256
    ]
    found = {p.tensor: digest for p, digest in zip(parts, digests, strict=True) if p.tensor}
    identity = _identity(tensors, found)
    if "model_id" in content and not problems:
        # Files that are known as a whole (a GGUF) are read once more, for their tensors.
        identity = identity or identify(folder, threads).model_id
        if identity != content["model_id"]:
            text = "names another model id than its tensors have"
            problems.append(Problem(MANIFEST, "", text))
    nbytes = sum(part.span.nbytes for part in parts)
    return _Found(len(files), nbytes, tuple(problems), identity)


def _parts(
    folder: Path,
    name: str,
    entry: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Any]],
    problems: list[Problem],
) -> list[_Part]:
    """What to hash of one file: all of it, or the header and each tensor by itself."""
    for component in name.split("/"):
        check_file_name(component, str(folder / MANIFEST))
    path, size = folder / name, int(entry["size"])
    if not path.is_file():
        problems.append(Problem(name, "", "is missing"))
        return []
    actual = path.stat().st_size
    if actual != size:
        problems.append(Problem(name, "", f"has {actual} bytes, the manifest says {size}"))
        return []
    if "sha256" in entry:
        return [_Part(name, "", "has changed", Range(path, 0, size), str(entry["sha256"]))]
    lengths = {
        tensor: math.prod(tensors[tensor]["shape"]) * ITEM_SIZE[tensors[tensor]["dtype"]]
        for tensor in entry["tensors"]
    }
    # The place of each tensor comes from the manifest, so that a damaged header misleads nobody.
    position = size - sum(lengths.values())
    header = Range(path, 0, position)
    parts = [_Part(name, "", "has a changed header", header, str(entry["header_sha256"]))]
    for tensor, length in lengths.items():
        digest = str(tensors[tensor]["sha256"])
        parts.append(_Part(name, tensor, "has changed", Range(path, position, length), digest))
        position += length
    return parts


def _strays(folder: Path, files: Iterable[str]) -> list[str]:
    """Files of the folder that should not be there; a folder with a manifest of its own may be."""
    present = [path for path in folder.rglob("*") if not path.is_dir()]
    others = {path.parent for path in present if path.name == MANIFEST} - {folder}
    names = {
        path.relative_to(folder).as_posix() for path in present if others.isdisjoint(path.parents)
    }
    return sorted(names - set(files))


def _identity(tensors: Mapping[str, Mapping[str, Any]], found: Mapping[str, str]) -> str:
    if not tensors or set(found) != set(tensors):
        return ""
    return model_id((n, t["dtype"], t["shape"], found[n]) for n, t in tensors.items())


def repair(check: FolderCheck) -> list[str]:
    """Shell commands that bring a damaged folder back, in order; none for a folder that is sound.

    A damaged file that is linked with the cache is damaged there as well, so both must go; then a
    remote has the right bytes, or the stage makes them again.
    """
    folder = check.folder
    quoted = shlex.quote(str(folder))
    if not check.problems:
        return []
    if project_of(folder) is None:
        return [f"# fetch {quoted} again from where it came"]
    # The manifest always: it may be what is damaged, and nothing else says so where no lock does.
    suspects = dict.fromkeys((*check.damaged, MANIFEST))
    commands = []
    for name in suspects:
        path = folder / name
        if name in check.objects and (name != MANIFEST or MANIFEST in check.damaged):
            commands.append(f'rm -f "$(dvc cache dir)"/{object_name(check.objects[name])}')
        elif name not in check.objects and path.is_file() and _linked(path):
            commands.append(
                f'find -L "$(dvc cache dir)" -samefile {shlex.quote(str(path))} -delete'
            )
    commands.append(f"rm -r {quoted}")
    # Not with --allow-missing: that takes a missing output for finished.
    commands.append(f"dvc pull {quoted} || dvc repro")
    return commands


def _linked(path: Path) -> bool:
    return path.is_symlink() or path.stat().st_nlink > 1
