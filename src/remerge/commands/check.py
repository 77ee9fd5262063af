"""Check folders against their manifests and dvc.lock: every tensor, header, config and tokenizer.

  remerge check merged/* quantized/* scores/* report
  remerge check merged/final --expect 9f86d081…

Finds what DVC cannot see: an output edited in place, linked as it is with the cache. A folder must
hold what is listed, as regular files, and nothing else; `.gitattributes` and `.cache/huggingface`,
which hubs and their clients add, are passed over with a note. Nothing in the folder is run and none
of its settings are obeyed. `remerge repair` removes what is damaged. Exit status 1 if anything is
damaged, or is not the model that --expect names.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from remerge.commands.common import model_id_option

if TYPE_CHECKING:
    from remerge.proof.check import FolderCheck


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--expect",
        type=model_id_option,
        metavar="ID",
        help="the model id that the folder must have",
    )
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
            "note": check.note,
        }
        if not options.json:
            print("\n".join(lines(check)), flush=True)
    if options.json:
        print(json.dumps(found, indent=2, sort_keys=True))
    return int(not sound)


def lines(check: FolderCheck) -> list[str]:
    """What was found, and what to do about it."""
    from remerge.errors import printable

    folder = printable(check.folder, 4096)
    notes = [f"{folder}: {check.note}"] if check.note else []
    if check.other:
        return [f"{folder}: {check.other}", *notes]
    if not check.problems:
        said = f"{folder}: {check.files} files as in {check.against}  {check.model_id}"
        return [said.rstrip(), *notes]
    # No command with a name in it: names come from what is checked, and lines are pasted.
    advice = (
        "`remerge repair` with this folder removes what is damaged; then `dvc pull` or `dvc repro`"
        if check.against != "manifest.json"
        else "fetch it again from where it came"
    )
    return [*(f"{folder}/{problem}" for problem in check.problems), *notes, f"repair: {advice}"]
