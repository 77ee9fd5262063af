"""What targets share: an error of ours is a result, and a folder to write inputs to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from remerge.errors import RemergeError

Target = Callable[[bytes], None]
_MEMORY = Path("/dev/shm")


def checked(read: Callable[[], object]) -> Any:
    """What `read` returns; None where it refuses in a printable line."""
    try:
        return read()
    except RemergeError as error:
        assert str(error).isprintable()
        return None


@cache
def scratch() -> Path:
    """A folder of this process, in memory where that is possible: targets write a million files."""
    return Path(tempfile.mkdtemp(prefix="fuzz", dir=_MEMORY if _MEMORY.is_dir() else None))
