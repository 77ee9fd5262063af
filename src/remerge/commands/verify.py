"""Rebuild this commit elsewhere, twice, in other surroundings, and compare every artefact.

  remerge verify
  remerge verify --work /mnt/large/verify
  remerge verify --against /path/to/another/finished/build

Each rebuild is a clone with an empty cache; path, user, host, umask, locale, time zone, home,
clock, cores, threads, hash seed, file system, order of files and the processor that kernels are
compiled for differ from here as far as this machine allows: the output says what was varied and
how, and what was not and why. Where an artefact differs it says which stage comes first and which
tensors. What differs or fails is kept, with all that the build said. Exit status 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("project", nargs="?", type=Path, default=Path(), help="default: here")
    parser.add_argument("--work", type=Path, help="where to rebuild (default: a temporary folder)")
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="compare with this build, rebuild nothing"
    )
    parser.add_argument(
        "--target", action="append", default=[], help="only this stage and those before; repeatable"
    )
    parser.add_argument("--threads", type=int, help="threads for comparing (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Do it; 1 if anything differs."""
    from remerge.proof.builds import compare_builds
    from remerge.proof.rebuild import described, verify

    def report(line: str) -> None:
        print(line, flush=True)

    if options.against is not None:
        comparison = compare_builds(options.project, options.against, options.threads)
        for line in described(comparison):
            report(line)
        return int(not comparison.same)
    work = options.work or Path(tempfile.mkdtemp(prefix="remerge-verify-"))
    results = verify(
        options.project, work, targets=options.target, threads=options.threads, report=report
    )
    differing = [r.surroundings.name for r in results if not r.comparison.same]
    if differing:
        report(f"NOT REPRODUCED on {' and '.join(differing)}")
        return 1
    report(f"reproduced: {len(results)} rebuilds, every artefact the same to the bit")
    return 0
