"""One built clone for every row that needs the pipeline itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipeline.project import Project, clone, without_evaluation


@dataclass
class Built:
    """A built clone, its lock, and how to interrupt what runs in it."""

    project: Project
    lock: bytes

    @property
    def folder(self) -> Path:
        return self.project.folder

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command in a session of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.project.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def running(self, text: str = "") -> list[int]:
        """Processes that work in the clone and have `text` in their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    inside = (entry / "cwd").resolve().is_relative_to(self.folder)
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    if inside and state != "Z" and text in (entry / "cmdline").read_text():
                        found.append(int(entry.name))
        return found

    def wait_for(self, text: str, command: subprocess.Popen[str]) -> None:
        """Wait until a process of that name runs in the clone, or the command has ended."""
        while not self.running(text) and command.poll() is None:
            time.sleep(0.02)

    def kill_all(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to everything that works in the clone."""
        for process in self.running():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def read_lock(self) -> bytes:
        return self.project.read("dvc.lock")


@pytest.fixture(scope="session")
def clone_built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The embedded recipe with one format, small shards and no scores, built once."""
    project = without_evaluation(clone(tmp_path_factory.mktemp("faults") / "clone"))
    config = project.folder / "conf" / "config.yaml"
    config.write_text(config.read_text().replace("quantize: none", "quantize: gguf_f16"))
    recipe = project.folder / "conf" / "recipe" / "quick.yaml"
    recipe.write_text(recipe.read_text().replace("shard_bytes: 1000000", "shard_bytes: 200000"))
    project.run(sys.executable, "-m", "remerge.stages.compose")
    project.run("dvc", "repro")
    project.commit("built")
    return Built(project, project.read("dvc.lock"))


@pytest.fixture
def built(clone_built: Built) -> Built:
    """The clone as it was built."""
    clone_built.kill_all()
    project = clone_built.project
    project.run("git", "checkout", "-q", ".")
    project.run("git", "clean", "-fdq")
    shutil.rmtree(clone_built.folder / "scratch", ignore_errors=True)
    # A stage that was forced made its outputs anew beside objects that were in the cache already,
    # and DVC leaves such copies as they are unless it is told to link them again.
    project.run("dvc", "checkout", "-q", "--force", "--relink")
    return clone_built


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own; skips where none can be mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(folder: Path, megabytes: int) -> None:
    """Make room on a small disk."""
    options = f"remount,size={megabytes}m"
    subprocess.run(["mount", "-o", options, str(folder)], check=True)
