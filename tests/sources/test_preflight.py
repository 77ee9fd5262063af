"""What does not fit is told after kilobytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from remerge.errors import CheckpointError, SourceError
from remerge.sources.files import open_files
from remerge.sources.pinned import parse_source, parse_sources
from remerge.sources.preflight import (
    Descriptions,
    check_against_base,
    check_source,
    describe_model,
)
from tests.architectures import models
from tests.sources.conftest import HURRY
from tests.sources.hub_server import HubServer, Repo, sha256_of, size_of

EMBEDDED = Path(__file__).resolve().parents[2] / "embedded" / "sources"
STRAY = "4bit-128g.safetensors"


def entry(repo: Repo, kind: str = "model") -> dict[str, Any]:
    name = repo.name.split("/")[1]
    return {
        "kind": kind,
        "repo": repo.name,
        "revision": repo.head,
        "out": f"models/{name}",
        "files": {
            path: {"sha256": sha256_of(content), "size": size_of(content)}
            for path, content in repo.files[repo.head].items()
            if path != STRAY
        },
    }


def recipe_of(hub: HubServer, donor: Repo, vocabulary: str | None = None) -> dict[str, Any]:
    """A recipe of the embedded base, a donor, and an adapter that is baked into the donor."""
    base = hub.add_folder("embedded/base", EMBEDDED / "base")
    adapter = hub.add_folder("embedded/reversal_lora", EMBEDDED / "reversal_lora")
    return {
        "name": "made",
        "base": "models/base",
        "sources": {
            "base": entry(base),
            "donor": entry(donor) | {"out": "models/donor"},
            "lora": entry(adapter, "adapter"),
        },
        "loras": {
            "donor": {
                "model": "models/donor",
                "adapter": "models/reversal_lora",
                "out": "baked/donor",
            }
        },
        "parts": {"p1": {"d1": {"name": "donor", "path": "baked/donor", "vocabulary": vocabulary}}},
    }


def check(recipe: dict[str, Any], name: str, tmp_path: Path) -> None:
    sources = parse_sources(recipe)
    opened = partial(open_files, root=tmp_path, scratch=tmp_path / "scratch", delivery=HURRY)
    check_source(name, recipe, sources, Descriptions(opened))


@contextmanager
def without_gigabytes(hub: HubServer) -> Iterator[None]:
    """No weight file is downloaded while the block runs, only parts of known length."""
    hub.requests.clear()
    yield
    whole = [
        r.path
        for r in hub.requests
        if r.path.endswith((".bin", ".safetensors"))
        and (not r.byte_range or r.byte_range[-1] == "-")
    ]
    assert whole == []


def changed(tmp_path: Path, **config: object) -> Path:
    """The donor `sorting` with another config."""
    folder = tmp_path / "donor"
    shutil.copytree(EMBEDDED / "sorting", folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@pytest.mark.parametrize("name", ["base", "donor", "lora"])
def test_what_fits_passes(hub: HubServer, tmp_path: Path, name: str) -> None:
    donor = hub.add_folder("some/donor", EMBEDDED / "lookup")
    recipe = recipe_of(hub, donor, vocabulary="truncate")
    with without_gigabytes(hub):
        check(recipe, name, tmp_path)


@pytest.mark.parametrize(
    "config, says",
    [
        ({"model_type": "mistral"}, "architecture is mistral, the base's is llama"),
        ({"num_hidden_layers": 3}, "number of layers is 3, the base's is 2"),
        ({"intermediate_size": 512}, "feed-forward size is 512"),
    ],
)
def test_another_architecture_is_refused_by_its_config(
    hub: HubServer, tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    donor = hub.add_folder("some/donor", changed(tmp_path, **config))
    recipe = recipe_of(hub, donor)
    with without_gigabytes(hub), pytest.raises(CheckpointError, match=says):
        check(recipe, "donor", tmp_path)


def test_a_layer_too_many_is_refused_by_the_header(hub: HubServer, tmp_path: Path) -> None:
    folder = changed(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"] = torch.zeros(4, 4)
    save_file(weights, folder / "model.safetensors")
    recipe = recipe_of(hub, hub.add_folder("some/donor", folder))
    with without_gigabytes(hub), pytest.raises(CheckpointError, match="has beyond the base's"):
        check(recipe, "donor", tmp_path)


def test_rows_without_a_rule_are_refused(hub: HubServer, tmp_path: Path) -> None:
    recipe = recipe_of(hub, hub.add_folder("some/donor", EMBEDDED / "lookup"))
    with without_gigabytes(hub), pytest.raises(CheckpointError, match="32 rows more than base's"):
        check(recipe, "donor", tmp_path)


def test_rows_that_will_be_mapped_pass(hub: HubServer, tmp_path: Path) -> None:
    recipe = recipe_of(hub, hub.add_folder("some/donor", EMBEDDED / "lookup"), vocabulary="map")
    with without_gigabytes(hub):
        check(recipe, "donor", tmp_path)


def swapped(tmp_path: Path) -> Path:
    """The donor `sorting` whose tokenizer gives two tokens each other's number."""
    folder = changed(tmp_path)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = [text for text, number in vocabulary.items() if number in (300, 301)]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("rule", [None, "truncate"])
def test_tokens_of_other_numbers_are_refused_where_rows_are_not_mapped(
    hub: HubServer, tmp_path: Path, rule: str | None
) -> None:
    recipe = recipe_of(hub, hub.add_folder("some/donor", swapped(tmp_path)), vocabulary=rule)
    says = r"donor: token .* is number 30\d there and 30\d in base \(2 tokens differ\)"
    with without_gigabytes(hub), pytest.raises(CheckpointError, match=says):
        check(recipe, "donor", tmp_path)


