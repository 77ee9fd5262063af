"""Rows 24 to 31: hostile files."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from remerge.adapters.peft_files import read_adapter
from remerge.architectures.order import state_dict_order
from remerge.errors import CheckpointError, RecipeError, RemergeError, SourceError
from remerge.pins.recipe_text import read_entries
from remerge.quantize import quantize
from remerge.report.build import Build
from remerge.report.card import card
from remerge.report.page import page
from remerge.shards.order import check_layers
from remerge.sources.pickles import open_pickle
from remerge.sources.pinned import local_files, parse_source
from remerge.tensors.checkpoint import open_checkpoint, raw_bytes
from remerge.tensors.safetensors import read_header
from tests.faults.made import contents, edit_json, family, merge, model
from tests.faults.rows import fault
from tests.faults.samples import SAMPLES, adapters, every_sample, pickles, tries
from tests.proof.models import save
from tests.report.conftest import merged, small_build  # noqa: F401

assert every_sample()
AGAIN = "refuses again until the source is replaced or dropped"
SECONDS = 20.0


def refused(kind: str, path: Path, read: Callable[[Path], object]) -> None:
    """Every sample of the kind at `path` is refused in one printable line, and soon."""
    for name, write in SAMPLES[kind].items():
        write(path)
        began = time.monotonic()
        with pytest.raises(RemergeError) as caught:
            read(path)
        took = time.monotonic() - began
        line = str(caught.value)
        assert line.isprintable() and path.parent.name in line, (name, line)
        assert took < SECONDS, (name, took)


@fault(
    24,
    "a pickle that runs a program, imports a class, claims storage it lacks, is a zip bomb or a "
    "million lists deep",
    sees="`error: FILE: refused, its pickle is not one of plain tensors (…)`, or what is wrong "
    "with the archive; nothing of it runs",
    then=AGAIN,
)
def test_a_pickle_that_is_more_than_tensors_is_refused_and_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused("pickle", tmp_path / "pytorch_model.bin", open_pickle)
    assert not (tmp_path / pickles.MARK).exists()
    pickles.archive(tmp_path / "good.bin", pickles.tensor_program())
    assert open_pickle("good.bin")["w"].shape == (32,)


@fault(
    25,
    "a safetensors header that is too long, padded without end, doubled, overlapping, with holes, "
    "overflowing, of unknown type or no UTF-8; offsets in another order than the names",
    sees="`error: FILE: tensor NAME …`: what of it is wrong; nothing for the order, which is free",
    then=AGAIN,
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    refused("safetensors", path, read_header)
    SAMPLES["safetensors, legal"]["unordered_offsets"](path)
    found = {name: bytes(raw_bytes(info)) for name, info in read_header(path).items()}
    assert found == {"a": b"\1\0", "m": b"\2\0", "z": b"\3\0"}


@fault(
    26,
    "an index that names files outside of the folder or that are missing; a tensor in two shards",
    sees="`error: INDEX: NAME is not a plain file name`, or which tensor stands where",
    then=AGAIN,
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    refused("index", index, lambda path: open_checkpoint(path.parent))
    SAMPLES["index"]["in_two_shards"](index)
    with pytest.raises(CheckpointError, match=r"'twice' is in a.safetensors and b.safetensors"):
        open_checkpoint(tmp_path)


@fault(
    27,
    "a file name with `..`, absolute, with NUL, newline or control characters, twins by case or "
    "Unicode, 4,000 characters",
    sees="`error: source NAME: FILE is not a plain file name`, shown escaped and cut",
    then=AGAIN,
)
def test_a_file_name_that_is_not_plain_is_refused_before_it_is_a_path(tmp_path: Path) -> None:
    for kind in ("model", "adapter", "dataset"):
        for name, write in SAMPLES["name"].items():
            if kind == "dataset" and name == "subfolder":
                continue  # data sets have folders
            write(tmp_path / "sources.yaml")
            with pytest.raises((SourceError, RecipeError)) as caught:
                parsed(tmp_path / "sources.yaml", kind)
            assert re.search("source 's'|sources.yaml", str(caught.value))
            assert str(caught.value).isprintable() and len(str(caught.value)) < 400, name


def parsed(path: Path, kind: str) -> None:
    parse_source("s", read_entries(path.read_text(), "sources.yaml")["s"] | {"kind": kind})


@fault(
    28,
    "a symlink out of the source's folder, a FIFO or a device in place of a file",
    sees="`error: source NAME: PATH is a link out of its folder; refused`, or `not a regular "
    "file`; nothing waits",
    then="goes on when a regular file stands there",
)
@pytest.mark.timeout(60)
def test_a_link_or_fifo_in_place_of_a_file_is_refused_without_waiting(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    pin = {"sha256": "0" * 64, "size": 1}
    source = parse_source("s", {"kind": "model", "path": "source", "files": {"config.json": pin}})
    target = folder / "config.json"
    target.symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="link out of its folder"):
        local_files(source, tmp_path)
    target.unlink()
    os.mkfifo(target)
    with pytest.raises(RemergeError, match="not a regular file"):
        local_files(source, tmp_path)
    target.unlink()
    base, donors = family(tmp_path)
    for what, place in SAMPLES["place"].items():
        place(target)
        with pytest.raises(RemergeError, match=r"link out|not a regular file|is missing"):
            local_files(source, tmp_path)
        remove(target)
        if what == "link_out":
            continue  # in a folder that the user named, a link is the user's own
        for name in ("model.safetensors", "model.safetensors.index.json"):
            place(folder / name)
            with pytest.raises(CheckpointError, match=r"not a regular file|holds neither"):
                open_checkpoint(folder)
            remove(folder / name)
        for name in ("config.json", "generation_config.json", "tokenizer.json"):
            (base / name).unlink(missing_ok=True)
            place(base / name)
            with pytest.raises(CheckpointError, match=f"{name}: not a regular file"):
                merge(base, donors, tmp_path / "out")
            remove(base / name)
            (base / name).write_text("{}")
    assert not (tmp_path / "out").exists()


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()


@fault(
    29,
    "a config.json or tokenizer that asks for remote code, or for a billion layers",
    sees="a note in the manifest for a tokenizer that asks for code, whose file is passed on byte "
    "for byte without that code; nothing for a config.json, from which the wish is dropped; "
    "`error: config.json: num_hidden_layers is …` for the layers",
    then="the same",
)
def test_remote_code_is_never_executed_and_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, donors = family(tmp_path)
    for folder in (base, *donors):
        (folder / "evil.py").write_text(f"open({pickles.MARK!r}, 'w')\nclass Evil: pass\n")
        SAMPLES["tokenizer"]["code_of_the_tokenizer"](folder / "tokenizer_config.json")
    plain = json.loads((base / "config.json").read_text())
    for number, write in enumerate(SAMPLES["config"].values()):
        for folder in (base, *donors):
            write(folder / "config.json")
            edit_json(folder / "config.json", **plain)
        merge(base, donors, tmp_path / f"out{number}")
        assert "auto_map" not in (tmp_path / f"out{number}" / "config.json").read_text()
        shutil.rmtree(tmp_path / f"out{number}")
    notes = merge(base, donors, tmp_path / "out")["notes"]
    assert [note[1] for note in notes if "code of its own" in note[2]] == ["tokenizer_config.json"]
    tokenizer = "tokenizer_config.json"
    assert (tmp_path / "out" / tokenizer).read_bytes() == (base / tokenizer).read_bytes()
    assert "evil.py" not in contents(tmp_path / "out")
    config = json.loads((base / "config.json").read_text())
    names, known = state_dict_order(config, open_checkpoint(base).tensors)
    assert known and names[0] == "model.embed_tokens.weight"
    assert not (tmp_path / pickles.MARK).exists()
    for name, write in SAMPLES["endless"].items():
        write(tmp_path / "config.json")
        endless = json.loads((tmp_path / "config.json").read_text())
        with pytest.raises(CheckpointError, match=name.removeprefix("endless_")):
            check_layers(config | endless, len(names))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A sound adapter for the small model."""
    folder = tmp_path / "adapter"
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    ones = np.ones((2, 32), "<f2")
    save(
        folder,
        {f"{module}.lora_A.weight": ("F16", ones), f"{module}.lora_B.weight": ("F16", ones.T)},
    )
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(adapters.GOOD))
    return folder


