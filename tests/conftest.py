"""Settings for all tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

from remerge.runtimes.offline import SWITCHES

# A deadline for each example would make a busy machine look like a defect.
settings.register_profile("remerge", deadline=None)
settings.load_profile("remerge")


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a test may ask a hub is not for the shell to decide that the tests are run from."""
    for switch in SWITCHES:
        monkeypatch.delenv(switch, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
