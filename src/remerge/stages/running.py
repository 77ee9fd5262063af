"""What all stages share: the life of a stage's process.

A stage reports an error that a user can cause as one line and ends cleanly on Ctrl-C and SIGTERM.
(That it does not outlive its `dvc` is seen to before anything else is imported: stages.parent.)
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

# First of all: settings under which the compiler does not load are a line.
import remerge.kernels  # noqa: F401
from remerge.errors import line_of, printable
from remerge.extras import missing_extra
from remerge.lock_copy import keep_copy
from remerge.recipes.schema import Execution
from remerge.stages.summary import summary
from remerge.streams import drop_output

#: Work in progress: outside of every stage's outputs, so that DVC never deletes it.
SCRATCH = Path("scratch")


def run(stage: Callable[..., Path], *arguments: str) -> None:
    """Run `stage(*arguments)` as a process's whole work, whose exit status says how it went.

    A stage returns the folder that it made, of which a last line tells.
    """
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    begun = time.monotonic()
    try:
        keep_copy(Path())
        print(summary(stage(*arguments), time.monotonic() - begun), flush=True)
    except KeyboardInterrupt:
        sys.exit("interrupted; finished shards are kept, run it again to go on")
    except Exception as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """End this process with status 1 and one line; raise what no input or machine causes."""
    refusal = missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
    line = line_of(refusal or error)
    if line is None:
        raise error
    drop_output()
    sys.exit(f"error: {printable(line, 2000)}")


def execution(settings: Execution) -> dict[str, Any]:
    """Arguments of `build` that put a merge's units of work where the parameters say.

    A cluster's code is imported only when it is chosen: where the units run changes no byte, so it
    is no dependency of any stage.
    """
    if settings.backend == "local":
        return {}
    chosen = settings.model_dump(exclude_unset=True)
    return {"make_shards": importlib.import_module("remerge.cluster").shard_maker(chosen)}


def item_name() -> str:
    """The item that a stage with many was started for: `base` of DVC's `fetch@base`.

    DVC puts it into the environment. By hand it is the one argument.
    """
    named = os.environ.get("DVC_STAGE", "").partition("@")[2]
    if len(sys.argv) == 1 and named:
        return named
    if len(sys.argv) != 2:
        sys.exit(
            f"usage: python -m remerge.stages.{Path(sys.argv[0]).stem} NAME (run by `dvc repro`)"
        )
    return sys.argv[1]


def _interrupt(_signal: int, _frame: Any) -> None:
    # The end of `dvc` sends another one, which must not end the cleaning up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
