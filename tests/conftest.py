"""Settings for all tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A deadline for each example would make a busy machine look like a defect.
settings.register_profile("remerge", deadline=None)
settings.load_profile("remerge")


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring a model takes its whole process offline, and tests share a process."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
