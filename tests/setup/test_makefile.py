"""The Makefile explains itself, and CI calls only what it has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def targets() -> set[str]:
    """Names that a person may give to make."""
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_make_alone_lists_every_target() -> None:
    listed = set(re.findall(r"^  make ([a-z-]+)", make().stdout, re.MULTILINE))
    assert listed == targets()
    assert {"setup", "repro", "test", "test-full", "lint"} <= listed


def test_every_target_is_phony() -> None:
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(" ".join(phony).split()) == targets()


def test_ci_calls_targets_that_exist() -> None:
    called = re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / ".ci/run").read_text())
    assert set(called) <= targets()
    assert {"lint", "repro", "verify", "test", "test-full"} <= set(called)


def test_ci_is_a_valid_script() -> None:
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)
    subprocess.run(["sh", "-n", "requirements/install.sh"], cwd=ROOT, check=True)
