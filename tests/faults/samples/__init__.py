"""Hostile inputs by name, each written by a function whose docstring says what it tries.

>>> python -m tests.faults.samples FOLDER      # write them all below FOLDER
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

Write = Callable[[Path], None]

#: By kind, then by name.
SAMPLES: dict[str, dict[str, Write]] = {}


def sample(kind: str) -> Callable[[Write], Write]:
    """Register a sample. Its function writes one file at the path that it is given."""

    def add(write: Write) -> Write:
        SAMPLES.setdefault(kind, {})[write.__name__] = write
        return write

    return add


def tries(write: Write) -> str:
    """What a sample tries."""
    return " ".join((write.__doc__ or "").split())


def every_sample() -> dict[str, dict[str, Write]]:
    """`SAMPLES`, once every file of samples has been read."""
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        importlib.import_module(f"{__name__}.{path.stem}")
    return SAMPLES
