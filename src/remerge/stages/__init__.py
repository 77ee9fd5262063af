"""The pipeline's stages: read parameters, call the library, nothing else. Run by `dvc repro`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from remerge.stages.parent import die_with_parent
from remerge.streams import open_streams


def _end(number: int, _frame: Any) -> None:
    """Ctrl-C while modules are loaded: nothing was begun, so there is nothing to undo."""
    os.write(2, b"interrupted before anything was begun\n")
    os._exit(128 + number)


def _one_line(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """What a module of this project refuses while it is loaded is a line too."""
    errors = sys.modules.get("remerge.errors")
    if errors is not None and issubclass(kind, errors.RemergeError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# Python sets this name while it looks for the module of `python -m remerge.stages.NAME`, and only
# then.
if sys.argv[:1] == ["-m"]:
    open_streams()
    for _signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_signal, _end)
    die_with_parent()
    sys.excepthook = _one_line
