"""Check folders against their manifests and dvc.lock: every tensor, header, config and tokenizer.

  remerge check merged/* quantized/* scores/* report
  remerge check merged/final --expect 9f86d081…

Finds what DVC cannot see: an output edited in place, linked as it is with the cache. Prints, for
each damaged folder, the commands that repair it. Exit status 1 if anything is damaged, or is not
the model that --expect names.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remerge.proof.check import FolderCheck


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--expect", metavar="ID", help="the model id that the folder must have")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Do it; 1 if a folder is damaged, is another model, or cannot be checked."""
    from remerge.errors import CheckpointError
    from remerge.proof.check import check_folder

    found: dict[str, object] = {}
    sound = True
    for folder in options.folders:
        try:
            check = check_folder(folder, options.threads, options.expect)
        except CheckpointError as error:
            sound, found[str(folder)] = False, {"error": str(error)}
            print(f"error: {error}", file=sys.stderr)
            continue
        sound = sound and check.as_expected
        found[str(folder)] = {
            "model_id": check.model_id,
            "against": check.against,
            "problems": [asdict(problem) for problem in check.problems],
            "other": check.other,
        }
        if not options.json:
            print("\n".join(lines(check)), flush=True)
    if options.json:
        print(json.dumps(found, indent=2, sort_keys=True))
    return int(not sound)


def lines(check: FolderCheck) -> list[str]:
    """What was found, and how to repair it."""
    from remerge.proof.check import repair

    if check.other:
        return [f"{check.folder}: {check.other}"]
    if not check.problems:
        said = f"{check.folder}: {check.files} files as in {check.against}  {check.model_id}"
        return [said.rstrip()]
    problems = [f"{check.folder}/{problem}" for problem in check.problems]
    return [*problems, "repair with:", *(f"  {command}" for command in repair(check))]
