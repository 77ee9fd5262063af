"""Checkpoints of made numbers, large enough that a unit of work can be met in the middle."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remerge.methods.ties import Donor, TiesPlan, TiesSettings, plan_ties
from remerge.shards.units import Chunks
from remerge.tensors.checkpoint import open_checkpoint
from remerge.tensors.json_files import write_json
from remerge.tensors.layout import OutputTensor, Shard, index_of, plan_shards
from remerge.tensors.safetensors import TensorInfo


def make_model(folder: Path, seed: int, *, layers: int = 8, rows: int = 512) -> Path:
    """`layers` matrices [rows, 1024] in float16, two to a file."""
    random = np.random.default_rng(seed)
    tensors = [OutputTensor(f"layers.{i}.weight", "F16", (rows, 1024)) for i in range(layers)]
    shards = plan_shards(tensors, 2 * tensors[0].nbytes)
    folder.mkdir(parents=True)
    for shard in shards:
        with (folder / shard.file).open("wb") as file:
            file.write(shard.header)
            for tensor in shard.tensors:
                values = random.standard_normal(tensor.size, np.float32) / 50
                file.write(values.astype("<f2").tobytes())
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json", index_of(shards))
    write_json(folder / "config.json", {"architectures": ["Made"]})
    return folder


def make_family(root: Path, **shape: int) -> None:
    """A base and three donors under `root`."""
    for seed, name in enumerate(("base", "one", "two", "three")):
        make_model(root / name, seed, **shape)


def ties_of(root: Path, shard_bytes: int = 1 << 20) -> TiesPlan:
    """The TIES merge of a family; paths as `root` gives them."""
    donors = [Donor(open_checkpoint(root / name), 0.4) for name in ("one", "two", "three")]
    return plan_ties(
        open_checkpoint(root / "base"),
        donors,
        TiesSettings(),
        dtype="F16",
        shard_bytes=shard_bytes,
        label="ties p1",
    )


@dataclass(frozen=True)
class Greedy:
    """A merge whose first attempt at its second shard takes more memory than there is to have."""

    plan: TiesPlan
    taking: Path
    nbytes: int

    @property
    def label(self) -> str:
        return self.plan.label

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.plan.shards

    def reads(self, tensor: OutputTensor) -> Sequence[TensorInfo]:
        return self.plan.reads(tensor)

    def compute(self, tensor: OutputTensor) -> Chunks:
        if tensor in self.shards[1].tensors and not self.taking.exists():
            self.taking.touch()
            taken = np.ones(self.nbytes, np.uint8)
            time.sleep(30)
            assert taken.all()
        return self.plan.compute(tensor)
