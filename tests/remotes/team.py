"""A team of clones of one small pipeline: real git, real DVC, the real command for every merge.

The pipeline has the stages of the real one, but for the bake, over models of a few kilobytes, so
that what is tested here is how the work is shared.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.proof.models import llama, save

ROOT = Path(__file__).parents[2]
SOURCES = ("base", "first", "second")
OUTPUTS = ("merged/p1", "merged/p2", "merged/final")
_REMERGE = "python -m remerge.cli"
_WRITE = "--shard-size 8000 --scratch scratch --threads 1"


def pipeline() -> dict:
    """The content of `dvc.yaml`."""
    stages: dict[str, dict] = {
        "fetch": {
            "foreach": list(SOURCES),
            "do": {
                "cmd": "python fetch.py ${item}",
                "deps": ["sources/${item}"],
                "outs": ["models/${item}"],
            },
        }
    }
    for part, donors in (("p1", ("first", "second")), ("p2", ("second", "first"))):
        named = " ".join(f"models/{d}:${{ties.density}}:{w}" for w, d in enumerate(donors, 1))
        stages[f"ties_{part}"] = {
            "cmd": f"{_REMERGE} ties models/base {named} --out merged/{part} {_WRITE}",
            "params": ["ties"],
            "deps": [f"models/{name}" for name in ("base", *donors)],
            "outs": [f"merged/{part}"],
        }
    stages["gradient"] = {
        "cmd": f"{_REMERGE} gradient merged/p1 merged/p2 0 1 --out merged/final {_WRITE}",
        "deps": ["merged/p1", "merged/p2"],
        "outs": ["merged/final"],
    }
    stages["quantize_eval"] = {
        "foreach": ["p1", "final"],
        "do": {
            "cmd": f"{_REMERGE} id --json merged/${{item}} > id-${{item}}.json",
            "deps": ["merged/${item}"],
            "outs": ["id-${item}.json"],
        },
    }
    stages["collect"] = {
        "cmd": "cat id-p1.json id-final.json > collected.json",
        "deps": ["id-p1.json", "id-final.json"],
        "outs": ["collected.json"],
    }
    stages["report"] = {
        "cmd": "cp collected.json report.txt",
        "deps": ["collected.json"],
        "outs": ["report.txt"],
    }
    return {"stages": stages}


@dataclass(frozen=True)
class Clone:
    """One person's clone; `runs` counts the stages that ran in it."""

    root: Path
    home: Path

    def variables(self) -> dict[str, str]:
        """No settings of this machine's user; a `python` in front that writes down stage runs."""
        programs = self.home / "bin"
        if not programs.exists():
            programs.mkdir(parents=True)
            wrapper = programs / "python"
            wrapper.write_text(
                f'#!/bin/sh\necho "$*" >> {self.home}/runs\nexec {sys.executable} "$@"\n'
            )
            wrapper.chmod(0o755)
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        return kept | {
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": str(self.home),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.home / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(self.home / "dvc"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.home / "dvc"),
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command, whatever becomes of it."""
        process = self.start(*command)
        try:
            out, err = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def do(self, *command: str) -> str:
        """A command that must end with status 0."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def dvc(self, *arguments: str) -> str:
        """`dvc …`, which must end with status 0."""
        return self.do("dvc", *arguments)

    def git(self, *arguments: str) -> str:
        """`git …`, which must end with status 0."""
        return self.do("git", *arguments)

    def runs(self) -> list[str]:
        """Stages that ran in this clone since it was made, or since the last call."""
        path = self.home / "runs"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split()[2] if "remerge.cli" in line else "fetch" for line in lines]

    def use(self, remote: dict[str, str]) -> None:
        """Set up the team's remote in this clone."""
        options = dict(remote)
        self.dvc("remote", "add", "--force", "--default", "team", options.pop("url"))
        for name, value in options.items():
            self.dvc("remote", "modify", "--local", "team", name, value)
        self.dvc("remote", "modify", "team", "verify", "true")

    def digests(self, *folders: str) -> dict[str, bytes]:
        """The bytes of every file in the given outputs that is there."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for folder in folders or OUTPUTS
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file()
        }


def new_project(root: Path, home: Path) -> Clone:
    """The pipeline under git, not yet built."""
    for number, name in enumerate(SOURCES):
        save(root / "sources" / name, llama(number))
    (root / "fetch.py").write_text(
        "import shutil, sys\nshutil.copytree(f'sources/{sys.argv[1]}', f'models/{sys.argv[1]}')\n"
    )
    (root / "params.yaml").write_text(yaml.safe_dump({"ties": {"density": 0.5}}))
    (root / "dvc.yaml").write_text(yaml.safe_dump(pipeline()))
    made = ("/models/", "/merged/", "/scratch/", "/id-*", "/collected.json", "/report.txt")
    (root / ".gitignore").write_text("".join(f"{path}\n" for path in made))
    clone = Clone(root, home)
    clone.git("init", "--quiet", "--initial-branch=main")
    clone.dvc("init", "--quiet")
    clone.dvc("config", "cache.type", "hardlink,copy")
    clone.git("add", "--all")
    clone.git("commit", "--quiet", "--message=a pipeline")
    return clone


def clone_of(clone: Clone, root: Path, home: Path) -> Clone:
    """Another person's clone of what the first has committed, without a cache."""
    subprocess.run(["git", "clone", "--quiet", str(clone.root), str(root)], check=True)
    return Clone(root, home)


def copy_of(clone: Clone, root: Path) -> Clone:
    """A built project with its cache, copied: as if one had built it oneself."""
    shutil.copytree(clone.root, root / "project", symlinks=True)
    made = Clone(root / "project", root / "home")
    made.dvc("checkout", "--quiet", "--relink")
    return made
