"""Nodes that would not make the same bytes, and nodes that cannot even say so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from remerge.cluster import shard_maker
from remerge.cluster.connection import RAY
from remerge.errors import ToolError
from tests.cluster.models import make_family, ties_of
from tests.cluster.nodes import Cluster

ROOT = Path(__file__).resolve().parents[2]
full = pytest.mark.full
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )


def test_a_missing_ray_is_a_line_with_its_extra_and_the_version_that_is_locked() -> None:
    program = """
import sys
sys.modules["ray"] = None
from remerge.errors import ToolError
from remerge.recipes.schema import Execution
from remerge.stages.running import execution
try:
    execution(Execution(backend="ray"))
except ToolError as error:
    print(error)
"""
    told = run(program).stdout
    assert "it is the extra `ray`" in told and "make setup-dev" in told, told
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (declared,) = map(Requirement, project["optional-dependencies"]["ray"])
    assert declared.specifier.contains(RAY.partition("==")[2]) and f"pip install {RAY}" in told
    assert re.search(
        rf"^{re.escape(RAY)} ", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE
    )
    assert f"pip install {RAY}" in (ROOT / "docs" / "scale.md").read_text()


def test_local_execution_imports_nothing_of_ray(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from remerge.recipes.schema import Execution
from remerge.stages.running import execution
from tests.faults.made import family, merge
assert execution(Execution(backend="local", downloads=2)) == {{}}
base, donors = family(Path({str(tmp_path)!r}))
merge(base, donors, Path({str(tmp_path / "out")!r}))
print([name for name in sys.modules if name.partition(".")[0] == "ray" or "cluster" in name])
"""
    result = run(program)
    assert result.stdout == "[]\n", result.stderr


@pytest.fixture
def family(tmp_path: Path) -> Path:
    make_family(tmp_path / "family", layers=2, rows=8)
    return tmp_path / "family"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


def refused(cluster: Cluster, family: Path) -> str:
    """The line of a merge that is not begun."""
    out = family / "out"
    with pytest.raises(ToolError) as caught:
        shard_maker({"address": cluster.address, "cpus": 1})(ties_of(family), out, 1)
    assert not list(out.iterdir())
    line = str(caught.value)
    assert line.isprintable() and "Traceback" not in line
    return line


@full
def test_another_numba_is_refused_by_the_nodes_name(
    cluster: Cluster, family: Path, tmp_path: Path
) -> None:
    """The node's Python finds the description of another version first."""
    other = tmp_path / "other" / "numba-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numba\nVersion: 0.1\n")
    cluster.add(environment={"PYTHONPATH": f"{other.parent}{os.pathsep}{ROOT / 'src'}"})
    line = refused(cluster, family)
    assert "127.0.0.2" in line and "runs numba 0.1 (here " in line


@full
def test_a_node_in_a_mount_namespace_of_its_own_is_refused_by_name(
    cluster: Cluster, family: Path
) -> None:
    hide = f'mount -t tmpfs tmpfs \'{family}\' && exec "$0" "$@"'
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("a mount namespace needs root")
    cluster.add(prefix=("unshare", "--mount", "sh", "-c", hide))
    line = refused(cluster, family)
    assert "127.0.0.2" in line and "does not see the same files" in line


@full
def test_a_node_without_memory_even_for_the_look_is_a_line(family: Path) -> None:
    """Ray stops what runs on a node that uses more than a share of its memory: here any."""
    low = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "20"}
    with Cluster(environment=low) as cluster:
        line = refused(cluster, family)
    assert line.startswith("node ")
    assert "does not answer when it is looked at: its node ran out of memory" in line
