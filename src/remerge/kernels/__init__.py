"""Compiled arithmetic, defined to the bit.

Every kernel is ordinary Python compiled by numba without fast-math: IEEE-754 operations in the
order written, never contracted into fused multiply-adds, never reassociated. Whatever the
processor, the thread count or the block size, the result is the one that the formula in the
docstring gives.

Legend of name endings: `_u8` raw little-endian bytes, `_f32`/`_f64` arrays of that type.
"""

from __future__ import annotations

import os
from pathlib import Path

from remerge.errors import ToolError


def _require_compiler() -> None:
    """ToolError for settings under which numba compiles nothing, or code that is not ours."""
    # numba takes settings from this file of whatever folder it is started in, the place of its
    # cache among them, whose files are code: a downloaded folder must not have a say in that.
    if Path(".numba_config.yaml").exists():
        raise ToolError(
            ".numba_config.yaml in this folder would change how kernels are compiled; remove it, "
            "or run the command elsewhere"
        )
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


# Before numba is loaded. Every package whose modules import numba imports this one first.
_require_compiler()
