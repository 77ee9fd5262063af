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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

from remerge.errors import ToolError
from remerge.proof.builds import (
    ArtefactComparison,
    BuildComparison,
    compare_builds,
    require_outputs,
)
from remerge.proof.lock import read_lock, stages_needed
from remerge.proof.surroundings import Surroundings, plain_machine, strange_machine

Report = Callable[[str], None]
#: What a build needs of our own surroundings, most of it to reach the sources; everything else is
#: left behind. Nothing of it is printed.
_KEPT = (
    *("PATH", "LD_LIBRARY_PATH"),
    *("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)

#: Settings of a repository can name programs that git runs; nothing here needs any.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


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

    work     folder for clones, caches and logs; they are removed when the builds agree, and what
             differs or failed is kept there for a look
    targets  stages to rebuild and compare (default: all)
    report   is given lines that say what is done and found

    CheckpointError when the build here is unfinished, ToolError when the checkout differs from its
    commit or a rebuild fails.
    """
    project, work = Path(project).resolve(), Path(work).resolve()
    _require_committed(project)
    stages = read_lock(project)
    needed = stages_needed(stages, targets)
    require_outputs(project, {name: stages[name] for name in needed})
    nbytes = sum(o.get("size", 0) for name in needed for o in stages[name].get("outs", []))
    left = [
        path for path in (*work.glob("*.log"), *work.glob("kept-*"), work / "a") if path.exists()
    ]
    if left:
        raise ToolError(f"{left[0]} exists; remove it, or give another folder to work in")
    machines = (plain_machine, partial(strange_machine, needed_bytes=3 * nbytes))
    return [
        _rebuilt(project, machine(work), work, targets, threads, report) for machine in machines
    ]


def _rebuilt(
    project: Path,
    surroundings: Surroundings,
    work: Path,
    targets: Sequence[str],
    threads: int | None,
    report: Report,
) -> Rebuilt:
    report(f"rebuild on {surroundings.name}")
    kept = work / f"kept-{surroundings.key}"
    log = work / f"{surroundings.key}.log"
    work.mkdir(parents=True, exist_ok=True)
    try:
        surroundings = lay(project, surroundings)
        for what, how in surroundings.varied:
            report(f"  {what}: {how}")
        for what, why in surroundings.fixed:
            report(f"  {what}: as here ({why})")
        try:
            repro(surroundings, targets, log)
        except ToolError as error:
            shutil.move(surroundings.place, kept)
            raise ToolError(f"{error}; all it said is in {log}, the clone in {kept}") from None
        comparison = compare_builds(project, surroundings.place, threads, partly=bool(targets))
        for line in described(comparison):
            report(f"  {line}")
        if comparison.same:
            log.unlink()
        else:
            # Out of memory, where the next build may need the room.
            shutil.move(surroundings.place, kept)
            report(f"  kept for a look: {kept}, and what it said: {log}")
    finally:
        remove(surroundings)
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()
    return Rebuilt(surroundings, comparison)


def lay(project: Path, surroundings: Surroundings) -> Surroundings:
    """Clone the project's commit without its lock; adds whether folders list files otherwise."""
    place = surroundings.place
    place.parent.mkdir(parents=True, exist_ok=True)
    with _umask(surroundings.umask):
        _run([*_GIT, "clone", "--quiet", "--no-hardlinks", str(project), str(place)], "git clone")
        names = _lay_in_reverse(place)
        (place / "dvc.lock").unlink(missing_ok=True)
        home = Path(surroundings.variables["HOME"])
        for folder in (home, home / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
    folders = {str(Path(name).parent) for name in names}
    other = [folder for folder in folders if _listed_otherwise(project / folder, place / folder)]
    if not other:
        why = "laid in reverse, but the file system lists them in an order of its own"
        return replace(surroundings, fixed=(*surroundings.fixed, ("order of files", why)))
    how = f"laid in reverse: {len(other)} of {len(folders)} folders list them in another order"
    return replace(surroundings, varied=(*surroundings.varied, ("order of files", how)))


def _listed_otherwise(first: Path, second: Path) -> bool:
    """Whether the names that both folders have are listed in another order."""
    a, b = os.listdir(first), os.listdir(second)  # noqa: PTH208 - as a program would see them
    return [name for name in a if name in b] != [name for name in b if name in a]


def repro(surroundings: Surroundings, targets: Sequence[str], log: Path) -> None:
    """Build what `lay` has laid from nothing, as `surroundings` say."""
    command = [*surroundings.prefix, sys.executable, "-P", "-m", "dvc", "repro", *targets]
    variables = _variables(surroundings, surroundings.place)
    with _umask(surroundings.umask):
        _run(command, f"the rebuild on {surroundings.name}", surroundings.place, variables, log)


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _require_committed(project: Path) -> None:
    status = [*_GIT, "-C", str(project), "status", "--porcelain", "--untracked-files=no"]
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
    from huggingface_hub import get_token

    own = {name: os.environ[name] for name in _KEPT if name in os.environ}
    token = get_token()  # which may lie in the home that the rebuild does not have
    if token:
        own["HF_TOKEN"] = token
    # The clone's code, with the packages that are installed here; `python` in a stage is this one.
    programs = f"{Path(sys.executable).parent}:{own.get('PATH', os.defpath)}"
    return own | {
        "PATH": programs,
        "PYTHONPATH": str(place / "src"),
        "DVC_NO_ANALYTICS": "1",
        **surroundings.variables,
    }


def _lay_in_reverse(place: Path) -> list[str]:
    """Create the checked-out files anew in reverse order: some file systems list them so."""
    listed = subprocess.run(
        [*_GIT, "-C", str(place), "ls-files", "-z"], capture_output=True, check=True
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
    return names


def _run(
    command: Sequence[str],
    what: str,
    cwd: Path | None = None,
    variables: dict[str, str] | None = None,
    log: Path | None = None,
) -> None:
    """Run it; ToolError with its error line if it fails. `log` gets all that it says."""
    with log.open("w+b") if log else TemporaryFile() as said:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=variables,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        said.seek(0)
        text = said.read().decode(errors="replace").strip() if done.returncode else ""
    if done.returncode:
        lines = text.splitlines() or ["no message"]
        line = next((line for line in lines if line.startswith("error:")), lines[-1])
        raise ToolError(f"{what} failed with status {done.returncode}: {line}")


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
