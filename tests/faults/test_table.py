"""docs/faults.md is what the tests say."""

from __future__ import annotations

import subprocess
import sys

from tests.pipeline.closure import SRC


def test_the_table_of_faults_is_made_from_the_tests() -> None:
    command = [sys.executable, "docs/faults.py", "--check"]
    result = subprocess.run(command, cwd=SRC.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
