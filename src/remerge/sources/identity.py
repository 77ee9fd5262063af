"""A file that was hashed, and whether it is still the one that is read.

Weights are mapped, so they are opened by path after they were hashed, and a cache of downloads is
shared by other programs. A file that is replaced gets another inode; one that is written, or moved
away and back, gets another time of change, which no program can set.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from remerge.errors import SourceError
from remerge.files import regular_file_size
from remerge.sources.pinned import PinnedFile

Identity = tuple[int, int, int, int, int]


def verified_identity(path: Path, pin: PinnedFile, where: str) -> Identity:
    """What `path` is while it has the pinned digest.

    Args:
        path: The file.
        pin: Its size and SHA-256.
        where: What errors begin with.

    Returns:
        Device, inode, size and the times of the last write and change.

    Raises:
        SourceError: Size or digest differ, or the file changed while it was read.
        CheckpointError: It is no regular file.
    """
    _require_size(path, pin, where)
    try:
        with path.open("rb") as opened:
            before = _identity(os.fstat(opened.fileno()))
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            after = _identity(os.fstat(opened.fileno()))
    except OSError as error:
        raise SourceError(f"{where}: {path}: {error.strerror}") from None
    if digest != pin.sha256:
        raise SourceError(f"{where}: {path} has SHA-256 {digest}, pinned is {pin.sha256}")
    require_same(path, before, where)
    if before != after:
        raise SourceError(f"{where}: {path} changed while it was read; run it again")
    return before


def copy_verified(path: Path, pin: PinnedFile, target: Path, where: str) -> Path:
    """Copy a small file, so that what is read later is what was hashed here.

    Args:
        path: The file, where others may be able to write.
        pin: Its size and SHA-256.
        target: The copy, new, in a folder of this process alone.
        where: What errors begin with.

    Returns:
        `target`.

    Raises:
        SourceError: Size or digest differ.
        CheckpointError: It is no regular file.
    """
    _require_size(path, pin, where)
    try:
        with path.open("rb") as opened:
            data = opened.read(pin.size + 1)
    except OSError as error:
        raise SourceError(f"{where}: {path}: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != pin.sha256:
        raise SourceError(f"{where}: {path} has SHA-256 {digest}, pinned is {pin.sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target


def require_same(path: Path, identity: Identity, where: str) -> None:
    """SourceError unless `path` is still the file that had the pinned digest."""
    try:
        same = _identity(path.stat()) == identity
    except OSError:
        same = False
    if not same:
        raise SourceError(
            f"{where}: {path} was changed or replaced after it was verified; nothing that was read "
            "from it is kept"
        )


def _require_size(path: Path, pin: PinnedFile, where: str) -> None:
    size = regular_file_size(path)
    if size != pin.size:
        raise SourceError(f"{where}: {path} has {size} bytes, pinned are {pin.size}")


def _identity(status: os.stat_result) -> Identity:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
