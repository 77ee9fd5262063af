"""The documentation agrees with itself and with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("embedded/*.md")]
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*?) *$", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text) for text in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in plain}


def links(page: Path) -> Iterator[str]:
    """Targets of a page's links within the repository."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    yield from (t for t in LINK.findall(text) if "://" not in t and not t.startswith("mailto:"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_picture_of_layers_is_that_of_the_code() -> None:
    code = "import runpy; print(runpy.run_path('docs/layers.py')['page'](), end='')"
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout == (ROOT / "docs/architecture.md").read_text(), "run make layers"


def test_every_page_is_on_the_map_and_the_site() -> None:
    on_map = {Path(target).name for target in links(ROOT / "docs/index.md")}
    text = re.sub(r"!!python/name:\S+", "''", (ROOT / "mkdocs.yml").read_text())
    parts = [part for entry in yaml.safe_load(text)["nav"] for part in entry.values()]
    on_site = {page for part in parts for page in ([part] if isinstance(part, str) else part)}
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert {page.name for page in pages if len(page.parts) == 1} - {"index.md"} <= on_map
    top = {path.name.replace("README", "overview") for path in ROOT.glob("*.md")}
    assert on_site == {str(page) for page in pages} | top


@pytest.mark.full
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "docs/site.py"], cwd=ROOT, check=True)
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "plan_ties" in (tmp_path / "api" / "index.html").read_text()
    assert "mermaid" in (tmp_path / "architecture" / "index.html").read_text()


def test_readme_begins_with_two_commands_and_a_table_of_twelve_rows() -> None:
    first = (ROOT / "README.md").read_text().partition("\n## ")[0]
    assert first.count("\n$ ") == 2
    table = first.partition("<!-- merge -->\n")[2].partition("<!-- /merge -->")[0]
    assert 2 < len(table.splitlines()) <= 2 + 12
