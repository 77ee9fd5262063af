"""Settings for all tests."""

from __future__ import annotations

import subprocess
import sys
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
