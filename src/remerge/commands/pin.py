"""Pin the sources of a recipe: resolve refs and short ids to commits, fill in sizes and digests.

  remerge pin stheno_l2_13b             # fill in what is missing, keep what is pinned
  remerge pin stheno_l2_13b --check     # do the pins hold, and what has moved since?
  remerge pin stheno_l2_13b chronos --update   # take what the branch stands at now

RECIPE is a recipe or suite of conf/, or a YAML file with `sources`. Its sources file is rewritten,
with its comments; weights are not downloaded. A source without a revision is resolved by its `ref`,
or `main`. HF_ENDPOINT and HF_TOKEN are honoured.
"""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="only these (default: all)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--check",
        action="store_true",
        help="write nothing; status 1 when a source is not pinned or a pin does not hold",
    )
    either.add_argument(
        "--update", action="store_true", help="resolve the ref again where a commit is pinned"
    )


def run(options: argparse.Namespace) -> int:
    """Do it."""
    from remerge.sources.pin import check_file, pin_file, sources_file

    path = sources_file(options.recipe)
    if options.check:
        report = check_file(path, options.sources)
    else:
        report = pin_file(path, options.sources, update=options.update)
    for line in report.lines:
        print(line)
    if not options.check:
        print(f"wrote {path}; compose params.yaml again and commit both")
    return 1 if report.broken else 0
