"""Put a broken dvc.lock back, or remove damaged outputs, so that DVC goes on.

  remerge repair                  # dvc.lock is empty or cut off: take the copy that stages keep
  remerge repair --prune          # and drop its entries of stages that do not exist now
  remerge repair merged/final     # a damaged output: remove it, then `dvc pull` or `dvc repro`

DVC writes dvc.lock in place and keeps the entries of stages that another recipe had; every stage
copies a whole lock to .dvc/tmp as it starts. Of a folder every byte is read, as `remerge check`
does: a damaged one is removed with those objects of the cache that are damaged as well, a sound one
is left alone, and one with a file that no list names is refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="outputs; none: dvc.lock itself"
    )
    parser.add_argument(
        "--prune", action="store_true", help="drop the entries of stages that do not exist"
    )
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    if options.prune or not options.folders:
        _repair_lock(options.prune)
    if options.folders:
        _repair_folders(options.folders, options.threads)


def _repair_lock(prune: bool) -> None:
    from remerge.files import write_text
    from remerge.lock_copy import LOCK, pruned, repair

    print(repair(Path()))
    if prune:
        text, gone = pruned(LOCK.read_text(), _existing())
        if gone:
            write_text(LOCK, text)
        print(f"dropped {', '.join(gone)}" if gone else "every entry is of a stage that exists")


def _existing() -> set[str]:
    """Names of the stages that dvc.yaml has for the parameters in use."""
    import subprocess
    import sys

    from remerge.errors import ToolError, printable

    # With -P nothing that lies here is imported in place of DVC.
    command = [sys.executable, "-P", "-m", "dvc", "stage", "list", "--name-only"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = set(done.stdout.split())
    if done.returncode or not names:
        reason = (done.stderr.strip().splitlines() or ["it named no stage"])[0]
        raise ToolError(f"`dvc stage list` failed: {printable(reason.removeprefix('ERROR: '))}")
    return names


def _repair_folders(folders: list[Path], threads: int | None) -> None:
    from remerge.errors import printable
    from remerge.proof.repair import repair

    removed = False
    for folder in folders:
        done = repair(folder, threads)
        removed = removed or bool(done.files)
        said = f"removed, with {done.objects} damaged objects of the cache"
        print(f"{printable(folder)}: {said if done.files else 'is sound'}")
    if removed:
        print("now run `dvc pull` for what a remote has, and `dvc repro` for the rest")
