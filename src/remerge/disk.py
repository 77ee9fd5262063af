"""A disk that cannot hold the work: told before it starts, or as one line when it fills up.

>>> require_space(Path("scratch"), 26 * 10**9, "fetch base")
>>> with disk_errors("source 'base': config.json", Path("scratch")):
...     write()
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from remerge.errors import ToolError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system on which `folder` is or will be."""
    return shutil.disk_usage(_existing(folder)).free


def require_space(folder: Path, needed: int, what: str) -> None:
    """ToolError unless `needed` more bytes fit where `folder` is."""
    require_spaces([(folder, needed)], what)


def require_spaces(needs: Sequence[tuple[Path, int]], what: str) -> None:
    """ToolError unless all of the (folder, bytes) fit; those of one file system share its room."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, needed in needs:
        disk = _existing(folder).stat().st_dev
        first, already = disks.get(disk, (folder, 0))
        disks[disk] = first, already + needed
    for folder, needed in disks.values():
        free = free_bytes(folder)
        if needed > free:
            raise ToolError(
                f"{what} needs {_size(needed)} in {folder.resolve()}, {_size(free)} are free; make "
                "room or move the checkout (`remerge plan` shows what a recipe needs)"
            )


@contextmanager
def disk_errors(what: str, folder: Path) -> Iterator[None]:
    """An OSError of the block becomes a ToolError: what was being done, where, and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            remedy = "make room and run it again"
        elif error.errno in _FORBIDDEN:
            remedy = "see to its permissions"
        else:
            remedy = "run it again when that is mended"
        where = error.filename or folder
        raise ToolError(f"{what}: {error.strerror or error} ({where}); {remedy}") from error


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**7 else f"{count / 1e6:.2f} MB"
