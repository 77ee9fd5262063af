"""Rows 41 to 44: much of everything; memory stays bounded and no handle runs out."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.layout import OutputTensor, index_of, plan_shards
from tests.faults.made import ties_plan
from tests.faults.rows import fault

pytestmark = pytest.mark.full
MERGE = """
import resource, sys, threading, time
from pathlib import Path
from tests.faults.made import merge
from tests.faults.test_load import _anonymous
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
before, most, done = _anonymous(), 0, threading.Event()
def watch():
    global most
    while not done.wait(0.005):
        most = max(most, _anonymous())
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
began = time.monotonic()
base, *donors = [Path(p) for p in sys.argv[3:]]
merge(base, donors, Path(sys.argv[1]), shard_bytes=int(sys.argv[2]))
seconds = time.monotonic() - began
done.set()
watcher.join()
print(seconds, max(most - before, 0))
"""


@dataclass(frozen=True)
class Cost:
    """Seconds that a merge took, and anonymous bytes that it held beyond its modules."""

    seconds: float
    anonymous: int


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


def cost(
    tmp_path: Path, base: Path, donors: list[Path], out: str, shard_bytes: int = 10**9
) -> Cost:
    """Merge in a process with 256 file handles and two threads."""
    from tests.faults.test_interruptions import apart

    result = apart(MERGE, tmp_path, out, str(shard_bytes), str(base), *map(str, donors))
    assert result.returncode == 0, result.stderr
    seconds, anonymous = result.stdout.split()
    print(f"{out}: {float(seconds):.2f} s, {int(anonymous) / 1e6:.0f} MB")
    return Cost(float(seconds), int(anonymous))


@fault(
    41,
    "a merge of 64 donors (by the library: a part of a recipe has eight places)",
    sees="a bar; time grows with the number of donors, memory hardly does",
    then="runs nothing",
)
def test_sixty_four_donors_merge_with_few_handles(tmp_path: Path) -> None:
    shapes = {"model.embed_tokens.weight": (4000, 1000), "lm_head.weight": (4000, 1000)}
    base = sparse(tmp_path / "base", shapes)
    donors = [sparse(tmp_path / f"d{i}", shapes) for i in range(64)]
    few = cost(tmp_path, base, donors[:8], "of 8")
    many = cost(tmp_path, base, donors, "of 64")
    assert len(open_checkpoint(tmp_path / "of 64").tensors) == 2
    # 56 donors more of 16 MB each: held whole in float32 they would be 1.8 GB.
    assert many.anonymous - few.anonymous < 150_000_000


@fault(
    42,
    "a checkpoint of 20,000 tensors",
    sees="a bar; time and memory in proportion to the tensors",
    then="runs nothing",
)
def test_twenty_thousand_tensors_merge_in_proportion(tmp_path: Path) -> None:
    costs = {}
    for count in (5_000, 20_000):
        shapes = {f"model.layers.{i // 100}.t{i % 100}.weight": (16,) for i in range(count)}
        folders = [sparse(tmp_path / f"{name}{count}", shapes) for name in ("base", "one", "two")]
        costs[count] = cost(tmp_path, folders[0], folders[1:], f"of {count}")
        assert len(open_checkpoint(tmp_path / f"of {count}").tensors) == count
    assert costs[20_000].anonymous < 6 * costs[5_000].anonymous
    assert costs[20_000].anonymous < 20_000 * 20_000  # 20 kB a tensor


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
    for chunk in plan.compute(plan.shards[0].tensors[0]):
        assert chunk is not None
        written += chunk.nbytes
        highest = max(highest, _anonymous())
    assert written == 3_000_000_000
    assert highest - before < 200_000_000


def _anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@fault(
    44,
    "2,000 shards of 1 MB, read and written",
    sees="a bar; 256 file handles are enough",
    then="runs nothing",
)
def test_two_thousand_shards_need_few_handles(tmp_path: Path) -> None:
    shapes = {f"model.layers.{i}.weight": (500_000,) for i in range(2000)}
    folders = [sparse(tmp_path / name, shapes, 10**6) for name in ("base", "one")]
    assert len(list(folders[0].glob("*.safetensors"))) == 2000
    try:
        spent = cost(tmp_path, folders[0], folders[1:], "out", shard_bytes=10**6)
        written = list((tmp_path / "out").glob("*.safetensors"))
        assert len(written) == 2000
        assert {path.stat().st_size // 1000 for path in written} == {1000}
        assert len(open_checkpoint(tmp_path / "out").tensors) == 2000
        assert spent.anonymous < 200_000_000
    finally:  # two gigabytes
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
