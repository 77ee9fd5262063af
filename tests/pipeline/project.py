"""A clone of this project in a folder of its own, driven by the real DVC."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.pipeline.closure import SRC

ROOT = SRC.parent
_RAN = re.compile(r"Running stage '([^']+)'")


@dataclass
class Project:
    """A checkout with an environment; commands run in it."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, expect: int | None = 0, **env: str) -> str:
        """Output of a command, whose exit status must be `expect` (None: any)."""
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment() | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        if expect is not None and result.returncode != expect:
            raise AssertionError(
                f"{' '.join(command)}: status {result.returncode}\n{result.stdout}"
            )
        return result.stdout

    def environment(self) -> dict[str, str]:
        """This process's environment, with the clone's own code and nothing of the user's git."""
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "src"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "Test",
            "GIT_AUTHOR_EMAIL": "test@example.invalid",
            "GIT_COMMITTER_NAME": "Test",
            "GIT_COMMITTER_EMAIL": "test@example.invalid",
            **self.env,
        }

    def stages_run(self, *command: str, **env: str) -> list[str]:
        """Names of the stages that a dvc command executed, in order."""
        return _RAN.findall(self.run("dvc", *command, **env))

    def experiment(self, *overrides: str) -> list[str]:
        """Stages that `dvc exp run` executed with these overrides."""
        arguments = [part for override in overrides for part in ("-S", override)]
        return self.stages_run("exp", "run", *arguments)

    def commit(self, message: str) -> None:
        """Commit all changes."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", message)

    def read(self, path: str) -> bytes:
        """A file's bytes."""
        return (self.folder / path).read_bytes()


def clone(folder: Path) -> Project:
    """The working tree of this checkout, committed files and changes alike, as a new clone."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    project = Project(folder)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    project.commit("the working tree under test")
    return project


def without_evaluation(project: Project) -> Project:
    """Make the default recipe one that merges and neither quantises nor scores: data alone."""
    recipes = project.folder / "conf" / "recipe"
    text = (recipes / "tiny.yaml").read_text()
    (recipes / "quick.yaml").write_text(
        text.replace("  score: all\n", "").replace("  name: tiny\n", "  name: tiny\n  pins: tiny\n")
    )
    config = project.folder / "conf" / "config.yaml"
    text = config.read_text()
    config.write_text(
        text.replace("recipe: tiny", "recipe: quick").replace("quantize: default", "quantize: none")
    )
    (project.folder / "dvc.lock").unlink(missing_ok=True)
    project.run(sys.executable, "-m", "remerge.stages.compose")
    project.commit("merge only")
    return project
