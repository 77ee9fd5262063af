"""Two nodes of a real cluster, and what goes wrong with them: the bytes stay the local pool's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from remerge.cluster import shard_maker
from remerge.cluster.node import fingerprint, run_unit
from remerge.errors import NumericError, ToolError
from remerge.methods.ties import TiesPlan
from remerge.shards.units import TensorRecord, build_shards
from tests.cluster.models import make_family, make_model, ties_of
from tests.cluster.nodes import Cluster

T = TypeVar("T")
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore::FutureWarning")]

DRIVER = """
import sys
from pathlib import Path
from remerge.cluster import shard_maker
from tests.cluster.models import ties_of
try:
    plan = ties_of(Path(sys.argv[2]))
    shard_maker({"address": sys.argv[1], "cpus": 1})(plan, Path(sys.argv[2]) / "out", 1)
except KeyboardInterrupt:
    sys.exit(3)
"""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("family")
    make_family(root, layers=12, rows=4096)
    return root


@pytest.fixture(scope="module")
def local(family: Path) -> list[TensorRecord]:
    return build_shards(plan_of(family), family / "local", 1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One for all tests, since nodes take seconds to start; those that kill nodes come last."""
    with Cluster() as running:
        running.add()
        yield running


def plan_of(family: Path) -> TiesPlan:
    return ties_of(family)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def wait_for(what: str, condition: Callable[[], T], seconds: float = 60) -> T:
    """What the condition returns as soon as it is true of it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)
    return found


def driver(cluster: Cluster, family: Path, **settings: object) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, cluster.address, str(family)],
        cwd=root,
        stderr=subprocess.PIPE,
        **settings,  # type: ignore[call-overload]
    )


def test_a_driver_killed_and_started_again_redoes_no_finished_shard(
    cluster: Cluster, family: Path, local: list[TensorRecord]
) -> None:
    out = family / "out"
    first = driver(cluster, family)
    wait_for("a shard", lambda: len(list(out.glob("*.safetensors"))) >= 2)
    first.kill()
    first.communicate()
    wait_for("the end of its units", lambda: not any(n.workers() for n in cluster.nodes))
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}

    second = driver(cluster, family, start_new_session=True)
    wait_for("one more shard", lambda: len(list(out.glob("*.safetensors"))) > len(times))
    second.send_signal(signal.SIGINT)
    _, told = second.communicate()
    assert second.returncode == 3, told.decode()
    wait_for("an empty desk", lambda: not list(out.glob(".*")))
    wait_for("the end of its units", lambda: not any(n.workers() for n in cluster.nodes))

    assert driver(cluster, family).wait() == 0
    assert files(out) == files(family / "local")
    for path, modified in times.items():
        assert path.stat().st_mtime_ns == modified


def test_a_unit_that_runs_twice_at_once_leaves_one_whole_file(
    family: Path, local: list[TensorRecord]
) -> None:
    out = family / "twice"
    out.mkdir()
    reports = []

    def run() -> None:
        plan = plan_of(family)
        reports.append(run_unit(plan, 3, str(Path.cwd()), str(out), 1, fingerprint()))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.error for report in reports] == [None, None]
    assert [r.records for r in reports] == [tuple(local[3:4])] * 2
    expected = files(family / "local")
    assert files(out) == {n: expected[n] for n in sorted(expected) if "00004-of" in n}


def test_a_file_that_is_not_what_its_unit_reported_is_made_again(
    cluster: Cluster, family: Path, local: list[TensorRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    out = family / "damaged"

    def damage() -> None:
        victim = out / plan_of(family).shards[0].file
        wait_for("the first shard", victim.exists)
        with victim.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")

    thread = threading.Thread(target=damage)
    thread.start()
    assert shard_maker({"address": cluster.address, "cpus": 1})(plan_of(family), out, 1) == local
    thread.join()
    again = shard_maker({"address": cluster.address, "cpus": 1})(plan_of(family), out, 1)
    assert again == local and files(out) == files(family / "local")


def test_a_bad_number_is_one_line_with_the_node(cluster: Cluster, tmp_path: Path) -> None:
    make_family(tmp_path, layers=2, rows=8)
    path = make_model(tmp_path / "bad", 9, layers=2, rows=8) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2:] = b"\x00\x7e"
    (tmp_path / "three" / "model.safetensors").write_bytes(data)
    with pytest.raises(NumericError, match=r"node .*: three: tensor 'layers.1.weight' holds nan"):
        shard_maker({"address": cluster.address, "cpus": 1})(ties_of(tmp_path), tmp_path / "o", 1)


def test_an_address_where_nothing_listens_is_one_line(family: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"127\.0\.0\.1:1: nothing listens there"):
        shard_maker({"address": "127.0.0.1:1"})(plan_of(family), tmp_path / "out", 1)


def test_a_node_and_then_a_worker_killed_in_mid_unit_leave_the_same_bytes(
    cluster: Cluster, family: Path, local: list[TensorRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    out = family / "killed"

    def faults() -> None:
        wait_for("a shard", lambda: len(list(out.glob("*.safetensors"))) >= 2)
        wait_for("a unit on the second node", cluster.nodes[1].workers)
        cluster.nodes[1].kill()
        done = len(list(out.glob("*.safetensors")))
        wait_for("another shard", lambda: len(list(out.glob("*.safetensors"))) > done)
        # What the kernel does to a process when memory runs out.
        worker, *_ = wait_for("a unit on the first node", cluster.nodes[0].workers)
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    thread = threading.Thread(target=faults)
    thread.start()
    records = shard_maker({"address": cluster.address, "cpus": 1})(plan_of(family), out, 1)
    thread.join()
    assert records == local
    assert files(out) == files(family / "local")
    told = capfd.readouterr().err
    assert "12 units on 2 nodes, 0 finished before" in told
    # Either fault may fall between two units; that both do is all but impossible.
    assert "given out again" in told


def test_what_would_not_give_the_same_bytes_is_refused_before_work_starts(
    cluster: Cluster, family: Path, tmp_path: Path
) -> None:
    plan = plan_of(family)
    with pytest.raises(ToolError, match=r"no node of the cluster holds a unit of 2 CPUs"):
        shard_maker({"address": cluster.address, "cpus": 2})(plan, tmp_path / "a", 1)
    # Another version of this project on a node that joins.
    code = tmp_path / "code"
    source = Path(__file__).resolve().parents[2] / "src"
    subprocess.run(["cp", "-r", f"{source}", f"{code}"], check=True)
    with (code / "remerge/errors.py").open("a") as file:
        file.write("# changed\n")
    cluster.add(environment={"PYTHONPATH": str(code)})
    with pytest.raises(ToolError, match=r"node .*127\.0\.0\.3.* runs remerge [0-9a-f]{16} \(here"):
        shard_maker({"address": cluster.address, "cpus": 1})(plan, tmp_path / "b", 1)
    assert not list((tmp_path / "b").iterdir())
