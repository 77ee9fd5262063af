"""Markdown from values: names of strangers stay text in a card's paragraphs and tables.

>>> table(["model", "score"], [[text("a|b"), "70.0"]])
"""

from __future__ import annotations

from collections.abc import Sequence

from remerge.errors import printable

_TO_ESCAPE = "\\`*_{}[]<>#|~!"


def text(value: object, limit: int = 400) -> str:
    """Text that Markdown takes for text, on one line."""
    return "".join(f"\\{c}" if c in _TO_ESCAPE else c for c in printable(value, limit))


def code(value: object, limit: int = 400) -> str:
    """Text as code; a backtick within becomes an apostrophe, and a bar no end of a table's cell."""
    return f"`{printable(value, limit).replace('`', chr(39)).replace('|', '/')}`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose first `texts` columns are text, the others numbers."""
    lines = [head, ["---" if i < texts else "---:" for i in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fence(lines_of_text: str) -> str:
    """Text as a block of code."""
    lines = [printable(line, 400).replace("```", "'''") for line in lines_of_text.splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```"
