"""Options of the verbs that run a model: what a runtime may use."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from remerge.commands.common import parse_size
from remerge.errors import RecipeError

if TYPE_CHECKING:
    from remerge.watchdog import Limits


def add_limit_options(parser: argparse.ArgumentParser, step_s: int) -> None:
    """What the child process may use that runs a model."""
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory that the runtime may take, files that it maps aside, such as 16GB (default: "
        "nine tenths of what is free)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=float(step_s),
        metavar="SECONDS",
        help="longest time without progress, and more for large models (default: %(default).0f)",
    )


def limits_of(options: argparse.Namespace, paths: list[Path], batch: int = 1) -> Limits:
    """The limits that `add_limit_options` asks for; RecipeError for a time that is none."""
    from remerge.watchdog import limits_for

    if not math.isfinite(options.timeout) or not 0 < options.timeout < 10**9:
        raise RecipeError(f"--timeout is {options.timeout}; expected seconds")
    memory = None if options.memory is None else parse_size(options.memory)
    return limits_for(paths, memory=memory, step_s=options.timeout, batch=batch)
