"""Compiled arithmetic, defined to the bit.

Every kernel is ordinary Python compiled by numba without fast-math: IEEE-754 operations in the
order written, never contracted into fused multiply-adds, never reassociated. Whatever the
processor, the thread count or the block size, the result is the one that the formula in the
docstring gives.

Legend of name endings: `_u8` raw little-endian bytes, `_f32`/`_f64` arrays of that type.
"""

from __future__ import annotations

import os

from remerge.errors import ToolError


def _require_compiler() -> None:
    """ToolError for settings under which numba compiles nothing, or does not even load."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0"):
        raise ToolError(
            f"NUMBA_DISABLE_JIT={os.environ['NUMBA_DISABLE_JIT']} turns off the compiler that all "
            "arithmetic here needs; unset it"
        )
    threads = os.environ.get("NUMBA_NUM_THREADS", "1").strip()
    if threads and (not threads.isdecimal() or not 1 <= int(threads) <= 1024):
        raise ToolError(
            f"NUMBA_NUM_THREADS={threads} is not a number of threads from 1 to 1024; unset it"
        )


# Before any of the modules here, the first thing of which is to load numba.
_require_compiler()
