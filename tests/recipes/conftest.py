"""The tiny Llama of the formats' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quantize.conftest import save_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny float16 Llama."""
    return save_llama(tmp_path_factory.mktemp("tiny") / "llama")
