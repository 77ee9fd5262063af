"""Compare experiments: what each changed, its mean score, its scores, its size.

  remerge compare
  remerge compare --scores sorting lookup dates
  remerge compare --html compared.html        # with pictures: a density against the mean, for one
  remerge compare --keep                      # for the report: conf/experiments/RECIPE.json

The first row is the workspace; the others follow by their mean. Parameters are compared with the
commit that is checked out. Without --scores the six that differ most are shown. The size is that of
the format that the report recommends, or else of the smallest that was made.

With --keep the finished experiments are written to a file that git holds, and `dvc repro` puts
their table and pictures into the report. They are left out again when a source is pinned anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to argparse."""
    parser.add_argument("--scores", nargs="+", default=[], metavar="TASK", help="columns to show")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures")
    parser.add_argument("--keep", action="store_true", help="keep them for the report")
    parser.add_argument(
        "-n", "--commits", type=int, default=1, help="commits whose experiments are shown (1)"
    )


def run(options: argparse.Namespace) -> None:
    """Print the table, and write the page where it is asked for."""
    from remerge.report.experiments import compare, comparison_page

    comparison = compare(_shown(options.commits), options.scores)
    rows = [comparison.columns, *comparison.rows()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    if comparison.left_out:
        print(f"not shown: {', '.join(comparison.left_out)} (--scores)")
    if options.html:
        from remerge.files import write_text

        write_text(options.html, comparison_page(comparison))
    if options.keep:
        from remerge.report.experiments import kept_place, to_keep
        from remerge.tensors.json_files import write_json
        from remerge.yaml_text import read_yaml

        params = read_yaml(Path("params.yaml"))
        path = kept_place(params["recipe"]["name"])
        kept = to_keep(comparison, params["pins"])
        write_json(path, kept)
        print(f"kept {len(kept['experiments'])} in {path}; `dvc repro` puts them into the report")


def _shown(commits: int) -> Any:
    """What DVC says of the experiments; RecipeError where it says nothing."""
    import json
    import os
    import subprocess
    import sys

    from remerge.errors import RecipeError, printable

    if commits < 1:
        raise RecipeError(f"--commits {commits}: expected 1 or more")
    if not Path("dvc.yaml").is_file():
        raise RecipeError("dvc.yaml: not here; run this in a project's folder")
    command = [sys.executable, "-P", "-m", "dvc", "exp", "show", "--json", "-n", str(commits)]
    quiet = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    try:
        if done.returncode:
            raise ValueError
        return json.loads(done.stdout)
    except ValueError:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        said = lines[-1].removeprefix("ERROR: ")
        raise RecipeError(f"dvc exp show: {printable(said, 300)}") from None
