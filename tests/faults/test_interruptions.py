"""Rows 9 to 15: disks, memory and clocks fail, and the next run goes on from there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remerge.errors import ToolError
from remerge.methods.ties import TiesPlan
from remerge.shards.units import Chunks, build_shards
from remerge.tensors.layout import OutputTensor
from tests.faults.conftest import Built, enlarge, small_disk
from tests.faults.made import family, left_behind, merge, ties_plan
from tests.faults.rows import fault
from tests.pipeline.closure import SRC


class Broken(TiesPlan):
    """A merge that calls something when it comes to its last tensor."""

    def compute(self, tensor: OutputTensor) -> Chunks:
        if tensor.name == "lm_head.weight":
            HOOK[0]()
        return super().compute(tensor)


HOOK: list[Callable[[], object]] = [lambda: None]


def broken(plan: TiesPlan, hook: Callable[[], object]) -> Broken:
    HOOK[0] = hook
    return Broken(**{name: getattr(plan, name) for name in plan.__dataclass_fields__})


def fail() -> None:
    raise ToolError("the power is gone")


@fault(
    9,
    "power loss: files that were not flushed are gone, empty or cut",
    sees="nothing",
    then="makes those shards again that do not have the digests of their records",
)
def test_after_a_power_loss_only_what_was_flushed_is_believed(tmp_path: Path) -> None:
    base, donors = family(tmp_path)
    merge(base, donors, tmp_path / "whole")
    plan, work = ties_plan(base, donors), tmp_path / "work"
    with pytest.raises(ToolError):
        build_shards(broken(plan, fail), work, 1)
    finished = sorted(work.glob("*.safetensors"))
    assert len(finished) > 3
    finished[0].write_bytes(b"")
    finished[1].write_bytes(finished[1].read_bytes()[:-1])
    (work / f"{finished[2].name}.done.json").write_text('[{"na')
    (work / f".{plan.shards[-1].file}.1.partial").write_bytes(b"half")
    build_shards(plan, work, 2)
    for shard in plan.shards:
        assert (work / shard.file).read_bytes() == (tmp_path / "whole" / shard.file).read_bytes()
    assert not list(left_behind(work))


@fault(
    10,
    "the disk is full in the middle of a merge",
    sees="`error: ties: writing …: No space left on device; free some space and run it again: "
    "finished shards are kept`",
    then="makes the shards that are missing, and no other",
)
def test_a_full_disk_keeps_finished_shards_and_says_so(tmp_path: Path) -> None:
    base, donors = family(tmp_path)
    merge(base, donors, tmp_path / "whole")
    with small_disk(tmp_path / "disk", 1) as disk:
        plan, work = ties_plan(base, donors, shard_bytes=1), disk / "work"

        def fill() -> None:
            with (disk / "filler").open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()

        with pytest.raises(ToolError, match=r"No space left.*finished shards are kept"):
            build_shards(broken(plan, fill), work, 1)
        assert not list(left_behind(disk))
        kept = {path.name: path.stat().st_ino for path in work.glob("*.safetensors")}
        assert kept
        enlarge(disk, 4)
        build_shards(plan, work, 1)
        assert kept.items() <= {p.name: p.stat().st_ino for p in work.iterdir()}.items()
        names = [t.name for s in plan.shards for t in s.tensors]
        assert len(list(work.glob("*.safetensors"))) == len(names)


@fault(
    11,
    "the disk of the DVC cache is full while an output is moved there",
    sees="DVC's `ERROR: … No space left on device`",
    then="`dvc repro` moves it, to the same `dvc.lock`",
)
@pytest.mark.full
def test_a_full_cache_disk_fails_and_the_next_run_mends_it(built: Built, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        built.project.run("dvc", "cache", "dir", "--local", str(disk / "cache"))
        try:
            command = ("dvc", "repro", "-f", "-s", "gradient")
            out = built.project.run(*command, expect=None)
            assert "No space left" in out
            assert built.read_lock() == built.lock
            enlarge(disk, 200)
            built.project.run(*command)
            assert built.read_lock() == built.lock
        finally:
            (built.folder / ".dvc" / "config.local").unlink()


LARGE = """
import resource, sys
from pathlib import Path
from remerge.errors import RemergeError
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from tests.faults.made import merge
try:
    print(merge(Path("base"), [Path("one"), Path("two")], Path(sys.argv[2]))["model_id"])
except RemergeError as error:
    sys.exit(f"error: {error}")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def apart(program: str, folder: Path, *arguments: str, **env: str) -> Any:
    """A Python program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{SRC.parent}", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@fault(
    12,
    "address space limited to 1.5 GB, on tensors of a 13B model",
    sees="`error: ties: out of memory or address space; allow more, or use fewer threads "
    "(REMERGE_THREADS=1) …`: three models of 1.4 GB are mapped at once",
    then="makes the model under a larger limit",
)
@pytest.mark.full
def test_too_little_address_space_is_a_line_and_not_a_wrong_model(tmp_path: Path) -> None:
    from tests.faults.test_load import sparse

    for name in ("base", "one", "two"):
        sparse(tmp_path / name, {"a": (32000, 5120), "b": (13824, 5120)})
    limited = apart(LARGE, tmp_path, str(1_500_000_000), "out")
    assert limited.returncode == 1 and limited.stdout == ""
    assert limited.stderr.startswith("error: ties: out of memory or address space; allow more")
    assert limited.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() and not list(left_behind(tmp_path))
    free = apart(LARGE, tmp_path, "0", "out")
    assert free.returncode == 0, free.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert free.stdout.split()[0] == manifest["model_id"]


@fault(
    13,
    "two `dvc repro` at once",
    sees="the second waits, or DVC's `Unable to acquire lock`",
    then="runs nothing: one build is there",
)
@pytest.mark.full
def test_two_builds_at_once_give_one_build(built: Built) -> None:
    both = [built.start("dvc", "repro", "-f", "-s", "gradient") for _ in range(2)]
    outs = [command.communicate()[0] for command in both]
    assert any(command.returncode == 0 for command in both), outs
    for command, out in zip(both, outs, strict=True):
        refused = re.search("Unable to acquire lock|is busy, it is being blocked by:", out)
        assert command.returncode == 0 or refused, out
    assert built.read_lock() == built.lock
    assert built.project.stages_run("repro") == []


@fault(
    14,
    "a `dvc gc` between two builds",
    sees="nothing",
    then="runs nothing: what the workspace uses is kept",
)
@pytest.mark.full
def test_collecting_garbage_loses_nothing_that_is_in_use(built: Built) -> None:
    built.project.run("dvc", "gc", "-w", "-f")
    assert built.project.stages_run("repro") == []
    assert built.read_lock() == built.lock


@fault(
    15,
    "the clock is set back a year: every file comes from the future",
    sees="nothing",
    then="runs nothing: contents count, times do not",
)
@pytest.mark.full
def test_a_clock_set_back_changes_nothing(built: Built) -> None:
    if shutil.which("faketime") is None:
        pytest.skip("setting the clock back needs faketime")
    back = ("faketime", "-f", "-365d")
    year = built.project.run(*back, "date", "+%Y")
    assert int(year) < time.gmtime().tm_year
    out = built.project.run(*back, "dvc", "repro")
    assert "Running stage" not in out
    out = built.project.run(*back, "dvc", "repro", "-f", "-s", "gradient")
    assert "Running stage 'gradient'" in out
    assert built.read_lock() == built.lock
    # And the clock is right again: now a stage's output comes from long before its inputs.
    assert built.project.stages_run("repro") == []
    assert built.read_lock() == built.lock
