"""Two finished builds side by side: every artefact, and where they part.

>>> parting = compare_builds(Path("."), Path("/tmp/elsewhere"))
>>> parting.same, [artefact.stage for artefact in parting.differing]

A build is a folder with a `dvc.lock` and what it names. What is compared are the bytes that lie
there, not what a lock says of them, by the rule for what a folder may contain (`contents`); the
stage that comes first in the pipeline comes first here, so the first difference is where to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from remerge.errors import CheckpointError, printable
from remerge.files import regular_file_size
from remerge.proof.contents import read_contents
from remerge.proof.diff import ModelDifference, compare
from remerge.proof.digests import sha256_of_ranges, whole
from remerge.proof.lock import read_lock


@dataclass(frozen=True)
class ArtefactComparison:
    """One output of one stage. Names of files are relative to it ("" for an output that is a file).

    changed       files that both have and whose bytes differ
    only_first, only_second
    tensors       how the weights differ, where both hold weights that can be compared
    """

    stage: str
    path: str
    files: int
    nbytes: int
    changed: tuple[str, ...] = ()
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    tensors: ModelDifference | None = None

    @property
    def same(self) -> bool:
        """Every file has the same bytes."""
        return not (self.changed or self.only_first or self.only_second)


@dataclass(frozen=True)
class BuildComparison:
    """All outputs in the order of the pipeline, and stages whose records in the locks differ."""

    artefacts: tuple[ArtefactComparison, ...]
    other_records: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Both builds are the same, artefacts and records."""
        return not self.differing and not self.other_records

    @property
    def differing(self) -> tuple[ArtefactComparison, ...]:
        """The artefacts that differ, the one to look at first."""
        return tuple(artefact for artefact in self.artefacts if not artefact.same)


def compare_builds(
    first: Path | str, second: Path | str, threads: int | None = None, *, partly: bool = False
) -> BuildComparison:
    """Compare every output that either lock names; CheckpointError when a build is unfinished.

    `partly`: only stages that both have.
    """
    first, second = Path(first), Path(second)
    locks = [read_lock(first), read_lock(second)]
    if partly:
        both = locks[0].keys() & locks[1].keys()
        locks = [{name: s for name, s in lock.items() if name in both} for lock in locks]
    for root, lock in zip((first, second), locks, strict=True):
        require_outputs(root, lock)
    outs = [(stage, o["path"]) for stage, entry in locks[0].items() for o in entry.get("outs", [])]
    known = {path for _, path in outs}
    outs += [
        (stage, o["path"])
        for stage, entry in locks[1].items()
        for o in entry.get("outs", [])
        if o["path"] not in known
    ]
    return BuildComparison(
        tuple(_compare_output(stage, path, first, second, threads) for stage, path in outs),
        tuple(
            name
            for name in dict.fromkeys([*locks[0], *locks[1]])
            if locks[0].get(name) != locks[1].get(name)
        ),
    )


def require_outputs(root: Path, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """CheckpointError if an output that the lock of `root` names is not there."""
    for stage, entry in stages.items():
        for out in entry.get("outs", []):
            _check_place(root, out["path"])
            if not (root / out["path"]).exists():
                raise CheckpointError(
                    f"{root / out['path']}: is missing, so this is no finished build of {stage}; "
                    "`dvc pull` or `dvc repro` it first"
                )


def _check_place(root: Path, path: str) -> None:
    """CheckpointError for an output that lies, or leads, out of the build that names it."""
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or not path.isprintable():
        raise CheckpointError(f"{root / 'dvc.lock'}: output {printable(path)!r} lies outside")
    if (root / path).is_symlink():
        raise CheckpointError(f"{root / path}: is a link; only regular files are compared")


def _compare_output(
    stage: str, path: str, first: Path, second: Path, threads: int | None
) -> ArtefactComparison:
    a, b = first / path, second / path
    in_a, in_b = _digests(a, threads), _digests(b, threads)
    changed = tuple(name for name in in_a if name in in_b and in_a[name] != in_b[name])
    return ArtefactComparison(
        stage,
        path,
        len(in_a),
        sum(regular_file_size(a / name if name else a) for name in in_a),
        changed,
        tuple(name for name in in_a if name not in in_b),
        tuple(name for name in in_b if name not in in_a),
        _tensors(a, b, threads) if changed else None,
    )


def _digests(path: Path, threads: int | None) -> dict[str, str]:
    """SHA-256 by name of an output's files, which must be regular files and nothing else."""
    names = [""]
    contents = None if path.is_file() else read_contents(path)
    if contents:
        contents.require_plain()
        names = list(contents.files)
    spans = [whole(path / name if name else path) for name in names]
    digests = sha256_of_ranges(spans, threads, f"compare {path.name}")
    if contents:
        contents.require_unchanged()
    return dict(zip(names, digests, strict=True))


def _tensors(first: Path, second: Path, threads: int | None) -> ModelDifference | None:
    try:
        return compare(first, second, threads)
    except CheckpointError:  # scores and reports hold no weights; damaged weights cannot be read
        return None
