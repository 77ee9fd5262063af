"""Check folders against their own manifests: every tensor, header, config and tokenizer file.

  remerge check merged/final quantized/*
  remerge check merged/final --expect 9f86d081…

Finds what DVC cannot see: an output edited in place, linked as it is with the cache. Prints, for
each damaged folder, the commands that repair it. Exit status 1 if anything is damaged.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--expect", metavar="ID", help="the model id that the folder must have")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--threads", type=int, help="threads to use (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Do it; 1 if a folder is not what its manifest says."""
    from remerge.proof.check import check_folder, repair

    checks = [check_folder(path, options.threads, options.expect) for path in options.folders]
    if options.json:
        found = {
            str(check.folder): {
                "model_id": check.model_id,
                "problems": [asdict(problem) for problem in check.problems],
            }
            for check in checks
        }
        print(json.dumps(found, indent=2, sort_keys=True))
        return int(any(check.problems for check in checks))
    for check in checks:
        if not check.problems:
            print(
                f"{check.folder}: {check.files} files as in the manifest  {check.model_id}".rstrip()
            )
            continue
        for problem in check.problems:
            print(f"{check.folder}/{problem}")
        print("repair with:")
        for command in repair(check):
            print(f"  {command}")
    return int(any(check.problems for check in checks))
