"""Put dvc.lock back when an interruption broke it, or drop what it holds of other recipes.

  remerge repair            # if dvc.lock is empty or cut off, take the copy that stages keep
  remerge repair --prune    # and drop the entries of stages that do not exist now

DVC writes dvc.lock in place, and keeps the entries of stages that another recipe had. Every stage
copies a whole lock to .dvc/tmp as it starts. Outputs and cache are not touched; `remerge check`
looks at those.
"""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument(
        "--prune", action="store_true", help="drop the entries of stages that do not exist"
    )


def run(options: argparse.Namespace) -> int:
    """Repair the lock; return the exit status."""
    from pathlib import Path

    from remerge.atomic import write_text
    from remerge.lock_copy import LOCK, pruned, repair

    print(repair(Path()))
    if options.prune:
        text, gone = pruned(LOCK.read_text(), _existing())
        if gone:
            write_text(LOCK, text)
        print(f"dropped {', '.join(gone)}" if gone else "every entry is of a stage that exists")
    return 0


def _existing() -> set[str]:
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
