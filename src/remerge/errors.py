"""Every failure that a user can cause has a type here; its text is one line.

The line says what was expected, what was found, where, and what to do about it. The command and
the stages print it as ``error: …`` and exit with status 1; nobody who uses `remerge` ever has to
read a traceback to learn that a file is damaged.
"""

from __future__ import annotations

import os
import re

#: User and password of an address, with or without its scheme; tokens of the Hugging Face Hub.
_SECRETS = re.compile(
    r"""(?<=//)[^\s/@'"]{1,512}(?=@)|[^\s/@:'"(]{0,128}:[^\s/@'"]{1,512}(?=@)|hf_[A-Za-z0-9]{16,}"""
)
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
#: Beyond what is shown, so far that what is cut there cannot be the begin of a secret that is.
_BEYOND = 2048


def without_secrets(text: str) -> str:
    """`text` without passwords of addresses, tokens, and the token of this environment."""
    for variable in _TOKENS:
        token = os.environ.get(variable, "").strip()
        if len(token) >= 8:
            text = text.replace(token, "…")
    return _SECRETS.sub("…", text)


def printable(text: object, limit: int = 200) -> str:
    """`text` without secrets, control characters escaped, its length bounded: safe on a terminal.

    Names of files, tensors and tokens are untrusted: a raw escape sequence in one of them
    could rewrite what the user reads. Input may contain a password, and users paste messages into
    public reports.
    """
    whole = str(text)
    shown = without_secrets(whole[: limit + _BEYOND])
    if not shown.isprintable():
        shown = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown
        )
    return shown if len(shown) <= limit else f"{shown[:limit]}… ({len(whole)} characters)"


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


def line_of(error: Exception) -> str | None:
    """The line for an error that an input or the machine causes and no reader expects.

    Args:
        error: What ended a command or stage.

    Returns:
        The line, or None for an error that is a fault of this program.
    """
    if isinstance(error, RemergeError):
        return str(error)
    if isinstance(error, OSError):
        about = "" if error.filename is None else f"{error.filename}: "
        return printable(f"{about}{error.strerror or type(error).__name__}", 2000)
    if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)):
        return f"a text or a name is not UTF-8 ({error.reason})"
    if isinstance(error, ValueError) and "null byte" in str(error):
        return "a path holds a null byte"
    if isinstance(error, MemoryError):
        return "out of memory or address space"
    if isinstance(error, RecursionError):
        return "an input is nested too deep to be genuine"
    return None
