"""Files: written atomically, hashed, and errors of the disk as one line. Decides no byte.

>>> write_text(folder / "README.md", text)
>>> require_space(Path("scratch"), 26 * 10**9, "fetch base")
>>> with disk_errors("source 'base': config.json", Path("scratch")):
...     write()

Files appear under their final name whole, durable and with mode 0644, or not at all. The temporary
name lies in the target folder, so that the rename stays within one file system; the data are
flushed to disk before the rename and the folder after it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from remerge.errors import CheckpointError, ToolError
from remerge.formatting import size

TEMPORARY_SUFFIX = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def flush_folder(folder: Path) -> None:
    """Make renames within `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """A name under which `path` may be written until it is whole.

    Nobody can foresee it, and no other process has it: not on another machine, not in another
    container, where equal process ids are usual.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")


def create(path: Path) -> int:
    """A descriptor of the new file `path`, to write and read; FileExistsError if it is there.

    A link that somebody laid there is not followed.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def leftovers(path: Path) -> list[Path]:
    """What was half made under a `temporary_path` of `path`, by processes that were killed."""
    form = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}{re.escape(TEMPORARY_SUFFIX)}")
    try:
        return [found for found in path.parent.iterdir() if form.fullmatch(found.name)]
    except FileNotFoundError:
        return []


def publish(temporary: Path, path: Path) -> None:
    """Rename a finished, already flushed file to its final name."""
    temporary.chmod(0o644)
    temporary.replace(path)
    flush_folder(path.parent)


def publish_folder(staging: Path, out: Path) -> None:
    """Make `staging`, whose files are flushed, appear as `out` in one rename.

    CheckpointError if something is there by now; an empty folder gives way.
    """
    flush_folder(staging)
    try:
        staging.rename(out)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise CheckpointError(f"{out} exists; remove it or choose another place") from None
    flush_folder(out.parent)


@contextmanager
def open_atomic(path: Path | str) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well and vanishes when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb", opener=lambda name, _: create(Path(name))) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with open_atomic(path) as file:
        file.write(data)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 with the line ends it has."""
    write_bytes(path, text.encode())


def regular_file_size(path: Path) -> int:
    """Size of `path`, which must be a regular file (a FIFO would block, a device never end)."""
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: not a regular file")
    return status.st_size


def sha256_of(path: Path) -> str:
    """Its hexadecimal digest; the file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
                f"{what} needs {size(needed)} in {folder.resolve()}, {size(free)} are free; make "
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
            remedy = "run it again when that is corrected"
        where = error.filename or folder
        raise ToolError(f"{what}: {error.strerror or error} ({where}); {remedy}") from error


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder
