"""remerge from its wheel, in an environment without this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Installed:
    """Programs of an environment that the wheel is installed into."""

    programs: Path

    def say(self, folder: Path, *words: str, **variables: str) -> str:
        """What `python -m WORDS` prints in a folder; it must succeed."""
        command = [str(self.programs / "python"), "-m", *words]
        return self.run(folder, command, variables)

    def run(self, folder: Path, command: list[str], variables: Mapping[str, str] = {}) -> str:
        """What a command prints in a folder; it must succeed."""
        environment = {
            **os.environ,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            **variables,
        }
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


def install(folder: Path) -> Installed:
    """Build the wheel and install it; what it depends on is that of this environment."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", system_site_packages=False, with_pip=True)
    programs = folder / "env" / "bin"
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (here,) = Path(sys.prefix).glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{here}\n")
    command = [programs / "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel]
    subprocess.run([str(word) for word in command], check=True)
    return Installed(programs)
