"""A disk that cannot hold what comes is told before it comes; one that fills up is one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from remerge.errors import ToolError
from remerge.sources.delivery import Delivery
from remerge.sources.files import open_files
from remerge.sources.intake import take_in_dataset, take_in_model
from remerge.sources.pinned import Source
from tests.faults.conftest import small_disk
from tests.sources.conftest import HURRY, Pinned
from tests.sources.hub_server import HubServer

KEEP = Delivery(workers=2, keep=True, patience=HURRY.patience)
CONFIG = b'{"model_type": "llama"}'


@pytest.fixture
def model(hub: HubServer, pinned: Pinned, tmp_path: Path) -> Source:
    """A model of 3 MB."""
    path = tmp_path / "model.safetensors"
    save_file({"model.norm.weight": torch.zeros(1_500_000, dtype=torch.float16)}, path)
    return pinned(hub.add("some/model", {"config.json": CONFIG, "model.safetensors": path}))


def take(source: Source, room: Path, delivery: Delivery = HURRY) -> None:
    scratch = room / "scratch"
    with open_files(source, root=room, scratch=scratch, delivery=delivery) as files:
        if source.kind == "dataset":
            take_in_dataset(files, room / "out", scratch=scratch)
        else:
            take_in_model(files, room / "out", scratch=scratch, shard_bytes=10**9, threads=1)


def downloads(hub: HubServer, file: str) -> list[str]:
    return [r.path for r in hub.bytes_of(file) if not r.byte_range or r.byte_range.endswith("-")]


def test_downloads_that_are_kept_need_room_where_the_hubs_cache_is(
    hub: HubServer, model: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "cache", megabytes=2) as cache:
        monkeypatch.setenv("HF_HUB_CACHE", str(cache))
        with pytest.raises(ToolError, match=rf"fetch model needs 3\.00 MB in {cache}"):
            take(model, tmp_path, KEEP)
    assert not downloads(hub, "model.safetensors")


def test_what_is_in_the_hubs_cache_needs_no_room_to_come(
    hub: HubServer, model: Source, tmp_path: Path
) -> None:
    take(model, tmp_path / "before", KEEP)
    with small_disk(tmp_path / "small", megabytes=5) as room:
        take(model, room)
        assert (room / "out" / "model.safetensors").stat().st_size > 3_000_000


def test_what_an_earlier_attempt_received_is_not_asked_for_twice(
    hub: HubServer, model: Source, tmp_path: Path
) -> None:
    (pin,) = [p for n, p in model.files.items() if n == "model.safetensors"]
    with open_files(model, root=tmp_path, scratch=tmp_path, delivery=HURRY) as files:
        assert files.space_for(["model.safetensors"])[1] == pin.size
        partial = tmp_path / "downloads" / f"model-{pin.sha256[:16]}" / ".model.safetensors.partial"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(bytes(1_000_000))
        assert files.space_for(["model.safetensors"])[1] == pin.size - 1_000_000


def test_a_data_set_that_does_not_fit_is_not_downloaded(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    repo = hub.add("some/data", {"test.parquet": os.urandom(1_500_000)})
    source = pinned(repo, kind="dataset")
    with small_disk(tmp_path / "small", megabytes=2) as room:
        with pytest.raises(ToolError, match=r"fetch data needs 3\.00 MB in .*are free"):
            take(source, room)
        assert not downloads(hub, "test.parquet")


def test_a_disk_that_fills_up_while_files_come_is_one_line_that_names_the_file(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    files = {"config.json": os.urandom(300_000), "weights.bin": os.urandom(900_000)}
    source = pinned(hub.add("some/model", files))
    with small_disk(tmp_path / "small", megabytes=1) as room:
        (room / "other").write_bytes(bytes(800_000))
        for name in files:
            says = rf"source 'model': {name}: No space left on device .*; make room"
            with (
                pytest.raises(ToolError, match=says),
                open_files(source, root=room, scratch=room, delivery=HURRY) as opened,
            ):
                _ = opened.all([name]) if name == "config.json" else opened.take(name)


def test_files_of_one_disk_share_its_room(tmp_path: Path) -> None:
    from remerge.files import free_bytes, require_spaces

    most = free_bytes(tmp_path) * 2 // 3
    require_spaces([(tmp_path / "a", most)], "a merge")
    with pytest.raises(ToolError, match="a merge needs"):
        require_spaces([(tmp_path / "a", most), (tmp_path / "b", most)], "a merge")
