"""Remove damaged outputs of a DVC project, or put its lock back after an interruption.

  remerge repair merged/final
  dvc pull merged/final || dvc repro
  remerge repair                # if dvc.lock is empty or cut off, take the copy that stages keep
  remerge repair --prune        # and drop the entries of stages that do not exist now

Reads every byte of each folder as `remerge check` does. A damaged folder is removed, with those
objects of the cache that are damaged as well; a sound folder is left alone. A folder with a file
that no list names is refused: move that file away first.

DVC writes dvc.lock in place, and keeps the entries of stages that another recipe had. Every stage
copies a whole lock to .dvc/tmp as it starts.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--prune", action="store_true", help="drop entries of dvc.lock whose stages do not exist"
    )
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    if options.prune or not options.folders:
        _repair_lock(options.prune)
    from remerge.errors import printable
    from remerge.proof.repair import repair

    removed = False
    for folder in options.folders:
        done = repair(folder, options.threads)
        removed = removed or bool(done.files)
        said = f"removed, with {done.objects} damaged objects of the cache"
        print(f"{printable(folder)}: {said if done.files else 'is sound'}")
    if removed:
        print("now run `dvc pull` for what a remote has, and `dvc repro` for the rest")


def _repair_lock(prune: bool) -> None:
    from remerge import lock_copy
    from remerge.files import write_text

    print(lock_copy.repair(Path()))
    if prune:
        text, gone = lock_copy.pruned(lock_copy.LOCK.read_text(), _existing_stages())
        if gone:
            write_text(lock_copy.LOCK, text)
        print(f"dropped {', '.join(gone)}" if gone else "every entry is of a stage that exists")


def _existing_stages() -> set[str]:
    """Names of the stages that dvc.yaml has for the parameters in use."""
    import subprocess
    import sys

    from remerge.errors import ToolError, printable

    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = set(done.stdout.split())
    if done.returncode or not names:
        reason = (done.stderr.strip().splitlines() or ["it named no stage"])[0]
        raise ToolError(f"`dvc stage list` failed: {printable(reason.removeprefix('ERROR: '))}")
    return names
