"""Rows 41 to 44: much of everything; memory stays bounded and no handle runs out."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from remerge.shards.layout import OutputTensor, index_of, plan_shards
from remerge.tensors.checkpoint import open_checkpoint
from tests.faults.made import ties_plan
from tests.faults.rows import fault
from tests.proof.models import llama, save

pytestmark = pytest.mark.full
MERGE = """
import resource, sys, time
from pathlib import Path
from remerge.kernels.blocks import DEFAULT_BLOCK
from tests.faults.made import merge
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
began = time.monotonic()
merge(Path(sys.argv[1]), [Path(p) for p in sys.argv[3:]], Path(sys.argv[2]), shard_bytes=10**9)
status = Path("/proc/self/status").read_text()
print(time.monotonic() - began, status.split("VmHWM:")[1].split()[0])
"""


def sparse(folder: Path, shapes: dict[str, tuple[int, ...]], shard_bytes: int = 10**10) -> Path:
    """A checkpoint of zeros that takes no room: its files are holes behind their headers."""
    folder.mkdir(parents=True)
    shards = plan_shards([OutputTensor(n, "F16", s) for n, s in shapes.items()], shard_bytes)
    for shard in shards:
        (folder / shard.file).write_bytes(shard.header)
        os.truncate(folder / shard.file, shard.nbytes)
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_of(shards)))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def seconds_and_anonymous(tmp_path: Path, base: Path, donors: list[Path], out: str) -> float:
    """Merge in a process with 256 file handles; returns the time that it took."""
    from tests.faults.test_interruptions import apart

    result = apart(MERGE, tmp_path, str(base), out, *map(str, donors))
    assert result.returncode == 0, result.stderr
    return float(result.stdout.split()[0])


@fault(
    41,
    "a merge of 64 donors",
    sees="a bar; time grows with the number of donors",
    then="runs nothing",
)
def test_sixty_four_donors_merge_with_few_handles(tmp_path: Path) -> None:
    base = save(tmp_path / "base", llama(0))
    donors = [save(tmp_path / f"d{i}", llama(i)) for i in range(1, 65)]
    seconds_and_anonymous(tmp_path, base, donors, "out")
    assert len(open_checkpoint(tmp_path / "out").tensors) == len(llama(0))


@fault(
    42,
    "a checkpoint of 20,000 tensors",
    sees="a bar; seconds",
    then="runs nothing",
)
def test_twenty_thousand_tensors_merge_in_proportion(tmp_path: Path) -> None:
    shapes = {f"model.layers.{i // 100}.t{i % 100}.weight": (16,) for i in range(20_000)}
    folders = [sparse(tmp_path / name, shapes) for name in ("base", "one", "two")]
    began = time.monotonic()
    open_checkpoint(folders[0])
    assert time.monotonic() - began < 5
    assert seconds_and_anonymous(tmp_path, folders[0], folders[1:], "out") < 120
    assert len(open_checkpoint(tmp_path / "out").tensors) == 20_000


@fault(
    43,
    "a tensor of 3 GB",
    sees="a bar; anonymous memory stays at a few blocks a thread",
    then="runs nothing",
)
def test_a_tensor_of_three_gigabytes_is_streamed(tmp_path: Path) -> None:
    base = sparse(tmp_path / "base", {"big": (1_500_000, 1000)})
    donor = sparse(tmp_path / "donor", {"big": (1_500_000, 1000)})
    plan = ties_plan(base, [donor])
    written, before = 0, _anonymous()
    highest = before

    def emit(chunk: np.ndarray) -> None:
        nonlocal written, highest
        written += chunk.nbytes
        highest = max(highest, _anonymous())

    plan.compute(plan.shards[0].tensors[0], emit)
    assert written == 3_000_000_000
    assert highest - before < 200_000_000


def _anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@fault(
    44,
    "2,000 shards of 1 MB",
    sees="a bar; 256 file handles are enough",
    then="runs nothing",
)
def test_two_thousand_shards_need_few_handles(tmp_path: Path) -> None:
    shapes = {f"model.layers.{i}.weight": (500_000,) for i in range(2000)}
    folders = [sparse(tmp_path / name, shapes, 10**6) for name in ("base", "one")]
    assert len(list(folders[0].glob("*.safetensors"))) == 2000
    seconds_and_anonymous(tmp_path, folders[0], folders[1:], "out")
    assert len(open_checkpoint(tmp_path / "out").tensors) == 2000
