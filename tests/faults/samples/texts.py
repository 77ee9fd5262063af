"""Tokens and names that are more than text where they are shown."""

from __future__ import annotations

from pathlib import Path

from tests.faults.samples import Write, sample


def _text(name: str, what: str, text: str) -> Write:
    def write(path: Path) -> None:
        path.write_bytes(text.encode())

    write.__name__, write.__doc__ = name, what
    return sample("text")(write)


_text("clears_the_terminal", "Clears the terminal and rings.", "\x1b[2J\x07ok")
_text("title_of_the_terminal", "Sets the title of the terminal's window.", "\x1b]0;mine\x07")
_text("script", "Runs a script in a page.", "<script>alert(1)</script>")
_text("image", "Runs a script when an image is missing.", "<img src=x onerror=alert(1)>")
_text("attribute", "Ends an attribute and adds one.", "' onmouseover='alert(1)\" x=\"")
_text("comment", "Ends a comment.", "--><script>alert(1)</script><!--")
_text("reads_backwards", "Reads backwards.", "\u202etxt.exe")
_text("cell_of_a_table", "Ends a cell and a row of a table.", "|\n| a | b |")
_text("heading", "Begins a section.", "\n# heading\n")
_text("front_matter", "Ends the front matter of a model card.", "\n---\nlicense: mit\n---\n")
_text("link", "Is a link to elsewhere.", "[here](javascript:alert(1))")
