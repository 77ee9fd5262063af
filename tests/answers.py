"""What a command answered on standard error, without what it said while it worked."""

from __future__ import annotations


def answered(said: str) -> str:
    """The lines of `said` but those of `announce`, which depend on how long something takes."""
    return "".join(
        line for line in said.splitlines(keepends=True) if not line.rstrip().endswith(" …")
    )
