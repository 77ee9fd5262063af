"""docs/threat-model.md names the samples and commands that exist, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from remerge.cli import VERBS
from tests.faults.samples import every_sample

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()


def cells(heading: str, column: int) -> list[str]:
    """One column of the table under a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [row.strip("| ").split(" | ")[column] for row in rows[1:] if not row.startswith("|--")]


def quoted(cells: list[str]) -> list[str]:
    return [name for cell in cells for name in re.findall("`([^`]+)`", cell)]


def test_every_kind_of_sample_stands_in_the_threat_model() -> None:
    samples = every_sample()
    named = quoted(cells("Who may send what", 3))
    single = {name for name in named if "/" in name}
    assert {name for name in named if "/" not in name} == samples.keys()
    for name in single:
        kind, _, sample = name.partition("/")
        assert sample in samples[kind], name


def test_every_command_stands_in_the_threat_model() -> None:
    assert sorted(quoted(cells("What each command promises", 0))) == sorted(VERBS)


def test_the_security_policy_points_to_the_threat_model() -> None:
    policy = (ROOT / "SECURITY.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", policy):
        assert (ROOT / target).is_file(), target
    assert "docs/threat-model.md" in policy
