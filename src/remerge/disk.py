"""Saying before the work that the disk will not hold it.

>>> require_space(Path("scratch"), 26 * 10**9, "fetch base")
"""

from __future__ import annotations

import shutil
from pathlib import Path

from remerge.errors import ToolError


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system on which `folder` is or will be."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed: int, what: str) -> None:
    """ToolError unless `needed` more bytes fit where `folder` is."""
    free = free_bytes(folder)
    if needed > free:
        raise ToolError(
            f"{what} needs {needed / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free; make "
            "room or move the checkout (`remerge plan` shows what a recipe needs)"
        )
