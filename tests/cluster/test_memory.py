"""A unit that takes more memory than its node has, stopped by Ray's own watch over memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remerge.cluster import shard_maker
from remerge.shards.units import build_shards
from tests.cluster.models import Greedy, make_family, ties_of
from tests.cluster.nodes import Cluster

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore::FutureWarning")]
TAKEN = 4_000_000_000


def memory() -> tuple[int, int]:
    """Bytes that the machine has, and that are free."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    table = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return table["MemTotal"], table["MemAvailable"]


def test_a_unit_that_runs_out_of_memory_is_given_out_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_family(tmp_path, layers=4, rows=512)
    plan = ties_of(tmp_path)
    local = build_shards(plan, tmp_path / "local", 1)
    total, free = memory()
    if free < 1.5 * TAKEN:
        pytest.skip("the machine has too little memory to run out of a part of it")
    watch = {
        "RAY_memory_usage_threshold": f"{(total - free + TAKEN / 2) / total:.3f}",
        "RAY_memory_monitor_refresh_ms": "50",
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
    }
    with Cluster(environment=watch) as cluster:
        greedy = Greedy(plan, tmp_path / "taking", TAKEN)
        records = shard_maker({"address": cluster.address})(greedy, tmp_path / "out", 1)
    assert greedy.taking.exists()
    told = capfd.readouterr().err
    assert "ran out of memory and Ray stopped it" in told and "given out again" in told
    assert records == local
    for path in (tmp_path / "local").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
