"""Standard streams that are closed, or full.

>>> open_streams()          # first of all, in a program
>>> drop_output()           # last of all, when it failed
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def open_streams() -> None:
    """Put `/dev/null` in place of every standard stream that is closed.

    The next file that is opened would take its number, and what anything prints would be written
    into that file, be it a shard.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def drop_output() -> None:
    """Forget what standard output cannot take.

    Python would write what is left in its buffer once more while it ends, and fail again.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, AttributeError), Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
