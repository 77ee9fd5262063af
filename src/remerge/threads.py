"""The threads that compute: how many, and whether their arithmetic is the one that is promised."""

from __future__ import annotations

import os

import numpy as np

from remerge.errors import RecipeError, ToolError


def thread_count(requested: int | None = None) -> int:
    """`requested`, else `REMERGE_THREADS` or `NUMBA_NUM_THREADS`, else the cores we may run on."""
    if requested is not None:
        return _positive(str(requested), "threads")
    for variable in ("REMERGE_THREADS", "NUMBA_NUM_THREADS"):
        if os.environ.get(variable):
            return _positive(os.environ[variable], variable)
    return len(os.sched_getaffinity(0))


def require_ieee_arithmetic() -> None:
    """ToolError if this thread flushes subnormal numbers to zero or does not round to nearest.

    Both are switches of the processor that any library in the process may set, and that threads
    inherit from the one that starts them: the result would silently be other bytes.
    """
    one, smallest = np.float32(1), np.float32(2.0**-149)
    half_step = np.float32(2.0**-24)
    nearest = one + half_step == one and one + np.float32(1.5) * half_step > one
    if smallest * one == 0 or not nearest:
        raise ToolError(
            "another library of this process has set the processor to flush subnormal numbers to "
            "zero or to round otherwise; results would differ: use a process without it (for torch,"
            " set_flush_denormal(False))"
        )


def _positive(text: str, what: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= 1024:
        raise RecipeError(f"{what}={text!r} is not a number of threads from 1 to 1024")
    return int(text)
