"""One process at a time for a place.

>>> with sole_writer(Path("merged/p1"), "ties p1"):
...     build()

A lock is a file beside the place, held by the kernel for the life of the process: whatever ends the
process, the place is free again. Decides no byte.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from remerge.errors import ToolError
from remerge.progress import note

_BEAT_S = 0.2
#: Disks that know no locks: what is written there appears by a rename all the same.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


#: What this thread holds already: a stage holds its output, and so does the work that it calls.
_held = threading.local()


class _Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def sole_writer(place: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold `place`, which need not exist, against every other process and thread of this program.

    A thread that holds it may ask again.

    Args:
        place: A file or folder that is going to be written.
        what: The work, for messages.
        wait: Wait for the other process, with a line that says so, in place of the error.

    Raises:
        ToolError: Another process is writing it.
    """
    place = place.resolve()
    held: set[Path] = _held.__dict__.setdefault("places", set())
    if place in held:
        yield
        return
    made = _make_parents(place)
    lock = place.with_name(f".{place.name}.lock")
    said = False
    try:
        while True:
            try:
                descriptor = _locked(lock)
                break
            except _Busy:
                if not wait:
                    raise ToolError(
                        f"{what}: another process is writing {place}; wait until it ends, or "
                        "choose another place"
                    ) from None
            if not said:
                note(f"{what}: waiting for another process that works in {place}")
                said = True
            time.sleep(_BEAT_S)
        held.add(place)
        try:
            yield
        finally:
            held.discard(place)
            with suppress(OSError):
                lock.unlink()
            os.close(descriptor)
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def is_free(place: Path) -> bool:
    """Whether nobody writes `place` at this moment, this thread neither."""
    if place.resolve() in _held.__dict__.get("places", ()):
        return False
    try:
        with sole_writer(place, "looking"):
            return True
    except (ToolError, OSError):
        return False


def _locked(path: Path) -> int:
    """An open descriptor that holds the lock; _Busy if another one does.

    Who holds a lock removes its file at the end. So the lock counts only on what the path names
    once it is held.
    """
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o644)
        except FileNotFoundError:  # the other process took the folder away when it was empty
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _Busy from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return descriptor
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.lstat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _make_parents(place: Path) -> list[Path]:
    """The folders that had to be made above `place`, the innermost first."""
    missing = []
    for folder in place.parents:
        if folder.exists():
            break
        missing.append(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    return missing