@fault(
    30,
    "an adapter of rank 0 or of another rank than its config, with an alpha of NaN, for modules "
    "that do not exist",
    sees="`error: …/adapter_config.json: r is 0, not a positive integer` and the like, naming the "
    "module",
    then=AGAIN,
)
def test_an_adapter_that_cannot_be_meant_is_refused_by_module(
    tmp_path: Path, adapter: Path
) -> None:
    from remerge.baking.bake import plan_bake

    base = open_checkpoint(model(tmp_path / "base", 0))
    good = read_adapter(adapter)
    assert plan_bake(base, good, dtype="F16", shard_bytes=10**9)
    weights = adapter / "adapter_model.safetensors"
    sound = weights.read_bytes()
    refused(
        "adapter weights",
        weights,
        lambda path: plan_bake(base, read_adapter(path.parent), dtype="F16", shard_bytes=10**9),
    )
    SAMPLES["adapter weights"]["missing_layer"](weights)
    with pytest.raises(CheckpointError, match=r"layers\.7.*does not have"):
        plan_bake(base, read_adapter(adapter), dtype="F16", shard_bytes=10**9)
    weights.write_bytes(sound)
    refused("adapter", adapter / "adapter_config.json", lambda path: read_adapter(path.parent))


@fault(
    31,
    "tokens and names that hold markup or terminal escapes reach a GGUF file, the report, the "
    "model card",
    sees="the characters themselves, escaped; no page runs them, no terminal obeys them",
    then="the same",
)
def test_tokens_and_names_stay_text_in_gguf_report_and_card(
    tmp_path: Path,
    small_build: Build,  # noqa: F811
) -> None:
    from gguf import GGUFReader
    from sentencepiece import sentencepiece_model_pb2 as pieces

    from tests.quantize.conftest import save_llama

    folder = save_llama(tmp_path / "llama")
    texts = {}
    for name, write in SAMPLES["text"].items():
        write(tmp_path / name)
        texts[name] = (tmp_path / name).read_bytes().decode()
    tokenizer = pieces.ModelProto()
    tokenizer.ParseFromString((folder / "tokenizer.model").read_bytes())
    for place, text in enumerate(texts.values(), 300):
        tokenizer.pieces[place].piece = text
    (folder / "tokenizer.model").write_bytes(tokenizer.SerializeToString())
    everything = "".join(texts.values())
    quantize(folder, tmp_path / "out", "gguf_f16", threads=1, name=everything)
    field = GGUFReader(tmp_path / "out" / "model.gguf").fields["tokenizer.ggml.tokens"]
    for place, text in enumerate(texts.values(), 300):
        assert field.contents(place) == text
    assert "\x1b" not in (tmp_path / "out" / "manifest.json").read_text()
    for name, text in [*texts.items(), ("everything", everything)]:
        build = replace(small_build, recipe=small_build.recipe | {"title": text, "licence": text})
        shown = card(build).split("---\n", 2)[2]  # after the front matter, data in quotes
        assert "' onmouseover='" not in page(build), name
        for written in (page(build), shown):
            # Markdown's backslash makes it plain text.
            assert not re.search(r"(?<!\\)<(script|img)", written), name
            assert not re.search(r"^# heading", written, re.MULTILINE), name
            assert not re.search(r"\x1b|\x07|\u202e", written), name
        assert not re.search(r"(?<!\\)\]\(javascript", shown), name


def test_every_sample_says_what_it_tries_and_can_be_written(tmp_path: Path) -> None:
    for kind, samples in every_sample().items():
        for name, write in samples.items():
            assert tries(write), name
            if name != "hundred_megabytes_of_spaces":
                (tmp_path / kind / name).mkdir(parents=True)
                write(tmp_path / kind / name / "sample")
