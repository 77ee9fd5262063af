"""The numbers that are told before units start, and how many are given out at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from remerge.cluster import shard_maker
from remerge.cluster.connection import Node
from remerge.cluster.estimate import duration, known_rate, note_rate, plan_text, seconds_ahead, size
from remerge.cluster.footprint import Footprint, footprint, input_files, inputs_by_tensor
from tests.cluster.models import make_family, ties_of
from tests.cluster.nodes import Cluster

GB = 10**9
NODES = [Node("1", "one", 3, 2 * GB, 1 * GB), Node("2", "two", 1, 2 * GB, 1 * GB)]
UNITS = [Footprint(4 * GB, 1 * GB)] * 8


def test_time_is_that_of_storage_or_of_the_cores() -> None:
    storage, cores = seconds_ahead(NODES, UNITS, None)
    assert storage == pytest.approx(32 / 4 + 8 / 2) and cores is None
    assert seconds_ahead(NODES, UNITS, 0.5 * GB)[1] == pytest.approx(40 / (0.5 * 4))
    # Two units occupy no more than two slots.
    assert seconds_ahead(NODES, UNITS[:2], 0.5 * GB)[1] == pytest.approx(10 / (0.5 * 2))
    assert seconds_ahead([Node("1", "one", 1)], [], None) == (0.0, None)


def test_the_plan_says_units_bytes_by_node_and_time() -> None:
    first, one, two, expected = plan_text("ties p1", NODES, UNITS, 3, 0.5 * GB).splitlines()
    assert first == ("ties p1: 8 units on 2 nodes, 3 finished before; 32 GB to read, 8 GB to write")
    assert one.split() == (
        "one: 3 at once, about 6 units, reads 24 GB (measured 2 GB/s), writes 6 GB (1 GB/s)".split()
    )
    assert "two: 1 at once, about 2 units, reads 8 GB" in two
    assert expected.strip() == "expected: 20 s (storage 12 s, cores 20 s)"
    assert "cores unknown until a first run" in plan_text("a", NODES, UNITS, 0, None)


def test_sizes_and_durations_are_for_people() -> None:
    assert [size(n) for n in (0, 999, 1500, 2.5e9, 7.31e12)] == [
        "0 B", "999 B", "1.5 kB", "2.5 GB", "7.31 TB",
    ]  # fmt: skip
    assert [duration(s) for s in (0.5, 12, 300, 11520)] == ["0.5 s", "12 s", "5 min", "3.2 h"]


def test_a_rate_is_remembered_by_kind_of_merge_and_a_broken_note_is_none(tmp_path: Path) -> None:
    make_family(tmp_path, layers=2, rows=8)
    plan = ties_of(tmp_path)
    assert known_rate(tmp_path, plan) is None
    note_rate(tmp_path, plan, 12.4)
    assert known_rate(tmp_path, plan) == 12
    for text in ("{", "[]", '{"TiesPlan": null}', ""):
        (tmp_path / "cluster-rates.json").write_text(text)
        assert known_rate(tmp_path, plan) is None
        note_rate(tmp_path, plan, 5)
        assert known_rate(tmp_path, plan) == 5


def test_a_units_footprint_is_what_its_tensors_take(tmp_path: Path) -> None:
    make_family(tmp_path, layers=6, rows=64)
    plan = ties_of(tmp_path, shard_bytes=1)
    inputs = inputs_by_tensor(plan)
    prints = [footprint(inputs, shard) for shard in plan.shards]
    assert {unit.read for unit in prints} == {4 * 64 * 1024 * 2}
    assert [unit.written for unit in prints] == [shard.nbytes for shard in plan.shards]
    files = input_files(inputs)
    assert files and all(Path(path).stat().st_size == count for path, count in files.items())


def test_a_merge_of_eight_donors_of_405b_is_planned_in_little_memory() -> None:
    """From the headers of nine times 191 files; how long it takes is told, and is a benchmark."""
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "benchmarks/cluster.py", "plan"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    row = result.stdout.splitlines()[-1]
    print(row)
    assert "405B, 191 shards, 8 donors: 7.31 TB in, 0.81 TB out" in row
    seconds, megabytes = re.findall(r"([\d.]+) s, (\d+) MB", row)[0]
    assert float(seconds) > 0 and int(megabytes) < 300


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_no_more_units_than_asked_for_are_given_out(tmp_path: Path) -> None:
    """Two nodes of two cores would take five; every unit notes that it runs, and who else does."""
    make_family(tmp_path, layers=12, rows=2048)
    plan = ties_of(tmp_path)
    most = 0
    with Cluster(cpus=2) as cluster:
        cluster.add(cpus=2)
        maker = shard_maker({"address": cluster.address, "in_flight": 1})
        out = tmp_path / "out"

        def watch(stop: threading.Event) -> None:
            nonlocal most
            while not stop.is_set():
                most = max(most, len(list(out.glob(".unit-*"))))

        stop = threading.Event()
        thread = threading.Thread(target=watch, args=(stop,))
        thread.start()
        maker(plan, out, 1)
        stop.set()
        thread.join()
    assert most == 1
