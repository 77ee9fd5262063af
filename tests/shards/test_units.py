"""The bytes of a merge do not depend on how it is run, nor on how often it was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remerge.errors import NumericError, ToolError
from remerge.methods.ties import Donor, TiesPlan, TiesSettings, plan_ties
from remerge.shards import units
from remerge.shards.units import build_shards
from remerge.tensors.checkpoint import open_checkpoint
from tests.merge.families import LARGE_SHAPES, random_weights, write_model
from tests.merge.test_plans import write_adapter


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, three fine-tunes that share many equal differences, and an adapter."""
    folder = tmp_path_factory.mktemp("family")
    base = random_weights(0, ("F16",), LARGE_SHAPES)
    write_model(folder / "base", base)
    for seed, (name, dtype) in enumerate({"x": "F16", "y": "BF16", "z": "F32"}.items()):
        rng = np.random.default_rng(seed)
        tuned = {
            tensor: (dtype, (values + rng.standard_normal(values.shape) * 0.002).astype(np.float32))
            for tensor, (_, values) in base.items()
        }
        write_model(folder / name, tuned)
    write_adapter(folder / "adapter", rank=5)
    return folder


def results(
    family: Path, threads: int = 2, block: int = 512, shard_bytes: int = 10**9, **env: str
) -> dict[str, Any]:
    """What `build_family` prints, run in a process with `env` in its environment."""
    program = [sys.executable, "-m", "tests.merge.build_family", str(family)]
    done = subprocess.run(
        [*program, str(threads), str(block), str(shard_bytes)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected(family: Path) -> dict[str, Any]:
    return results(family)


@pytest.mark.parametrize(
    "how",
    [
        {"threads": 1, "block": 8},
        {"threads": 5, "block": 4096},
        {"threads": 3, "block": 64, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
    ],
)
def test_threads_and_blocks_change_no_byte(
    family: Path, expected: dict[str, Any], how: dict[str, Any]
) -> None:
    assert results(family, **how) == expected


def test_the_size_of_shards_changes_no_tensor(family: Path, expected: dict[str, Any]) -> None:
    cut = results(family, shard_bytes=5000)
    for name, result in expected.items():
        assert cut[name]["tensors"] == result["tensors"]
        assert cut[name]["id"] == result["id"]
        assert cut[name]["files"] != result["files"]


@pytest.mark.full
@pytest.mark.parametrize(
    "target",
    [
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_NAME": "generic", "NUMBA_OPT": "1"},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c"},
    ],
)
def test_the_processor_changes_no_byte(
    family: Path, expected: dict[str, Any], tmp_path: Path, target: dict[str, str]
) -> None:
    assert results(family, NUMBA_CACHE_DIR=str(tmp_path), block=256, **target) == expected


def plan_of(family: Path, shard_bytes: int = 600) -> TiesPlan:
    donors = [Donor(open_checkpoint(family / name), 0.33) for name in "xyz"]
    base = open_checkpoint(family / "base")
    return plan_ties(base, donors, TiesSettings(), dtype="F16", shard_bytes=shard_bytes)


def test_a_damaged_shard_is_made_again_and_the_others_are_kept(
    family: Path, tmp_path: Path
) -> None:
    plan = plan_of(family)
    records = build_shards(plan, tmp_path, 2)
    files = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert len(files) == len(plan.shards) > 3
    old = {path: path.stat().st_ino for path in files}
    first, second, third, *_ = (tmp_path / shard.file for shard in plan.shards)
    damaged = bytearray(files[first])
    damaged[-1] ^= 1
    first.write_bytes(damaged)
    second.rename(tmp_path / "aside")  # its inode is not given to another file
    third.with_name(f"{third.name}.done.json").write_text("[{}]")
    assert build_shards(plan, tmp_path, 2) == records
    assert {path: path.read_bytes() for path in files} == files
    redone = {path for path in files if path.stat().st_ino != old[path]}
    assert redone == {first, second, third}


def test_an_error_leaves_finished_shards_and_nothing_half_made(
    family: Path, tmp_path: Path
) -> None:
    plan = plan_of(family)
    last = plan.shards[-1].tensors[-1].name
    good = type(plan).compute

    class Failing(TiesPlan):
        def compute(self, tensor):  # type: ignore[no-untyped-def]
            if tensor.name == last:
                raise NumericError("as if a number were bad")
            return good(self, tensor)

    failing = Failing(**plan.__dict__)
    with pytest.raises(NumericError):
        build_shards(failing, tmp_path, 1)
    kept = {path.name for path in tmp_path.glob("*.safetensors")}
    assert kept == {shard.file for shard in plan.shards[:-1]}
    assert not list(tmp_path.glob(".*"))


def test_a_killed_merge_goes_on_where_it_was(family: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    plan = plan_of(family)
    records = build_shards(plan, whole, 2)
    program = (
        "import sys, time; from pathlib import Path; from tests.shards.test_units import plan_of;"
        "from remerge.shards import units; family, out = map(Path, sys.argv[1:]);"
        "old = units._compute\n"
        "def slow(*a):\n time.sleep(0.2)\n return old(*a)\n"
        "units._compute = slow; units.build_shards(plan_of(family), out, 1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(family), str(broken)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    deadline = time.monotonic() + 60
    while len(list(broken.glob("*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_ino for path in broken.glob("*.safetensors")}
    assert 2 <= len(done) < len(plan.shards)
    assert build_shards(plan, broken, 2) == records
    assert all(path.stat().st_ino == inode for path, inode in done.items())
    for shard in plan.shards:
        assert (broken / shard.file).read_bytes() == (whole / shard.file).read_bytes()
    assert not list(broken.glob(".*"))


def test_an_input_that_cannot_be_read_is_not_blamed_on_the_disk_written_to(tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "x", "y", "z")):
        write_model(tmp_path / name, random_weights(seed))
    plan = plan_of(tmp_path)
    gone = tmp_path / "y" / "model.safetensors"
    gone.rename(tmp_path / "elsewhere")
    with pytest.raises(ToolError) as caught:
        build_shards(plan, tmp_path / "out", 2)
    line = str(caught.value)
    assert f"reading {gone}: No such file or directory" in line
    assert "writing" not in line and "space" not in line and "finished shards are kept" in line


def test_a_folder_that_cannot_be_written_is_one_line(family: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ToolError, match=r"ties: writing .*file/out: Not a directory"):
        build_shards(plan_of(family), tmp_path / "file" / "out", 1)


def test_a_shard_that_cannot_be_flushed_stops_the_work(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of work that nothing can keep would follow."""
    plan = plan_of(family)
    computed: list[str] = []
    compute = units._compute

    def slow(*arguments):  # type: ignore[no-untyped-def]
        computed.append(arguments[2].name)
        time.sleep(0.1)
        return compute(*arguments)

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(units, "_compute", slow)
    monkeypatch.setattr(units.os, "fsync", fails)
    with pytest.raises(ToolError, match=r"writing .*Input/output error; correct that and run"):
        build_shards(plan, tmp_path, 1)
    assert len(computed) < sum(len(shard.tensors) for shard in plan.shards)
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob(".*"))


def test_a_slow_disk_lets_few_finished_shards_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one that waits is an open file, and pages that the machine cannot have back."""
    tensors = {f"t{i}": ("F16", np.zeros(8, np.float32)) for i in range(60)}
    for name in ("base", "one"):
        write_model(tmp_path / name, tensors)
    donor = Donor(open_checkpoint(tmp_path / "one"), 0.5, 1.0)
    plan = plan_ties(
        open_checkpoint(tmp_path / "base"), [donor], TiesSettings(), dtype="F16", shard_bytes=16
    )
    waiting: list[int] = []
    flush = os.fsync

    def slow(descriptor: int) -> None:
        waiting.append(len(list((tmp_path / "out").glob(".*.partial"))))
        time.sleep(0.02)
        flush(descriptor)

    monkeypatch.setattr(units.os, "fsync", slow)
    assert len(build_shards(plan, tmp_path / "out", 2)) == len(plan.shards) == 60
    # Those that wait, one more in the hands of each thread, and records on their way.
    assert max(waiting) <= units._UNFLUSHED + 6


def test_the_disk_is_asked_to_begin_on_every_byte(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    start = units.start_writeback

    def noted(descriptor: int, offset: int, nbytes: int) -> None:
        asked.append((offset, offset + nbytes))
        start(descriptor, offset, nbytes)

    monkeypatch.setattr(units, "start_writeback", noted)
    monkeypatch.setattr(units, "_WRITEBACK", 1 << 12)
    plan = plan_of(family, shard_bytes=10**9)
    (shard,) = plan.shards
    build_shards(plan, tmp_path, 1)
    reached = len(shard.header)
    for begin, end in sorted(asked):
        assert begin <= reached
        reached = max(reached, end)
    assert reached == shard.nbytes and len(asked) > len(shard.tensors)


def test_asking_the_disk_is_advice(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x")
        file.flush()
        units.start_writeback(file.fileno(), 0, 1)
        units.start_writeback(10**6, 0, 1)  # no such file: no error either
    assert (tmp_path / "file").read_bytes() == b"x"
