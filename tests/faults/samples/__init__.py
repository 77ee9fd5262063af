"""Hostile inputs by name, each written by a function whose docstring says what it tries.

>>> python -m tests.faults.samples FOLDER      # write them all below FOLDER
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Write = Callable[[Path], None]

#: By kind (`pickle`, `safetensors`, `index`, `adapter`), then by name.
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
