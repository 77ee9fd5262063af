"""What is kept of compiled code is checked before it is run, whatever happened to it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

from remerge.kernels import compiled
from tests.proof.models import flip_bit

SRC = Path(__file__).resolve().parents[2] / "src"


def half_and_one(values_f32, count):
    for i in range(count):
        values_f32[i] = values_f32[i] * np.float32(0.5) + np.float32(1)


def third(values_f32, count):
    for i in range(count):
        values_f32[i] = values_f32[i] / np.float32(3)


def from_cache(function: Callable[..., None] = half_and_one) -> bool:
    """Compile or load the function, check what it computes, and tell which it was."""
    made = compiled.kernel("void(float32[::1], int64)")(function)
    values, expected = np.arange(8, dtype=np.float32), np.arange(8, dtype=np.float32)
    made(values, 8)
    function(expected, 8)
    assert np.array_equal(values, expected)
    return bool(made._cache_hits)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of one kernel in a cache of its own."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    assert not from_cache()
    assert from_cache()
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_to_a_digest(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:32])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_kernel(path: Path) -> None:
    """Two processes that write at once, under a name that both took to be free."""
    aside = path.with_suffix(".aside")
    path.rename(aside)
    assert not from_cache(third)
    (other,) = path.parent.glob("*third*")
    other.replace(path)


@pytest.mark.parametrize(
    "damage", [cut, cut_to_a_digest, empty, zeroed, folder_in_its_place, of_another_kernel]
)
def test_a_damaged_file_is_compiled_again(kept: Path, damage: Callable[[Path], None]) -> None:
    damage(kept)
    assert not from_cache()
    if kept.is_dir():  # nothing can be kept there, and nothing needs to be
        kept.rmdir()
        assert not from_cache()
    assert from_cache()


def test_a_flipped_bit_anywhere_is_never_run(kept: Path) -> None:
    whole = kept.read_bytes()
    for position in range(0, len(whole), len(whole) // 40):
        flip_bit(kept, position)
        assert not from_cache(), position
        kept.write_bytes(whole)
    assert from_cache()


@pytest.mark.parametrize("package", ["numba", "llvmlite"])
def test_code_of_another_version_is_compiled_again(
    kept: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    with monkeypatch.context() as other:
        other.setattr(getattr(compiled, package), "__version__", "0.1")
        assert not from_cache()
        assert from_cache()
    assert not from_cache()


def test_code_is_compiled_again_when_another_file_of_its_room_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function that changes is inlined in the kernel, which stands in another file."""
    shutil.copytree(SRC, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    room = tmp_path / "src" / "remerge" / "kernels"
    (room / "apart.py").write_text(
        "from numba import njit\n@njit(inline='always')\ndef add(x):\n    return x + 1.0\n"
    )
    (room / "whole.py").write_text(
        "from remerge.kernels.apart import add\nfrom remerge.kernels.compiled import kernel\n"
        "@kernel('float64(float64)')\ndef twice(x):\n    return 2.0 * add(x)\n"
    )

    def run() -> str:
        program = "from remerge.kernels.whole import twice; print(twice(1.0))"
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "src"),
                 "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    assert run() == "4.0\n" and run() == "4.0\n"
    (room / "apart.py").write_text((room / "apart.py").read_text().replace("1.0", "3.0"))
    assert run() == "8.0\n"


def test_code_for_another_processor_stands_beside_ours(kept: Path) -> None:
    program = "import tests.kernels.test_compiled as t; assert not t.from_cache(), t.from_cache()"
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{SRC.parent}", **other,
             "NUMBA_CACHE_DIR": str(kept.parents[1])},
        check=True,
    )  # fmt: skip
    assert len(list(kept.parent.iterdir())) == 2
    assert from_cache()


def test_without_a_place_to_write_every_process_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "/proc/nowhere")
    monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    assert not from_cache() and not from_cache()


@pytest.mark.parametrize(
    ("setting", "says"),
    [("NUMBA_DISABLE_JIT=1", "unset it"), ("NUMBA_NUM_THREADS=0", "is not a number of threads"),
     ("NUMBA_NUM_THREADS=many", "is not a number of threads")],
)  # fmt: skip
@pytest.mark.parametrize(
    "command",
    [["remerge.stages.ties_p1"], ["remerge.stages.fetch", "base"],
     ["remerge.stages.quantize_eval", "gguf_f16"],
     ["remerge.cli", "diff", "one", "two"]],
)  # fmt: skip
def test_settings_under_which_nothing_compiles_are_told_in_a_line(
    command: list[str], setting: str, says: str
) -> None:
    name, _, value = setting.partition("=")
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=SRC.parent,
        env={**os.environ, "PYTHONPATH": str(SRC), name: value},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith(f"error: {setting} ") and says in result.stderr
    assert result.stderr.count("\n") == 1


def test_kernels_start_without_blas_and_leave_it_to_others() -> None:
    """Loading scipy's BLAS with the first kernel takes a third of a process's start."""
    program = """
import sys
import remerge.kernels.blocks
assert "scipy.linalg" not in sys.modules
import numba, numpy as np
product = numba.njit(lambda a, b: a @ b)(np.full((2, 3), 2.0), np.full((3, 2), 3.0))
assert (product == 18).all() and "scipy.linalg" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_settings_of_the_compiler_in_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".numba_config.yaml").write_text(f"cache_dir: {tmp_path}\n")
    for verb in (
        ["ties", "a", "b", "--out", "c"], ["bake", "a", "b", "--out", "c"], ["diff", "a", "b"],
        ["quantize", "a", "gguf_q4_0", "--out", "c"],
    ):  # fmt: skip
        run = subprocess.run(
            [sys.executable, "-P", "-m", "remerge.cli", *verb],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(SRC)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == 1, run
        assert run.stderr.startswith("error: .numba_config.yaml in this folder would change")
        assert len(run.stderr.splitlines()) == 1


def test_every_package_that_loads_numba_checks_its_settings_first() -> None:
    loads = re.compile(r"^(import|from) numba\b", re.MULTILINE)
    modules = [path for path in SRC.rglob("*.py") if loads.search(path.read_text())]
    assert modules
    for path in modules:
        packages = [parent / "__init__.py" for parent in path.parents]
        packages = [package for package in packages if package.is_relative_to(SRC / "remerge")]
        checks = ["import remerge.kernels" in package.read_text() for package in packages]
        assert path.is_relative_to(SRC / "remerge/kernels") or any(checks), path
