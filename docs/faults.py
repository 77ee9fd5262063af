"""Make docs/faults.md from the tests: `python docs/faults.py [--check]`.

Each row stands beside the test that tries it (tests/faults), each sample beside the function that
writes it, the findings beside the fuzz targets; this only sets them in tables.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "faults.md"
_GROUPS = (
    (1, "Interruptions"),
    (16, "Damage"),
    (24, "Hostile files"),
    (32, "Wrong models"),
    (37, "Hostile parameters"),
    (41, "Load"),
    (50, "Forged models"),
    (60, "Recipes from others"),
    (70, "Readers"),
    (80, "Hostile hubs"),
    (90, "Others on the machine"),
    (100, "Tokenizers of formats"),
    (110, "Models that are run"),
    (120, "Vocabularies, orders and quantized models"),
)
_HEAD = """\
# Ways to fail and loads, each tried

Made from the tests by `python docs/faults.py`; a test compares. Every row is a test of the name in
its last column: `pytest tests/faults`, where the ones that take long are run by `make test-full`.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def rows() -> list[str]:
    """The tables of faults."""
    from tests.faults.rows import FAULTS

    for path in sorted((ROOT / "tests" / "faults").glob("test_*.py")):
        importlib.import_module(f"tests.faults.{path.stem}")
    lines = []
    titles = dict(_GROUPS)
    for number, fault in sorted(FAULTS.items()):
        if number in titles:
            lines += ["", f"## {titles[number]}", ""]
            lines += ["| | what happens | what the user sees | lost | the next run | test |"]
            lines += ["|---:|---|---|---|---|---|"]
        path, _, name = fault.test.partition("::")
        cells = [fault.happens, fault.sees, fault.lost, fault.then, f"`{Path(path).name}::{name}`"]
        lines.append(f"| {number} | " + " | ".join(map(_cell, cells)) + " |")
    return lines


def samples() -> list[str]:
    """What each hostile sample tries."""
    from tests.faults.samples import every_sample, tries

    lines = ["", "## Samples", "", "Written by `python -m tests.faults.samples FOLDER`.", ""]
    lines += ["| sample | what it tries |", "|---|---|"]
    for kind, table in sorted(every_sample().items()):
        lines += [f"| {kind}/{name} | {_cell(tries(write))} |" for name, write in table.items()]
    return lines


def fuzzing() -> list[str]:
    """Runs by target, and what was found."""
    from fuzz.targets import FINDINGS, TARGETS

    counts = json.loads((ROOT / "fuzz" / "runs.json").read_text())
    lines = ["", "## Fuzzing", ""]
    lines += [
        "The readers of untrusted bytes under a coverage-guided fuzzer (`make fuzz`), and under"
    ]
    lines += ["hypothesis in `make test`. Anything but a result or one line of error is a finding:"]
    lines += [
        "one in the list is the fuzzer's where that is said, the others came up while the rows"
    ]
    lines += ["above and the hypothesis tests were written."]
    lines += ["", "| target | what it reads | runs so far |", "|---|---|---:|"]
    for name, target in TARGETS.items():
        what = " ".join((target.__doc__ or "").split())
        lines.append(f"| {name} | {_cell(what)} | {counts.get(name, 0):,} |")
    lines += ["", "| found in | what | now |", "|---|---|---|"]
    lines += [f"| {where} | {_cell(what)} | {_cell(now)} |" for where, what, now in FINDINGS]
    return lines


def page() -> str:
    """The whole page."""
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    return _HEAD + "\n".join([*rows(), *samples(), *fuzzing()]) + "\n"


def main() -> None:
    """The command line."""
    text = page()
    if "--check" in sys.argv[1:]:
        stale = not PATH.exists() or PATH.read_text() != text
        sys.exit(
            "error: docs/faults.md is out of date; run `python docs/faults.py`" if stale else 0
        )
    PATH.write_text(text)


if __name__ == "__main__":
    main()
