"""In CI a test that cannot ask its oracle fails; a machine's limits are no fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    "test_whole.py": "import pytest\npytest.importorskip('no_such_oracle')\n",
    "test_one.py": "import pytest\ndef test_it():\n    pytest.skip('no oracle')\n",
    "test_machine.py": "import pytest\ndef test_it():\n    pytest.skip('needs 35 GB of disk')\n",
    "test_fine.py": "def test_it():\n    pass\n",
}


def run(folder: Path, **variables: str) -> str:
    for name, text in {**MODULES, "conftest.py": (ROOT / "tests/conftest.py").read_text()}.items():
        (folder / name).write_text(text)
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | variables
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "--continue-on-collection-errors", str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "1 passed, 3 skipped"), ({"CI": "true"}, "1 failed, 1 passed, 1 skipped, 1 error")],
    ids=["by hand", "in CI"],
)
def test_missing_oracle_fails_in_ci(
    tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    assert expected in run(tmp_path, **variables)
