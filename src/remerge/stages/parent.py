"""The life of a stage is that of the `dvc` that started it.

A `dvc` that is killed must not leave a stage behind that goes on writing and publishes a result
beside the next build's. Imported before anything that takes time; so it imports next to nothing.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from pathlib import Path

_SET_PARENT_DEATH_SIGNAL = 1
_ANCESTORS = 8


def die_with_parent() -> None:
    """End, now or later, when the `dvc` that this process works for has ended.

    Linux sends SIGTERM when the parent dies. That misses a `dvc` which died before this was called,
    and one behind a shell that waits for us in between: DVC notes in its lock file who runs, and
    that process must be above us and is watched.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    above = _ancestors()
    holders = _lock_holders()
    if holders is None:
        # Whoever takes in orphans is the first process, or has itself taken charge of them.
        gone = "DVC_STAGE" in os.environ and above[:1] == [1] and os.getpgid(0) != _group(1)
    else:
        gone = not holders.intersection(above)
    if gone:
        os.write(2, b"error: the dvc that started this stage has ended; run it again\n")
        os._exit(1)
    for process in (holders or set()).intersection(above[1:]):
        _watch(process)


def _ancestors() -> list[int]:
    """The process's parent, its parent, and so on."""
    found: list[int] = []
    process = os.getppid()
    while process > 0 and len(found) < _ANCESTORS:
        found.append(process)
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return found


def _lock_holders() -> set[int] | None:
    """Processes that DVC's lock file names, dead ones too; None when it is not known."""
    if "DVC_STAGE" not in os.environ:
        return None
    import json

    try:
        lock = json.loads(Path(".dvc/tmp/rwlock").read_text())
        readers = [info for infos in lock.get("read", {}).values() for info in infos]
        holders = {int(info["pid"]) for info in [*readers, *lock.get("write", {}).values()]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return holders or None


def _group(process: int) -> int:
    try:
        return os.getpgid(process)
    except OSError:
        return -1


def _watch(process: int) -> None:
    """Send this process SIGTERM when `process` ends."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return

    def wait() -> None:
        select.select([handle], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()
