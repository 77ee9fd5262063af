"""The wheel and the sdist: what they hold, and that the core alone merges, quantizes and checks."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from remerge.extras import EXTRAS

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "embedded" / "sources"
#: Packages that the core must not load: seconds of start-up, or an extra's.
HEAVY = {module for modules in EXTRAS.values() for module in modules}
CORE_VERBS = ("bake", "check", "gradient", "id", "quantize", "ties")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=900
    )


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Paths of the wheel and the sdist, built from what git tracks."""
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    listed = run("git", "ls-files", "src", "pyproject.toml", "README.md", "LICENSE").stdout
    for name in listed.splitlines():
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    build = "from setuptools import build_meta as b; b.build_{}('dist')"
    for kind in ("wheel", "sdist"):
        made = run(sys.executable, "-c", build.format(kind), cwd=tree)
        assert made.returncode == 0, made.stderr
    (wheel,), (sdist,) = (tree / "dist").glob("*.whl"), (tree / "dist").glob("*.tar.gz")
    return wheel, sdist


def test_wheel_installs_only_our_packages(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[0]) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith("METADATA"))
        head = HeaderParser().parsestr(archive.read(metadata).decode())
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"remerge", "hydra_plugins"}
    assert {"remerge/py.typed", "remerge/report/templates/page.html.j2"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert head["License-Expression"] == "Apache-2.0"
    assert not any("Do Not Upload" in line for line in head.get_all("Classifier", []))


def test_sdist_builds_the_same_wheel(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = distributions
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    made = run(sys.executable, "-c", build, cwd=tree)
    assert made.returncode == 0, made.stderr
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(tree / "dist" / wheel.name) as second:
        for name in first.namelist():
            assert first.read(name) == second.read(name), name


def test_extras_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert EXTRAS.keys() <= project["optional-dependencies"].keys()


def test_core_imports_no_package_of_an_extra() -> None:
    modules = ["remerge", "remerge.cli", *(f"remerge.commands.{verb}" for verb in CORE_VERBS)]
    loaded = f"print(*sorted({HEAVY!r} & sys.modules.keys()))"
    code = f"import sys, {', '.join(modules)}; {loaded}"
    done = run(sys.executable, "-c", code)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_core_imports_in_under_three_tenths_of_a_second() -> None:
    imports = "import time; t = time.perf_counter(); import remerge, remerge.cli; "
    seconds = [
        float(run(sys.executable, "-c", imports + "print(time.perf_counter() - t)").stdout)
        for _ in range(5)
    ]
    assert min(seconds) < 0.3


@pytest.mark.full
def test_core_alone_merges_and_quantizes(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """The wheel in an empty environment, with the versions of the lock and no extra."""
    locked = re.findall(
        r"^[A-Za-z0-9][^\\\n;]*", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE
    )
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(locked))
    run(sys.executable, "-m", "venv", tmp_path / "env")
    bin_ = tmp_path / "env" / "bin"
    installed = run(
        bin_ / "pip", "install", "-q", "--only-binary=:all:", "-c", constraints, distributions[0]
    )
    assert installed.returncode == 0, installed.stderr
    remerge = bin_ / "remerge"
    work = tmp_path / "work"
    work.mkdir()

    def succeed(*words: str | Path) -> str:
        done = run(remerge, *words, cwd=work)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "quantize" in succeed("--help")
    listed = run(bin_ / "pip", "list", cwd=work).stdout.lower()
    assert not re.search(r"^(torch|transformers|dvc|lm[-_]eval|hydra-core) ", listed, re.MULTILINE)
    first, second = SOURCES / "counting", SOURCES / "sorting"
    merged = succeed("ties", first, second, "--out", "merged").split()[0]
    assert succeed("id", "merged").split()[0] == merged
    succeed("gradient", "merged", second, "0", "1", "--out", "final")
    succeed("quantize", "final", "gguf_q8_0", "--out", "quantized")
    assert any((work / "quantized").rglob("*.gguf"))
    refused = run(remerge, "chat", "final", "--prompt", "a", cwd=work)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ") and "pip install 'remerge[" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
