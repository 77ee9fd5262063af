"""Rebuild a finished build elsewhere, from nothing, in other surroundings, and compare.

>>> results = verify(Path("."), Path("/tmp/verify"), report=print)
>>> all(result.comparison.same for result in results)

The commit that is checked out is cloned; `dvc repro` runs in the clone with an empty cache and
without `dvc.lock`, so nothing can be taken from here. DVC is used as a person would use it, by its
command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from remerge.errors import ToolError
from remerge.proof.builds import ArtefactComparison, BuildComparison, compare_builds
from remerge.proof.lock import read_lock
from remerge.proof.surroundings import Surroundings, plain_machine, strange_machine

Report = Callable[[str], None]
#: What a build needs of our own surroundings; everything else is left behind.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "HF_ENDPOINT", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class Rebuilt:
    """One rebuild and what came of it."""

    surroundings: Surroundings
    comparison: BuildComparison


def verify(
    project: Path | str,
    work: Path | str,
    *,
    targets: Sequence[str] = (),
    threads: int | None = None,
    report: Report = lambda _: None,
) -> list[Rebuilt]:
    """Rebuild the commit that is checked out in `project` twice, and compare each with it.

    work     folder for clones and their caches; they are removed when the builds agree and kept
             for a look when they do not
    targets  stages to rebuild and compare (default: all)
    report   is given lines that say what is done and found

    ToolError when the checkout differs from its commit, or a rebuild fails.
    """
    project, work = Path(project).resolve(), Path(work).resolve()
    _require_committed(project)
    needed = sum(o.get("size", 0) for s in read_lock(project).values() for o in s.get("outs", []))
    work.mkdir(parents=True, exist_ok=True)
    results = []
    for surroundings in (plain_machine(work), strange_machine(work, 3 * needed)):
        report(f"rebuild on {surroundings.name}")
        for what, how in surroundings.varied:
            report(f"  {what}: {how}")
        for what, why in surroundings.fixed:
            report(f"  {what}: as here ({why})")
        place = surroundings.parent / surroundings.folder
        try:
            rebuild(project, surroundings, targets)
            comparison = compare_builds(project, place, threads, partly=bool(targets))
        except BaseException:
            remove(surroundings)
            raise
        for line in described(comparison):
            report(f"  {line}")
        if comparison.same:
            remove(surroundings)
        else:
            report(f"  kept for a look: {place}")
        results.append(Rebuilt(surroundings, comparison))
    return results


def rebuild(project: Path, surroundings: Surroundings, targets: Sequence[str] = ()) -> None:
    """Clone the project's commit and build it from nothing as `surroundings` say."""
    place = surroundings.parent / surroundings.folder
    if place.exists():
        raise ToolError(f"{place} exists; remove it, or give another folder to work in")
    place.parent.mkdir(parents=True, exist_ok=True)
    before = os.umask(surroundings.umask)
    try:
        _run(["git", "clone", "--quiet", "--no-hardlinks", str(project), str(place)], "git clone")
        _lay_in_reverse(place)
        (place / "dvc.lock").unlink(missing_ok=True)
        home = Path(surroundings.variables["HOME"])
        for folder in (home, home / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        command = [*surroundings.prefix, sys.executable, "-m", "dvc", "repro", *targets]
        _run(command, f"the rebuild on {surroundings.name}", place, _variables(surroundings, place))
    finally:
        os.umask(before)


def _require_committed(project: Path) -> None:
    status = ["git", "-C", str(project), "status", "--porcelain", "--untracked-files=no"]
    done = subprocess.run(status, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ToolError(f"{project}: is no git checkout, so there is no commit to rebuild")
    changed = [line[3:] for line in done.stdout.splitlines()]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ToolError(
            f"{changed[0]}{more} differs from the commit; commit it or restore it first"
        )


def _variables(surroundings: Surroundings, place: Path) -> dict[str, str]:
    own = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # The clone's code, with the packages that are installed here; `python` in a stage is this one.
    programs = f"{Path(sys.executable).parent}:{own.get('PATH', os.defpath)}"
    return own | {
        "PATH": programs,
        "PYTHONPATH": str(place / "src"),
        "DVC_NO_ANALYTICS": "1",
        **surroundings.variables,
    }


def _lay_in_reverse(place: Path) -> None:
    """Create the checked-out files anew in reverse order, so that a folder lists them otherwise."""
    listed = subprocess.run(
        ["git", "-C", str(place), "ls-files", "-z"], capture_output=True, check=True
    )
    names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    aside = place / ".git" / "aside"
    for name in names:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).rename(aside / name)
    for name in reversed(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(aside / name, place / name, follow_symlinks=False)
        shutil.copymode(aside / name, place / name, follow_symlinks=False)
    shutil.rmtree(aside)


def _run(
    command: Sequence[str],
    what: str,
    cwd: Path | None = None,
    variables: dict[str, str] | None = None,
) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=variables,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        text = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        said = next((line for line in text if line.startswith("error:")), text[-1])
        raise ToolError(f"{what} failed with status {done.returncode}: {said}")


def remove(surroundings: Surroundings) -> None:
    """Remove what a rebuild left, and nothing beside it."""
    shutil.rmtree(surroundings.parent / Path(surroundings.folder).parts[0], ignore_errors=True)
    shutil.rmtree(surroundings.variables["HOME"], ignore_errors=True)
    if surroundings.parent.is_dir() and not any(surroundings.parent.iterdir()):
        surroundings.parent.rmdir()


def described(comparison: BuildComparison) -> list[str]:
    """The comparison as lines: a summary, or where the builds part first and how."""
    artefacts = comparison.artefacts
    nbytes = sum(artefact.nbytes for artefact in artefacts)
    files = sum(artefact.files for artefact in artefacts)
    if comparison.same:
        return [
            f"the same: {len(artefacts)} artefacts, {files} files, {nbytes} bytes, dvc.lock too"
        ]
    lines = []
    for position, artefact in enumerate(comparison.differing):
        first = "differs first" if position == 0 else "differs too"
        lines.append(f"{artefact.path}, made by {artefact.stage}, {first}")
        if position == 0:
            lines += [f"    {line}" for line in _details(artefact)]
    if not comparison.differing:
        lines = [f"dvc.lock differs at {', '.join(comparison.other_records)}, but no artefact does"]
    same = len(artefacts) - len(comparison.differing)
    lines.append(f"{same} of {len(artefacts)} artefacts are the same")
    return lines


def _details(artefact: ArtefactComparison) -> list[str]:
    shown = [f"{name or artefact.path}: other bytes" for name in artefact.changed]
    shown += [f"{name}: only in the first" for name in artefact.only_first]
    shown += [f"{name}: only in the rebuild" for name in artefact.only_second]
    if artefact.tensors is not None:
        shown += [
            f"tensor {tensor.name}: {tensor.change or f'{tensor.differing} of {tensor.elements}'}"
            + (f", at most {tensor.max_ulp} ulp" if tensor.max_ulp else "")
            for tensor in artefact.tensors.differing
        ]
    return shown[:20] + ([f"and {len(shown) - 20} more"] if len(shown) > 20 else [])
