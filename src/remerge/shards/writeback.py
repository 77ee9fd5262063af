"""Having the disk begin on what was written, while the rest is still computed.

>>> start_writeback(descriptor, offset, nbytes)

Otherwise the kernel keeps written pages for seconds, and the flush at the end of a shard waits for
all of them. It is advice: where a system or a file system does not take it, nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_SYNC_FILE_RANGE_WRITE = 2


def start_writeback(descriptor: int, offset: int, nbytes: int) -> None:
    """Ask for `nbytes` from `offset` on to go to disk, without waiting for them."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, offset, nbytes, _SYNC_FILE_RANGE_WRITE)


def _find() -> Any:
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find()
