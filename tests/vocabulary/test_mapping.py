"""`vocabulary: map` moves rows to where the base has their tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from remerge.errors import CheckpointError, RecipeError, ToolError
from remerge.merge.donors import mapping_folder, open_donor
from remerge.merge.token_mapping import map_vocabulary
from remerge.methods.ties import Donor, TiesPlan, TiesSettings, plan_ties
from remerge.shards.artefact import build, resume_key
from remerge.tensors.checkpoint import Checkpoint, open_checkpoint, read_f32
from remerge.vocabulary.tokenizer import token_ids

EMBEDDED = Path(__file__).resolve().parents[2] / "embedded" / "sources"
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def model(folder: Path, tokens: list[str], dtype: torch.dtype, start: float = 0.0) -> Checkpoint:
    """Row i of a token is full of a number that the token's text decides."""
    folder.mkdir()
    rows = torch.stack([torch.full((3,), start + len(text)) for text in tokens]).to(dtype)
    save_file(
        {EMBEDDING: rows, HEAD: rows * 2, NORM: torch.ones(3, dtype=dtype)},
        folder / "model.safetensors",
    )
    vocabulary = {text: number for number, text in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return open_checkpoint(folder)


def values(checkpoint: Checkpoint, name: str) -> list[float]:
    info = checkpoint.tensors[name]
    return read_f32(info).reshape(info.shape)[:, 0].tolist()


def test_rows_follow_their_tokens_and_unknown_ones_are_the_bases(tmp_path: Path) -> None:
    base = model(tmp_path / "base", ["a", "bb", "ccc", "dddd"], torch.float16)
    donor = model(tmp_path / "donor", ["ccc", "<pad>", "a", "bb", "x"], torch.float16, start=0.5)
    mapped = map_vocabulary(donor, base, tmp_path / "scratch")
    assert values(mapped.model, EMBEDDING) == [1.5, 2.5, 3.5, 4.0]
    assert values(mapped.model, HEAD) == [3, 5, 7, 8]
    assert mapped.notes[0].text == "rows mapped by token: 3 of 5 used, 3 moved, 1 are the base's"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_token_that_the_donor_lacks_has_no_task_vector(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    base = model(tmp_path / "base", ["a", "bb", "ccc"], torch.float16, start=1 / 3)
    donor = model(tmp_path / "donor", ["bb"], dtype, start=0.25)
    mapped = map_vocabulary(donor, base, tmp_path / "scratch").model
    own, given = read_f32(base.tensors[EMBEDDING]), read_f32(mapped.tensors[EMBEDDING])
    assert np.array_equal(own[:3], given[:3])
    assert np.array_equal(own[6:], given[6:])
    assert given[3] == np.float32(2.25)


def plan_of(base: Checkpoint, donor: Checkpoint, folder: Path) -> TiesPlan:
    opened = open_donor(
        donor.folder, base, density=1.0, vocabulary="map", mapped=folder / "scratch" / "mapped"
    )
    return plan_ties(base, [opened], TiesSettings(), dtype="F16", shard_bytes=10**9)


def test_a_mapped_donor_is_merged(tmp_path: Path) -> None:
    base = model(tmp_path / "base", ["a", "bb", "ccc"], torch.float16)
    donor = model(tmp_path / "donor", ["ccc", "a", "bb", "x"], torch.bfloat16, start=1)
    manifest = build(
        plan_of(base, donor, tmp_path),
        tmp_path / "out",
        companions={},
        scratch=tmp_path / "scratch",
        threads=1,
    )
    assert values(open_checkpoint(tmp_path / "out"), EMBEDDING) == [2, 3, 4]
    text = "rows mapped by token: 3 of 4 used, 3 moved, 0 are the base's"
    assert ["donor", HEAD, text] in manifest["notes"]


def test_both_kinds_of_tokenizer_number_the_embedded_tokens_alike(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((EMBEDDED / "base" / "tokenizer.model").read_bytes())
    assert token_ids(tmp_path) == token_ids(EMBEDDED / "base")


def test_a_donor_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json and no tokenizer\.model"):
        token_ids(tmp_path)


def test_another_map_of_the_same_weights_is_another_merge(tmp_path: Path) -> None:
    """A folder of this library is known by its model id, which says nothing of its tokenizer."""
    base = model(tmp_path / "base", ["a", "bb", "ccc"], torch.float16)
    donor = model(tmp_path / "donor", ["a", "bb", "ccc"], torch.float16, start=1)
    (donor.folder / "manifest.json").write_text(json.dumps({"model_id": "0" * 64}))
    keys = [resume_key(plan_of(base, donor, tmp_path))]
    assert resume_key(plan_of(base, donor, tmp_path)) == keys[0]
    vocabulary = {"a": 0, "ccc": 1, "bb": 2}
    (donor.folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    assert resume_key(plan_of(base, donor, tmp_path)) != keys[0]


@pytest.mark.parametrize("name", ["../../../escaped/lm_head.weight", "x" * 300 + ".lm_head.weight"])
def test_the_name_of_a_tensor_is_the_name_of_no_file(tmp_path: Path, name: str) -> None:
    folders = []
    for label in ("base", "donor"):
        folder = model(tmp_path / label, ["a", "bb"], torch.float16).folder
        save_file({name: torch.ones(2, 3)}, folder / "model.safetensors")
        folders.append(open_checkpoint(folder))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    mapped = map_vocabulary(folders[1], folders[0], tmp_path / "a" / "b" / "scratch")
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert new and all(path.is_relative_to(tmp_path / "a" / "b" / "scratch") for path in new)
    assert read_f32(mapped.model.tensors[name]).tolist() == [1.0] * 6


def test_two_merges_that_map_at_once_have_a_folder_each(tmp_path: Path) -> None:
    base = model(tmp_path / "base", ["a", "bb"], torch.float16)
    model(tmp_path / "donor", ["bb", "a"], torch.float16)
    with mapping_folder(tmp_path / "scratch") as one:
        first = open_donor(
            tmp_path / "donor", base, density=1.0, vocabulary="map", mapped=one
        ).model
        with mapping_folder(tmp_path / "scratch") as two:
            open_donor(tmp_path / "donor", base, density=1.0, vocabulary="map", mapped=two)
        assert values(first, EMBEDDING) == [1, 2]
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("rule", [None, "truncate"])
def test_tokens_that_changed_places_are_refused_unless_they_are_mapped(
    tmp_path: Path, rule: str | None
) -> None:
    base = model(tmp_path / "base", ["a", "bb"], torch.float16)
    model(tmp_path / "donor", ["bb", "a"], torch.float16)
    with pytest.raises(CheckpointError, match=r"token 'a' is number 1 there and 0 in base") as no:
        open_donor(tmp_path / "donor", base, density=1.0, vocabulary=rule, mapped=tmp_path / "m")
    assert "`vocabulary: map`" in str(no.value) and "`--vocabulary map`" in str(no.value)
    with pytest.raises(RecipeError, match="needs a folder"):
        open_donor(tmp_path / "donor", base, density=1.0, vocabulary="map")
    with pytest.raises(RecipeError, match="vocabulary is 'pad'"):
        Donor(base, 1.0, vocabulary="pad")


MALFORMED: list[object] = [
    {},
    {"model": None},
    {"model": []},
    {"model": "x"},
    {"model": {"vocab": None}},
    {"model": {"vocab": 3}},
    {"model": {"vocab": [3]}},
    {"model": {"vocab": [[]]}},
    {"model": {"vocab": [[1, 2]]}},
    {"model": {"vocab": ["text"]}},
    {"model": {"vocab": {"a": -1}}},
    {"model": {"vocab": {"a": 1.5}}},
    {"model": {"vocab": {"a": True}}},
    {"model": {"vocab": {"a": [0]}}},
    {"model": {"vocab": {"a": None}}},
    {"model": {"vocab": {}}, "added_tokens": 3},
    {"model": {"vocab": {}}, "added_tokens": {"content": 1, "id": 1}},
    {"model": {"vocab": {}}, "added_tokens": [3]},
    {"model": {"vocab": {}}, "added_tokens": [{"id": 1}]},
    {"model": {"vocab": {}}, "added_tokens": [{"content": ["x"], "id": 1}]},
    {"model": {"vocab": {}}, "added_tokens": [{"content": "x"}]},
    {"model": {"vocab": {}}, "added_tokens": [{"content": "x", "id": "1"}]},
]


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_tokenizer_is_one_clear_line(tmp_path: Path, content: object) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        token_ids(tmp_path)


def test_a_tokenizer_model_of_other_bytes_is_one_clear_line(tmp_path: Path) -> None:
    for data in (b"", b"garbage", bytes(range(256)), b"\x0a\x7f\x00"):
        (tmp_path / "tokenizer.model").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"tokenizer\.model: "):
            token_ids(tmp_path)


def test_unigram_vocabularies_and_added_tokens_are_numbered_by_their_place(tmp_path: Path) -> None:
    content = {
        "model": {"vocab": [["<unk>", 0.0], ["a", -1.5], ["a", -2.0]]},
        "added_tokens": [{"content": "<pad>", "id": 7}, {"content": "a", "id": 9}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": 1, "<new>": 8}))
    assert token_ids(tmp_path) == {"<unk>": 0, "a": 1, "<pad>": 7, "<new>": 8}


def test_a_scratch_that_cannot_be_written_or_is_full_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = model(tmp_path / "base", ["a", "bb"], torch.float16)
    donor = model(tmp_path / "donor", ["bb", "a"], torch.float16)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ToolError, match=r"donor: mapping its vocabulary: .*file/scratch"):
        map_vocabulary(donor, base, tmp_path / "file" / "scratch")
    monkeypatch.setattr("remerge.files.free_bytes", lambda folder: 10)
    with pytest.raises(ToolError, match=r"donor: mapping its vocabulary needs"):
        map_vocabulary(donor, base, tmp_path / "scratch")
