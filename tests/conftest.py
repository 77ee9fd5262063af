"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# A deadline for each example would make a busy machine look like a defect.
settings.register_profile("remerge", deadline=None)
settings.load_profile("remerge")
