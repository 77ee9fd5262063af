"""A folder against its own manifest: every tensor, header, config and tokenizer file.

>>> check_folder("merged/final").problems
()

DVC knows a hard-linked output by its inode, size and time: what root, a failing disk or a careless
program writes into it changes the cache too, and DVC may go on saying "up to date". Here every byte
is read. That the manifest itself is the right one is what the model id on the card, or a signature,
says.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.proof.digests import Range, sha256_of_ranges
from remerge.tensors.checkpoint import check_file_name, read_json
from remerge.tensors.dtypes import ITEM_SIZE
from remerge.tensors.model_id import model_id

MANIFEST = "manifest.json"


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
    """What was found. `model_id` is that of the tensors as read, "" for what has none."""

    folder: Path
    model_id: str
    files: int
    nbytes: int
    problems: tuple[Problem, ...]

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


def check_folder(
    folder: Path | str, threads: int | None = None, expect: str | None = None
) -> FolderCheck:
    """Read every byte that the folder's manifest speaks of; CheckpointError if it has no manifest.

    `expect` is the model id that the folder should have, from a card or a signed statement.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise CheckpointError(
            f"{folder}: has no {MANIFEST}, so there is nothing to check it against"
        )
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
    problems += [Problem(name, "", "is not in the manifest") for name in _strays(folder, files)]
    digests = sha256_of_ranges([p.span for p in parts], threads, f"check {folder.name}")
    problems += [
        Problem(part.file, part.tensor, part.what)
        for part, digest in zip(parts, digests, strict=True)
        if digest != part.sha256
    ]
    found = {p.tensor: digest for p, digest in zip(parts, digests, strict=True) if p.tensor}
    identity = _identity(tensors, found)
    if identity and identity != content.get("model_id") and not problems:
        problems.append(Problem(MANIFEST, "", "names another model id than its tensors have"))
    if expect is not None and identity != expect.strip().lower():
        problems.append(Problem(MANIFEST, "", f"is of model {identity or '?'}, expected {expect}"))
    nbytes = sum(part.span.nbytes for part in parts)
    return FolderCheck(folder, identity, len(files), nbytes, tuple(problems))


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


def _strays(folder: Path, files: Mapping[str, Any]) -> list[str]:
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return sorted(present - set(files) - {MANIFEST})


def _identity(tensors: Mapping[str, Mapping[str, Any]], found: Mapping[str, str]) -> str:
    if not tensors or set(found) != set(tensors):
        return ""
    return model_id((n, t["dtype"], t["shape"], found[n]) for n, t in tensors.items())


def repair(check: FolderCheck) -> list[str]:
    """Shell commands that bring a damaged folder back, in order.

    A damaged file that is linked with the cache is damaged there as well, so both must go; then a
    remote has the right bytes, or the stage makes them again.
    """
    folder = check.folder
    quoted = shlex.quote(str(folder))
    if not any((parent / ".dvc").is_dir() for parent in folder.resolve().parents):
        return [f"# fetch {quoted} again from where it came"]
    damaged = [folder / name for name in check.damaged if name != MANIFEST]
    linked = [path for path in damaged if path.is_file() and _linked(path)]
    commands = [
        f'find -L "$(dvc cache dir)" -samefile {shlex.quote(str(path))} -delete' for path in linked
    ]
    commands.append(f"rm -r {quoted}")
    # Not with --allow-missing: that takes a missing output for finished.
    commands.append(f"dvc pull {quoted} || dvc repro")
    return commands


def _linked(path: Path) -> bool:
    return path.is_symlink() or path.stat().st_nlink > 1
