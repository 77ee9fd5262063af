"""From a hub to a merged model at the shapes of 13B, with few layers and all the awkwardness."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from remerge.files import free_bytes
from remerge.pins.pin import pin_files
from remerge.tensors.checkpoint import open_checkpoint, read_config, read_f32
from remerge.tensors.json_files import read_json
from tests.kernels import reference
from tests.sources.hub_server import HubServer
from tests.sources.large_family import Awkward, write_adapter, write_model
from tests.sources.made_params import write_params

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 1
STRAY = "4bit-128g.safetensors"
FAMILY = {
    "base": Awkward(0, inv_freq=True),
    "chronos": Awkward(1, added_tokens=True),
    "hermes": Awkward(2, dtype=torch.bfloat16, rows=32032, config={"pad_token_id": 0}),
    "legerdemain": Awkward(3, dtype=torch.float32, inv_freq=True, stray=True),
    "spring_dragon": Awkward(4, inv_freq=True, added_tokens=True, config={"an_extra_key": 1}),
}
LORAS = {"hermes": ("kimiko", ""), "legerdemain": ("limarp", "checkpoint-100")}


def recipe_text() -> str:
    lines = ["sources:"]
    for name in FAMILY:
        lines += [
            f"  {name}:",
            "    kind: model",
            f"    repo: made/{name}",
            f"    out: models/{name}",
        ]
        if name == "base":
            lines.append("    config: {max_position_embeddings: 4096}")
    for name, subfolder in LORAS.values():
        lines += [f"  {name}:", "    kind: adapter", f"    repo: made/{name}"]
        lines += [f"    out: adapters/{name}", f"    subfolder: '{subfolder}'"]
    return "\n".join(lines) + "\n"


def params(sources: dict[str, object]) -> dict[str, object]:
    loras = {
        donor: {"model": f"models/{donor}", "adapter": f"adapters/{name}", "out": f"baked/{donor}"}
        for donor, (name, _) in LORAS.items()
    }
    empty = {"name": None, "path": "unused", "density": None, "weight": 1.0, "vocabulary": None}

    def part(*donors: tuple[str, str, str | None]) -> dict[str, object]:
        places = {f"d{i}": empty for i in range(1, 9)}
        for i, (name, path, vocabulary) in enumerate(donors, start=1):
            places[f"d{i}"] = empty | {"name": name, "path": path, "vocabulary": vocabulary}
        return places

    return {
        "recipe": {
            "name": "made",
            "title": "made",
            "dtype": "float16",
            "shard_bytes": 400_000_000,
            "base": "models/base",
            "sources": sources,
            "loras": loras,
            "parts": {
                "p1": part(
                    ("chronos", "models/chronos", None), ("hermes", "baked/hermes", "truncate")
                ),
                "p2": part(
                    ("legerdemain", "baked/legerdemain", None),
                    ("spring_dragon", "models/spring_dragon", None),
                ),
            },
        },
        "ties": {"density": 0.33, "lambda": 1.0, "normalize": True, "elect": "sum"},
        "gradient": {"values": [0.0, 1.0], "along": "tensors", "blend": "all", "containing": ""},
        "execution": {"backend": "local", "downloads": 2, "keep_downloads": False},
    }


class Stages:
    """Runs stages as the pipeline does, and watches what lies in scratch meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.most_shards = 0

    def run(self, stage: str, *item: str) -> None:
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,))
        watcher.start()
        try:
            done = subprocess.run(
                [sys.executable, "-m", f"remerge.stages.{stage}", *item],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            ended.set()
            watcher.join()
        assert done.returncode == 0, f"{stage} {item}: {done.stdout}{done.stderr}"

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(0.02):
            with suppress(FileNotFoundError):  # folders go while they are listed
                found = (self.folder / "scratch" / "downloads").glob("*/pytorch_model-*.bin")
                self.most_shards = max(self.most_shards, len(list(found)))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder for 30 GB that are not left behind."""
    if free_bytes(tmp_path) < 35 * 10**9:
        pytest.skip("needs 35 GB of disk")
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_13b_shaped_family_is_rebuilt_from_a_hub(hub: HubServer, room: Path) -> None:
    tmp_path = room
    for name, kind in FAMILY.items():
        write_model(tmp_path / "hub" / name, LAYERS, kind)
        hub.add_folder(f"made/{name}", tmp_path / "hub" / name)
    for name, _ in LORAS.values():
        write_adapter(tmp_path / "hub" / name, LAYERS, rank=16)
        hub.add_folder(f"made/{name}", tmp_path / "hub" / name)
    work = tmp_path / "work"
    work.mkdir()
    pins = work / "sources.yaml"
    pins.write_text(recipe_text())
    pin_files([pins])
    write_params(work, params(yaml.safe_load(pins.read_text())["sources"]))

    stages = Stages(work)
    for name in [*FAMILY, *(name for name, _ in LORAS.values())]:
        stages.run("fetch", name)
    assert stages.most_shards <= 2
    assert not list((work / "scratch" / "downloads").rglob("*.bin"))
    assert not hub.bytes_of(STRAY)
    for donor in LORAS:
        stages.run("bake_loras", donor)
    stages.run("ties_p1")
    stages.run("ties_p2")
    stages.run("gradient")

    final = open_checkpoint(work / "merged" / "final")
    assert {t.dtype for t in final.tensors.values()} == {"F16"}
    assert final.tensors["model.embed_tokens.weight"].shape == (32000, 5120)
    assert not [n for n in final.tensors if "inv_freq" in n]
    config = read_config(final.folder)
    assert config["max_position_embeddings"] == 4096
    assert config["vocab_size"] == 32000
    notes = {tuple(note) for note in read_json(work / "merged" / "p1" / "manifest.json")["notes"]}
    assert ("hermes", "lm_head.weight", "32 vocabulary rows beyond the base, dropped") in notes
    _check_a_small_tensor(work)


def _check_a_small_tensor(work: Path) -> None:
    """The last norm of both parts, computed the slow way."""
    name = "model.norm.weight"
    read = {
        folder: read_f32(open_checkpoint(work / folder).tensors[name])
        for folder in (
            "models/base",
            "models/chronos",
            "baked/hermes",
            "baked/legerdemain",
            "models/spring_dragon",
            "merged/p1",
            "merged/p2",
        )
    }
    base = read["models/base"]
    for part, donors in (
        ("merged/p1", ("models/chronos", "baked/hermes")),
        ("merged/p2", ("baked/legerdemain", "models/spring_dragon")),
    ):
        slow = reference.ties(base, [read[d] for d in donors], [0.33, 0.33], [1.0, 1.0])
        assert np.array_equal(reference.round_to(slow, "F16").astype(np.float32), read[part])
