"""Every failure that a user can cause has a type here; its text is one line.

The line says what was expected, what was found, where, and what to do about it. The command and
the stages print it as ``error: …`` and exit with status 1; nobody who uses `remerge` ever has to
read a traceback to learn that a file is damaged.
"""

from __future__ import annotations


def printable(text: object, limit: int = 200) -> str:
    """`text` with control characters escaped and its length bounded, safe to show on a terminal.

    Names of files, tensors and tokens come from strangers: a raw escape sequence in one of them
    could rewrite what the user reads.
    """
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)
    )
    return shown if len(shown) <= limit else f"{shown[:limit]}… ({len(shown)} characters)"


class RemergeError(Exception):
    """Base of all errors that are reported as one line."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, limit=2000))


class CheckpointError(RemergeError):
    """A file or folder of weights is malformed, incomplete or of an unexpected shape."""


class SourceError(RemergeError):
    """A source is missing, not pinned, or differs from its pinned digest."""


class RecipeError(RemergeError):
    """A recipe or parameter is wrong: an unknown name, a value out of range, two of one thing."""


class NumericError(RemergeError):
    """A NaN or Inf in an input, or a finite result that the output type cannot hold."""


class ToolError(RemergeError):
    """A runtime, an extra or a service that the work needs is missing or failed."""


class SignatureError(RemergeError):
    """A signature, key or certificate cannot be used, or does not fit the model."""