def test_tokens_of_other_numbers_pass_where_rows_are_mapped(hub: HubServer, tmp_path: Path) -> None:
    recipe = recipe_of(hub, hub.add_folder("some/donor", swapped(tmp_path)), vocabulary="map")
    with without_gigabytes(hub):
        check(recipe, "donor", tmp_path)


def test_rows_cannot_be_mapped_without_a_tokenizer(hub: HubServer, tmp_path: Path) -> None:
    folder = changed(tmp_path)
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink(missing_ok=True)
    recipe = recipe_of(hub, hub.add_folder("some/donor", folder), vocabulary="map")
    with (
        without_gigabytes(hub),
        pytest.raises(CheckpointError, match=r"tokenizer\.model to map"),
    ):
        check(recipe, "donor", tmp_path)


def test_an_adapter_for_other_modules_is_refused(hub: HubServer, tmp_path: Path) -> None:
    folder = changed(tmp_path)
    weights = load_file(folder / "model.safetensors")
    missing = "model.layers.1.self_attn.q_proj.weight"
    save_file({k: v for k, v in weights.items() if k != missing}, folder / "model.safetensors")
    recipe = recipe_of(hub, hub.add_folder("some/donor", folder))
    says = f"is for a module '{missing}' that donor does not have"
    with without_gigabytes(hub), pytest.raises(CheckpointError, match=says):
        check(recipe, "lora", tmp_path)


def test_a_quantised_checkpoint_is_refused(hub: HubServer, tmp_path: Path) -> None:
    folder = changed(tmp_path)
    shutil.copy(EMBEDDED / "brackets" / STRAY, folder / "model.safetensors")
    recipe = recipe_of(hub, hub.add_folder("some/donor", folder))
    with without_gigabytes(hub), pytest.raises(CheckpointError, match="quantized"):
        check(recipe, "donor", tmp_path)


def test_a_pickle_that_is_a_program_is_refused_before_it_is_here(
    hub: HubServer, tmp_path: Path
) -> None:
    folder = changed(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": torch.zeros(4), "do": print}, folder / "pytorch_model.bin")
    recipe = recipe_of(hub, hub.add_folder("some/donor", folder))
    with without_gigabytes(hub), pytest.raises(CheckpointError, match="refused, its pickle is not"):
        check(recipe, "donor", tmp_path)


def test_an_old_pickle_is_told_from_a_damaged_one(hub: HubServer, tmp_path: Path) -> None:
    folder = changed(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(
        {"w": torch.zeros(99_999)},
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=False,
    )
    recipe = recipe_of(hub, hub.add_folder("some/donor", folder))
    with without_gigabytes(hub), pytest.raises(CheckpointError, match=r"saved before torch 1\.6"):
        check(recipe, "donor", tmp_path)


def test_a_recipe_that_is_not_pinned_names_every_source_before_any_request(
    hub: HubServer, tmp_path: Path
) -> None:
    recipe = recipe_of(hub, hub.add_folder("some/donor", EMBEDDED / "sorting"))
    recipe["sources"]["donor"]["revision"] = None
    recipe["sources"]["lora"] |= {"revision": None, "files": {}}
    recipe["sources"]["base"]["files"] = {}
    hub.requests.clear()
    with pytest.raises(SourceError) as caught:
        check(recipe, "base", tmp_path)
    text = str(caught.value)
    assert "donor and lora have no revision" in text
    assert "no digests of the files of base are known" in text
    assert "nothing was downloaded" in text
    assert "`remerge pin made`" in text
    assert hub.requests == []


def test_data_sets_that_are_not_pinned_name_the_command_for_their_suite() -> None:
    data = {"kind": "dataset", "repo": "some/data", "revision": None, "out": "datasets/d"}
    model = {"kind": "model", "repo": "some/model", "revision": None, "out": "models/m"}
    recipe = {"name": "made", "sources": {"data": data}}
    with pytest.raises(SourceError, match="Run `remerge pin leaderboard` once where the hub"):
        parse_sources(recipe, "leaderboard")
    recipe["sources"] = {"data": data, "model": model}
    with pytest.raises(SourceError, match="Run `remerge pin made` and `remerge pin leaderboard`"):
        parse_sources(recipe, "leaderboard")


@pytest.mark.parametrize("revision", ["main", "172e30e", "A" * 40, "refs/pr/1"])
def test_a_branch_a_tag_or_a_short_id_is_no_revision(
    hub: HubServer, tmp_path: Path, revision: str
) -> None:
    recipe = recipe_of(hub, hub.add_folder("some/donor", EMBEDDED / "sorting"))
    recipe["sources"]["donor"]["revision"] = revision
    with pytest.raises(SourceError, match="not a commit of 40 hexadecimal digits"):
        check(recipe, "base", tmp_path)


def test_fused_and_separate_layouts_are_two_architectures(tmp_path: Path) -> None:
    """phi3 stores qkv whole: without a layer of it read, another architecture is named."""
    described = {}
    for row in ("llama", "phi3"):
        models.build(row).save_pretrained(tmp_path / row)
        files = {
            path.name: {"sha256": sha256_of(path), "size": path.stat().st_size}
            for path in (tmp_path / row).iterdir()
        }
        source = parse_source(row, {"kind": "model", "path": row, "files": files})
        with open_files(source, root=tmp_path, scratch=tmp_path) as opened:
            described[row] = describe_model(opened)
    for donor, base in (("phi3", "llama"), ("llama", "phi3")):
        says = f"architecture is {donor}, the base's is {base}; it is not a fine-tune"
        with pytest.raises(CheckpointError, match=says):
            check_against_base(described[donor], described[base], [None])
