"""Markdown from values: untrusted names stay text in a card's paragraphs and tables.

>>> table(["model", "score"], [[text("a|b"), "70.0"]])
"""

from __future__ import annotations

from collections.abc import Sequence

from remerge.errors import printable


class Markdown(str):
    """Text that is already Markdown."""

    __slots__ = ()


_TO_ESCAPE = "\\`*_{}[]<>#|~!"


def text(value: object, limit: int = 400) -> Markdown:
    """Text that Markdown takes for text, on one line."""
    shown = printable(value, limit)
    return Markdown("".join(f"\\{c}" if c in _TO_ESCAPE else c for c in shown))


def code(value: object, limit: int = 400) -> Markdown:
    """Text as code; a backtick within becomes an apostrophe, a bar (a table's) a slash."""
    shown = printable(value, limit).replace("`", "'").replace("|", "/")
    return Markdown(f"`{shown}`")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> Markdown:
    """A table of Markdown cells; its first `texts` columns are text, the others numbers."""
    lines = [head, ["---" if i < texts else "---:" for i in range(len(head))], *rows]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def fence(lines_of_text: str) -> Markdown:
    """Text as a block of code."""
    lines = [printable(line, 400).replace("```", "'''") for line in lines_of_text.splitlines()]
    return Markdown("```text\n" + "\n".join(lines) + "\n```")
