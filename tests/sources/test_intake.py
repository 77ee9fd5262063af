"""A source taken in is the same folder whether its files were here or came from the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from remerge.errors import CheckpointError, SourceError
from remerge.sources.files import open_files
from remerge.sources.intake import (
    Supply,
    take_in_adapter,
    take_in_dataset,
    take_in_model,
    tensor_table,
)
from remerge.sources.pickles import open_pickle
from remerge.sources.pinned import Source, parse_source
from remerge.tensors.checkpoint import open_checkpoint, raw_bytes
from remerge.tensors.safetensors import TensorInfo
from tests.sources.conftest import HURRY, Pinned
from tests.sources.hub_server import HubServer, Other, Status, sha256_of

EMBEDDED = Path(__file__).resolve().parents[2] / "embedded" / "sources"
MODELS = ("base", "addition", "sorting", "lookup", "brackets", "counting", "dates")
STRAY = "4bit-128g.safetensors"


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def local(name: str, **entry: object) -> Source:
    """The embedded source as the recipe has it: every file but strays, in its folder."""
    files = {
        p.name: {"sha256": hashlib.sha256(p.read_bytes()).hexdigest(), "size": p.stat().st_size}
        for p in sorted((EMBEDDED / name).iterdir())
        if p.name != STRAY
    }
    return parse_source(
        name, {"kind": "model", "path": str(EMBEDDED / name), "files": files, **entry}
    )


def take(source: Source, tmp_path: Path, out: str, threads: int = 2) -> Path:
    scratch = tmp_path / "scratch"
    with open_files(source, root=Path("/"), scratch=scratch, delivery=HURRY) as files:
        if source.kind == "adapter":
            take_in_adapter(files, tmp_path / out, scratch=scratch)
        else:
            take_in_model(
                files, tmp_path / out, scratch=scratch, shard_bytes=600_000, threads=threads
            )
    assert [p for p in (scratch / "downloads").rglob("*") if p.is_file()] == []
    return tmp_path / out


@pytest.mark.parametrize("name", MODELS)
def test_a_model_from_the_hub_is_the_model_from_a_folder(
    name: str, hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    repo = hub.add_folder(f"embedded/{name}", EMBEDDED / name)
    here = take(local(name), tmp_path, "here")
    there = take(pinned(repo, leave_out=(STRAY,)), tmp_path, "there", threads=4)
    mine, theirs = digests(here), digests(there)
    assert mine.pop("manifest.json") != theirs.pop("manifest.json")  # they name where it came from
    assert mine == theirs
    assert not hub.bytes_of(STRAY)


@pytest.mark.parametrize("name", ["reversal_lora", "maximum_lora"])
def test_an_adapter_from_the_hub_is_the_adapter_from_a_folder(
    name: str, hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    files = {f"adapter/{p.name}": p for p in (EMBEDDED / name).iterdir()}
    repo = hub.add(f"embedded/{name}", {"README.md": b"in a subfolder", **files})
    here = take(local(name, kind="adapter"), tmp_path, "here")
    there = take(pinned(repo, kind="adapter", subfolder="adapter"), tmp_path, "there")
    mine, theirs = digests(here), digests(there)
    assert mine.pop("manifest.json") != theirs.pop("manifest.json")
    assert mine == theirs


@pytest.mark.parametrize("name", MODELS)
def test_headers_read_by_range_are_those_of_the_file(
    name: str, hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    repo = hub.add_folder(f"embedded/{name}", EMBEDDED / name)
    with open_files(
        pinned(repo, leave_out=(STRAY,)), root=tmp_path, scratch=tmp_path, delivery=HURRY
    ) as files:
        table, _ = tensor_table(files)
    with open_files(local(name), root=Path("/"), scratch=tmp_path) as here:
        real, _ = tensor_table(here)
    assert {n: (f, t.dtype, t.shape) for n, (f, t) in table.items()} == {
        n: (f, t.dtype, t.shape) for n, (f, t) in real.items()
    }


def test_the_header_of_a_large_pickle_costs_kilobytes(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    weights = {f"layer.{i}": torch.zeros(1000, 500) for i in range(10)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    repo = hub.add("some/large", {"pytorch_model.bin": tmp_path / "pytorch_model.bin"})
    with open_files(pinned(repo), root=tmp_path, scratch=tmp_path, delivery=HURRY) as files:
        header = files.header("pytorch_model.bin")
    assert {n: t.shape for n, t in header.items()} == dict.fromkeys(weights, (1000, 500))
    assert hub.sent < 200_000 < (tmp_path / "pytorch_model.bin").stat().st_size


def test_a_hub_without_ranges_is_refused_before_gigabytes_move(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    hub.ranges = False
    source = pinned(hub.add_folder("embedded/addition", EMBEDDED / "addition"))
    says = (
        r"127\.0\.0\.1:\d+ sends embedded/addition@.*/pytorch_model-.* as a whole only.*HF_ENDPOINT"
    )
    with pytest.raises(SourceError, match=says):
        take(source, tmp_path, "out")
    assert [p for p in (tmp_path / "scratch").rglob("*") if p.is_file()] == []


def test_a_small_file_that_comes_whole_is_enough(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    hub.ranges = False
    save_file({"w": torch.zeros(8)}, tmp_path / "model.safetensors")
    repo = hub.add("some/model", {"model.safetensors": tmp_path / "model.safetensors"})
    with open_files(pinned(repo), root=tmp_path, scratch=tmp_path / "s", delivery=HURRY) as files:
        assert files.header("model.safetensors")["w"].shape == (8,)


def test_tensors_are_ordered_by_the_config_that_the_recipe_corrects(tmp_path: Path) -> None:
    """The source says one layer; its weights, and the recipe, say two."""
    right = take(local("sorting"), tmp_path, "right")
    shutil.copytree(EMBEDDED / "sorting", tmp_path / "sorting")
    config = json.loads((tmp_path / "sorting" / "config.json").read_text())
    text = json.dumps(config | {"num_hidden_layers": 1})
    (tmp_path / "sorting" / "config.json").write_text(text)
    files = {
        p.name: {"sha256": sha256_of(p), "size": p.stat().st_size}
        for p in (tmp_path / "sorting").iterdir()
    }
    corrected = {"num_hidden_layers": 2}
    entry = {"kind": "model", "path": str(tmp_path / "sorting"), "files": files}
    out = take(parse_source("sorting", entry | {"config": corrected}), tmp_path, "out")
    assert list(open_checkpoint(out).tensors) == list(open_checkpoint(right).tensors)
    assert json.loads((out / "manifest.json").read_text())["notes"] == []


def test_an_archive_of_an_unknown_version_is_refused_by_its_directory(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.zeros(8)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 6] = 99  # the version needed to extract the first record
    repo = hub.add("some/model", {"pytorch_model.bin": bytes(data)})
    with (
        pytest.raises(CheckpointError, match=r"not a torch archive .*version"),
        open_files(pinned(repo), root=tmp_path, scratch=tmp_path / "s", delivery=HURRY) as files,
    ):
        files.header("pytorch_model.bin")


def test_files_are_dropped_as_they_are_used_up(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    """No more than a file for each worker lies in scratch while a model of three is taken in."""
    repo = hub.add_folder("embedded/addition", EMBEDDED / "addition")
    source = pinned(repo)
    most, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.001):
            with suppress(FileNotFoundError):  # folders go while they are listed
                found = list((tmp_path / "scratch" / "downloads").rglob("pytorch_model-*.bin"))
                most = max(most, len(found))

    watcher = threading.Thread(target=watch)
    watcher.start()
    take(source, tmp_path, "there", threads=1)
    stop.set()
    watcher.join()
    assert most <= HURRY.workers


def test_an_interrupted_intake_asks_only_for_what_it_lacks(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    source = pinned(hub.add_folder("embedded/addition", EMBEDDED / "addition"))
    hub.fail("pytorch_model-00003-of-00003.bin", *[Status(503)] * 50)
    with pytest.raises(SourceError, match="times in a row"):
        take(source, tmp_path, "out", threads=1)
    assert not (tmp_path / "out").exists()
    hub._faults.clear()
    hub.requests.clear()
    take(source, tmp_path, "out")
    downloads = [r.path for r in hub.requests if r.path.startswith("/blob") and not r.byte_range]
    # What lies beside the weights is asked for in every attempt; of it this one file is a blob.
    names = ["tokenizer.json", "pytorch_model-00003-of-00003.bin"]
    assert downloads == [f"/blob/{source.revision}/{name}" for name in names]


def test_a_file_that_is_not_what_its_header_described_is_refused(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    """Whoever answers requests for ranges may lie; the verified file decides."""
    torch.save({"w": torch.zeros(8)}, tmp_path / "real.bin")
    repo = hub.add(
        "some/model", {"pytorch_model.bin": tmp_path / "real.bin", "config.json": CONFIG}
    )
    with open_files(pinned(repo), root=tmp_path, scratch=tmp_path / "s", delivery=HURRY) as files:
        table = {"w": TensorInfo("w", "F16", (8,), tmp_path, 0, 16)}
        supply = Supply(files, {"w": ("pytorch_model.bin", table["w"])})
        with pytest.raises(SourceError, match="not those that its header described"):
            supply.open("w", 1.0)


CONFIG = json.dumps({"model_type": "llama"}).encode()


@pytest.mark.parametrize(
    "climbing", ["../../evil.bin", "/etc/evil.bin", "a/b.bin", "..", "a\\b.bin"]
)
def test_an_index_whose_names_climb_is_refused(
    climbing: str, hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    index = json.dumps({"weight_map": {"w": climbing}}).encode()
    files = {"config.json": CONFIG, "pytorch_model.bin.index.json": index}
    with pytest.raises(CheckpointError, match="not a plain file name"):
        take(pinned(hub.add("some/model", files)), tmp_path, "out")


def test_both_kinds_of_weights_are_a_choice_for_the_recipe(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    weights = {"model.norm.weight": torch.arange(4.0)}
    save_file(weights, tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    repo = hub.add(
        "some/model",
        {
            "config.json": CONFIG,
            "model.safetensors": tmp_path / "model.safetensors",
            "pytorch_model.bin": tmp_path / "pytorch_model.bin",
        },
    )
    with pytest.raises(CheckpointError, match="lists both safetensors and pickle"):
        take(pinned(repo), tmp_path, "both")
    for leave_out in ("model.safetensors", "pytorch_model.bin"):
        out = take(pinned(repo, leave_out=(leave_out,)), tmp_path, f"without-{leave_out}")
        (tensor,) = open_checkpoint(out).tensors.values()
        assert raw_bytes(tensor).view("<f4").tolist() == [0, 1, 2, 3]


def test_a_data_set_keeps_its_folders(hub: HubServer, pinned: Pinned, tmp_path: Path) -> None:
    repo = hub.add("some/data", {"data/test.parquet": b"rows", "README.md": b"about"})
    source = pinned(repo, kind="dataset")
    with open_files(source, root=tmp_path, scratch=tmp_path / "s", delivery=HURRY) as files:
        take_in_dataset(files, tmp_path / "out", scratch=tmp_path / "s")
    assert (tmp_path / "out" / "data" / "test.parquet").read_bytes() == b"rows"
    assert all(r.path.startswith("/datasets/") for r in hub.requests)


def test_an_interrupted_data_set_asks_only_for_what_it_lacks(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    source = pinned(hub.add("some/data", {"a/x.parquet": b"1", "b/y.parquet": b"2"}), "dataset")

    def attempt() -> None:
        scratch = tmp_path / "s"
        with open_files(source, root=tmp_path, scratch=scratch, delivery=HURRY) as files:
            take_in_dataset(files, tmp_path / "out", scratch=scratch)

    hub.fail("y.parquet", Status(403))
    with pytest.raises(SourceError, match="answers 403"):
        attempt()
    assert not (tmp_path / "out").exists()
    hub.requests.clear()
    attempt()
    assert not hub.bytes_of("x.parquet")
    assert sorted(digests(tmp_path / "out" / "a") | digests(tmp_path / "out" / "b")) == [
        "x.parquet",
        "y.parquet",
    ]


def test_a_header_is_read_without_hashing_its_file_and_using_the_file_verifies_it(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    folder = tmp_path / "sorting"
    shutil.copytree(EMBEDDED / "sorting", folder)
    weights = folder / "model.safetensors"
    pins = {"model.safetensors": {"sha256": sha256_of(weights), "size": weights.stat().st_size}}
    source = parse_source("s", {"kind": "model", "path": "sorting", "files": pins})
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with open_files(source, root=tmp_path, scratch=tmp_path / "s") as files:
        assert files.header("model.safetensors")
        with pytest.raises(SourceError, match="has SHA-256"):
            files.take("model.safetensors")


def test_wrong_bytes_never_reach_a_checkpoint(
    hub: HubServer, pinned: Pinned, tmp_path: Path
) -> None:
    repo = hub.add_folder("embedded/sorting", EMBEDDED / "sorting")
    source = pinned(repo)
    with open_files(source, root=tmp_path, scratch=tmp_path / "s", delivery=HURRY) as files:
        files.header("model.safetensors")
        hub.fail("config.json", Other())
        with pytest.raises(SourceError, match=f"pinned is {source.files['config.json'].sha256}"):
            files.all(["config.json"])


def test_views_of_one_storage_and_strided_tensors_are_read_as_values(tmp_path: Path) -> None:
    both = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    torch.save({"rows": both[1:3], "columns": both.T}, tmp_path / "x.bin")
    opened = open_pickle(tmp_path / "x.bin")
    assert np.array_equal(opened["rows"].bytes_u8().view("<f4"), both[1:3].numpy().ravel())
    assert np.array_equal(opened["columns"].bytes_u8().view("<f4"), both.T.numpy().ravel())
