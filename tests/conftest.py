"""Settings for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from remerge.runtimes.offline import SWITCHES

# A deadline for each example would make a busy machine look like a defect.
# The same examples in every run: `make test` finds today what it finds on every other machine.
settings.register_profile("remerge", deadline=None, derandomize=True, database=None)
# Chosen by `make nightly`, with a seed that is printed.
settings.register_profile("random", deadline=None, max_examples=1000, database=None)
settings.load_profile("remerge")


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a test may ask a hub is not for the shell to decide that the tests are run from."""
    for switch in SWITCHES:
        monkeypatch.delenv(switch, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="session")
def mergekit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has mergekit, in an environment of its own from the registry."""
    folder = tmp_path_factory.mktemp("mergekit") / "env"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "mergekit==0.1.5", "torch==2.13.0"]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "bin" / "python"


#: Reasons to skip that are the machine's and that no set-up can change.
_MACHINE = (
    "a mount namespace needs root",
    "mounting a small disk needs root",
    "needs 35 GB of disk",
    "no arm64 emulation",
    "no mounts of our own here",
    "no network namespaces here",
    "the machine has too little memory",
    "this is not x86-64",
)


def _is_missing_oracle(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether CI skips something because a program is missing that its set-up should install."""
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"):
        return False
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return not reason.removeprefix("Skipped: ").startswith(_MACHINE)


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.outcome = "failed"
    report.longrepr = f"skipped in CI, where nothing may be missing: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skipped oracle fail in CI: without it the test proves nothing."""
    report = yield
    if _is_missing_oracle(report):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for modules that skip as a whole."""
    report = yield
    if _is_missing_oracle(report):
        _fail(report)
    return report
