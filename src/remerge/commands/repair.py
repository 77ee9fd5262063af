"""Remove damaged outputs of a DVC project, so that DVC pulls them or makes them again.

  remerge repair merged/final
  dvc pull merged/final || dvc repro

Reads every byte of each folder as `remerge check` does. A damaged folder is removed, with those
objects of the cache that are damaged as well; a sound folder is left alone. A folder with a file
that no list names is refused: move that file away first.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
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
