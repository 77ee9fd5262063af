"""Gather the pages of the documentation site in build/docs: python docs/site.py, then mkdocs build.

Pages lie in docs/ and at the top of the repository and link to one another and to the code. On the
site they lie in one folder, so links between pages are made to fit, and what links to a file of the
repository becomes its name.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "docs"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def pages() -> dict[Path, Path]:
    """Every page of the repository, by its place on the site."""
    found = {path: path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    # README.md would be the index of its folder, which docs/index.md is.
    return found | {
        path: Path(path.name.replace("README", "overview")) for path in ROOT.glob("*.md")
    }


def fit_links(text: str, page: Path, places: dict[Path, Path]) -> str:
    """The text of a page with links that hold on the site."""

    def fit(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (page.parent / target).resolve()
        if path in places:
            there = os.path.relpath(places[path], places[page].parent)
            return f"[{words}]({there}{anchor})"
        return words if "`" in words else f"`{path.relative_to(ROOT)}`"

    return LINK.sub(fit, text)


def main() -> None:
    """Write the pages and the pictures beside them."""
    shutil.rmtree(OUT, ignore_errors=True)
    places = pages()
    for page, place in places.items():
        target = OUT / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(fit_links(page.read_text(), page, places))
    for picture in (ROOT / "docs").glob("*.svg"):
        shutil.copyfile(picture, OUT / picture.name)


if __name__ == "__main__":
    main()
