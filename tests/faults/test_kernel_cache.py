"""Row 93: what is kept of compiled kernels is code, and somebody else could have written it."""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.rows import fault

ROOT = Path(__file__).resolve().parents[2]


def poison(path: Path, mark: Path) -> None:
    """Put a pickle that runs a program into a file that is whole in every other way."""
    identity = path.read_bytes()[32:64]
    rest = identity + pickle.dumps(Program(f"touch {mark}"))
    path.write_bytes(hashlib.sha256(rest).digest() + rest)


class Program:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def by_another_process(cache: Path, home: Path) -> str:
    """Compile or load the kernel of this file in a process of its own; how it was had."""
    program = "import tests.kernels.test_compiled as t; print(t.from_cache())"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
             "NUMBA_CACHE_DIR": str(cache), "XDG_CACHE_HOME": str(home)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return run.stdout.strip()


@fault(
    93,
    "another user can write to the folder where compiled kernels are kept, or to one above it",
    sees="nothing: kernels are compiled into a private folder below ~/.cache",
    then="takes them from there",
)
@pytest.mark.parametrize("whose", ["ours", "everybody's", "everybody's parent", "a link's"])
def test_code_that_others_could_write_is_never_run(tmp_path: Path, whose: str) -> None:
    cache, home, mark = tmp_path / "above" / "cache", tmp_path / "home", tmp_path / "ran"
    cache.mkdir(parents=True)
    assert by_another_process(cache, home) == "False"
    assert by_another_process(cache, home) == "True"
    (kept,) = (path for path in cache.rglob("*half_and_one*") if path.is_file())
    poison(kept, mark)
    named = cache
    if whose == "everybody's":
        kept.parent.chmod(0o777)
    elif whose == "everybody's parent":
        cache.parent.chmod(0o777)
    elif whose == "a link's":
        (tmp_path / "link").symlink_to(cache)
        cache.chmod(0o777)
        named = tmp_path / "link"
    assert by_another_process(named, home) == "False"
    assert mark.exists() == (whose == "ours")  # else this would prove nothing
    if whose != "ours":
        assert by_another_process(named, home) == "True"
        assert [path for path in home.rglob("*half_and_one*") if path.is_file()]
        assert stat.S_IMODE((home / "remerge" / "kernels").parent.stat().st_mode) & 0o022 == 0


def test_without_a_private_folder_every_process_compiles(tmp_path: Path) -> None:
    cache, home = tmp_path / "cache", tmp_path / "home"
    for folder in (cache, home):
        folder.mkdir()
        folder.chmod(0o777)
    assert by_another_process(cache, home) == "False"
    assert by_another_process(cache, home) == "False"
    assert not [path for path in tmp_path.rglob("*half_and_one*") if path.is_file()]
