"""Small checkpoints for what needs no pipeline, and the merge that most rows try to break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from remerge.methods.ties import Donor, TiesPlan, TiesSettings, plan_ties
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import open_checkpoint
from tests.proof.models import llama, save

Tensors = dict[str, tuple[str, np.ndarray]]


def model(folder: Path, seed: int, shard_bytes: int = 10**9, **changed: np.ndarray) -> Path:
    """A small Llama; `changed` replaces tensors, whose dots are written as two underscores."""
    tensors = llama(seed)
    for name, values in changed.items():
        tensors[name.replace("__", ".")] = ("F16", values)
    return save(folder, tensors, shard_bytes)


def family(folder: Path, donors: int = 2) -> tuple[Path, list[Path]]:
    """A base and its donors."""
    return (
        model(folder / "base", 0),
        [model(folder / f"donor{i}", i) for i in range(1, donors + 1)],
    )


def ties_plan(
    base: Path, donors: list[Path], shard_bytes: int = 10_000, **options: Any
) -> TiesPlan:
    """The plan of a TIES merge of the folders."""
    density, weight = options.pop("density", 0.5), options.pop("weight", 1.0)
    return plan_ties(
        open_checkpoint(base),
        [Donor(open_checkpoint(d), density, weight) for d in donors],
        TiesSettings(**options),
        dtype="F16",
        shard_bytes=shard_bytes,
    )


def merge(base: Path, donors: list[Path], out: Path, **options: Any) -> dict[str, Any]:
    """Merge the folders into `out`; scratch lies beside it. Returns the manifest."""
    return build(
        ties_plan(base, donors, **options),
        out,
        companions=companions_of(base),
        scratch=out.parent / "scratch",
        threads=2,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def left_behind(folder: Path) -> Iterator[Path]:
    """Half-made files and folders anywhere below."""
    return folder.rglob("*.partial")


def edit_json(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
