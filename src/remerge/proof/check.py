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
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.proof.code_in_model import code_note
from remerge.proof.contents import Contents, ignored_note, read_contents
from remerge.proof.digests import (
    Range,
    identify,
    md5_of_files,
    range_of,
    sha256_of_ranges,
    whole,
)
from remerge.proof.lock import recorded_files
from remerge.proof.models import looks_like_weights, open_weights, require_one_model
from remerge.tensors.checkpoint import check_file_name
from remerge.tensors.dtypes import ITEM_SIZE
from remerge.tensors.json_files import JSON_LIMIT, read_json
from remerge.tensors.model_id import model_id, parse_model_id

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
_SUM = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")


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
    note      a line about what was passed over and what is code, else ""
    objects   MD5 of files by name, where the project's lock records them
    """

    folder: Path
    model_id: str
    files: int
    nbytes: int
    against: str
    problems: tuple[Problem, ...]
    other: str = ""
    note: str = ""
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
    listed: frozenset[str]
    model_id: str = ""


def check_folder(
    folder: Path | str, threads: int | None = None, expect: str | None = None
) -> FolderCheck:
    """Read every byte of the folder; CheckpointError if nothing says what it should be.

    `expect` is the model id that the folder should have, from a card or a signed statement.
    The folder must hold what is listed, as regular files, and nothing else (`proof.contents`).
    """
    folder = Path(folder)
    try:
        wanted = None if expect is None else parse_model_id(expect)
    except ValueError as error:
        raise CheckpointError(f"{printable(expect)!r}: {error}") from None
    contents = read_contents(folder)
    recorded = recorded_files(folder)
    if recorded is None and MANIFEST not in contents.files:
        contents.require_plain()
        raise CheckpointError(
            f"{folder}: has no {MANIFEST}, and neither dvc.lock nor the cache says what its files "
            "should be: there is nothing to check it against"
        )
    if recorded is not None and recorded.files is None:
        # Without the list from the cache it is made from the folder: the lock has its digest.
        names = list(contents.files)
        md5 = md5_of_files([folder / name for name in names], threads, f"check {folder.name}")
        recorded = recorded.with_files(dict(zip(names, md5, strict=True)))
    if recorded is None:
        against, found = MANIFEST, _by_manifest(contents, threads)
    elif recorded.files is None:
        against, found = "dvc.lock", _by_listing(contents, threads)
    elif MANIFEST in contents.files and _is_recorded(folder / MANIFEST, recorded.files):
        # The manifest is the right one, so it can say which tensor is not.
        against, found = f"dvc.lock and {MANIFEST}", _by_manifest(contents, threads)
    else:
        against, found = "dvc.lock", _by_lock(contents, recorded.files, threads)
    problems = [Problem(name, "", why) for name, why in contents.refused.items()]
    known = {problem.file for problem in (*problems, *found.problems)}
    problems += found.problems
    problems += [
        Problem(name, "", f"is not listed in {against}")
        for name in contents.unlisted(found.listed)
        if name not in known
    ]
    identity, other = "" if problems else found.model_id, ""
    if wanted is not None and not problems:
        identity = identity or identify(folder, threads).model_id
        if identity != wanted:
            other = f"is the model {identity}, not {wanted}"
    notes = [ignored_note(contents.ignored(found.listed))]
    notes += [code_note(folder, contents.files.keys() - contents.refused.keys())]
    contents.require_unchanged()
    return FolderCheck(
        folder,
        identity,
        found.files,
        found.nbytes,
        against,
        tuple(problems),
        other,
        "; ".join(filter(None, notes)),
        (recorded.files if recorded else None) or {},
    )


def _is_recorded(path: Path, recorded: Mapping[str, str]) -> bool:
    return md5_of_files([path], 1) == [recorded.get(path.name)]


def _by_listing(contents: Contents, threads: int | None) -> _Found:
    """A folder whose list has another digest than the lock records, with no list to compare."""
    text = "is not what dvc.lock records, and the cache does not say which file it is"
    found = _Found(0, 0, (), frozenset(contents.files))
    if MANIFEST in contents.files:
        found = _by_manifest(contents, threads)
    return replace(found, problems=found.problems or (Problem(".", "", text),), model_id="")


def _by_lock(contents: Contents, recorded: Mapping[str, str], threads: int | None) -> _Found:
    """Every file against the lock, by MD5."""
    folder = contents.folder
    present = sorted(recorded.keys() & contents.files.keys())
    digests = md5_of_files([folder / name for name in present], threads, f"check {folder.name}")
    absent = sorted(recorded.keys() - contents.files.keys() - contents.refused.keys())
    problems = [Problem(name, "", "is missing") for name in absent]
    problems += [
        Problem(name, "", "has changed: it is not what dvc.lock records")
        for name, digest in zip(present, digests, strict=True)
        if digest != recorded[name]
    ]
    nbytes = sum(contents.files[name].st_size for name in present)
    return _Found(len(recorded), nbytes, tuple(problems), frozenset(recorded))


def _by_manifest(contents: Contents, threads: int | None) -> _Found:
    """Every file, and every tensor where the manifest names them, by SHA-256."""
    folder = contents.folder
    manifest = folder / MANIFEST
    content = read_json(manifest)
    files, tensors = content.get("files"), content.get("tensors") or {}
    if not isinstance(files, dict) or not isinstance(tensors, dict):
        raise CheckpointError(f"{manifest}: lists no files; not a manifest of this program")
    sums = _read_sums(folder / SUMS) if SUMS in contents.files else {}
    problems: list[Problem] = []
    parts: list[_Part] = []
    for name, entry in files.items():
        try:
            parts += _parts(contents, name, entry, tensors, problems)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise CheckpointError(
                f"{manifest}: its entry {printable(name)!r} is malformed"
            ) from None
    for name, digest in sums.items():
        if name in contents.files:
            parts.append(
                _Part(name, "", f"has another digest in {SUMS}", whole(folder / name), digest)
            )
        elif name not in contents.refused and name not in files:
            problems.append(Problem(name, "", "is missing"))
    digests = sha256_of_ranges([p.span for p in parts], threads, f"check {folder.name}")
    wrong = [p for p, digest in zip(parts, digests, strict=True) if digest != p.sha256]
    located = {part.file for part in wrong if part.file not in sums or "digest" not in part.what}
    problems += [
        Problem(part.file, part.tensor, part.what)
        for part in wrong
        if "digest" not in part.what or part.file not in located
    ]
    identity = ""
    if not problems and not contents.refused:
        known = {p.span: digest for p, digest in zip(parts, digests, strict=True)}
        identity, more = _as_loaded(contents, content, known, threads)
        problems += more
    nbytes = sum(contents.files[name].st_size for name in files if name in contents.files)
    listed = frozenset({*files, MANIFEST, *sums, *([SUMS] if sums else [])})
    return _Found(len(files), nbytes, tuple(problems), listed, identity)


def _as_loaded(
    contents: Contents, content: Mapping[str, Any], known: Mapping[Range, str], threads: int | None
) -> tuple[str, list[Problem]]:
    """The id of what a loader loads, by the files' own headers, and where the manifest disagrees.

    `known` are digests of ranges that were hashed already.
    """
    names = [name for name in contents.files if "/" not in name]
    if not any(map(looks_like_weights, names)):
        missing = content.get("tensors") or "model_id" in content
        return "", [Problem(MANIFEST, "", "names weights that are not there")] if missing else []
    weights = open_weights(contents.folder)
    require_one_model(weights, contents.files)
    infos = list(weights.tensors.values())
    spans = [range_of(info) for info in infos]
    new = [span for span in spans if span not in known]
    hashed = dict(zip(new, sha256_of_ranges(new, threads, "check tensors"), strict=True))
    lines = [
        (info.name, info.dtype, info.shape, known.get(span) or hashed[span])
        for info, span in zip(infos, spans, strict=True)
    ]
    said = content.get("tensors") or {}
    problems = [
        Problem(MANIFEST, name, "is in the manifest but not in the weights")
        for name in said.keys() - {info.name for info in infos}
    ]
    for info, (name, dtype, shape, digest) in zip(infos, lines, strict=True):
        entry = said.get(name)
        entry = entry if isinstance(entry, dict) else {}
        stated = (entry.get("dtype"), entry.get("shape"), entry.get("sha256"))
        if said and stated != (dtype, list(shape), digest):
            problems.append(Problem(info.path.name, name, "is not what the manifest says"))
    identity = model_id(lines)
    if not problems and content.get("model_id", identity) != identity:
        problems.append(Problem(MANIFEST, "", "names another model id than its tensors have"))
    return identity, problems


def _read_sums(path: Path) -> dict[str, str]:
    """SHA-256 by name from a file for `sha256sum`; CheckpointError for anything else."""
    if path.stat().st_size > JSON_LIMIT:
        raise CheckpointError(f"{path}: larger than {JSON_LIMIT} bytes; not a list of digests")
    found: dict[str, str] = {}
    try:
        lines = path.read_bytes().decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: is not UTF-8") from None
    for line in lines:
        match = _SUM.fullmatch(line)
        if match is None or match[2] in found:
            raise CheckpointError(
                f"{path}: {printable(line.rstrip(), 80)!r} is malformed or double"
            )
        for component in match[2].split("/"):
            check_file_name(component, str(path))
        found[match[2]] = match[1]
    if not found:
        raise CheckpointError(f"{path}: lists nothing")
    return found


def _parts(
    contents: Contents,
    name: str,
    entry: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Any]],
    problems: list[Problem],
) -> list[_Part]:
    """What to hash of one file: all of it, or the header and each tensor by itself."""
    for component in name.split("/"):
        check_file_name(component, str(contents.folder / MANIFEST))
    path, size = contents.folder / name, int(entry["size"])
    if name not in contents.files:
        if name not in contents.refused:
            problems.append(Problem(name, "", "is missing"))
        return []
    actual = contents.files[name].st_size
    if actual != size:
        problems.append(Problem(name, "", f"has {actual} bytes, the manifest says {size}"))
        return []
    if "sha256" in entry:
        return [_Part(name, "", "has changed", Range(path, 0, size), str(entry["sha256"]))]
    lengths = {
        tensor: math.prod(tensors[tensor]["shape"]) * ITEM_SIZE[tensors[tensor]["dtype"]]
        for tensor in entry["tensors"]
    }
    # Here the place of each tensor comes from the manifest, so that a damaged header misleads
    # nobody who looks for the damage; `_as_loaded` compares it with the header's own.
    position = size - sum(lengths.values())
    if position < 0 or min(lengths.values(), default=0) < 0:
        raise ValueError
    header = Range(path, 0, position)
    parts = [_Part(name, "", "has a changed header", header, str(entry["header_sha256"]))]
    for tensor, length in lengths.items():
        digest = str(tensors[tensor]["sha256"])
        parts.append(_Part(name, tensor, "has changed", Range(path, position, length), digest))
        position += length
    return parts
