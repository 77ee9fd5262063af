"""`vocabulary: map` moves rows to where the base has their tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from remerge.errors import CheckpointError
from remerge.merge.ties import Donor, TiesSettings, plan_ties
from remerge.merge.vocabulary import map_vocabulary, token_ids
from remerge.shards.artefact import build
from remerge.tensors.checkpoint import Checkpoint, open_checkpoint, read_f32

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
    mapped, notes = map_vocabulary(donor, base, tmp_path / "scratch")
    assert values(mapped, EMBEDDING) == [1.5, 2.5, 3.5, 4.0]
    assert values(mapped, HEAD) == [3, 5, 7, 8]
    assert notes[0].text == "rows mapped by token: 3 of 5 used, 3 moved, 1 are the base's"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_token_that_the_donor_lacks_has_no_task_vector(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    base = model(tmp_path / "base", ["a", "bb", "ccc"], torch.float16, start=1 / 3)
    donor = model(tmp_path / "donor", ["bb"], dtype, start=0.25)
    mapped, _ = map_vocabulary(donor, base, tmp_path / "scratch")
    own, given = read_f32(base.tensors[EMBEDDING]), read_f32(mapped.tensors[EMBEDDING])
    assert np.array_equal(own[:3], given[:3])
    assert np.array_equal(own[6:], given[6:])
    assert given[3] == np.float32(2.25)


def test_a_mapped_donor_is_merged(tmp_path: Path) -> None:
    base = model(tmp_path / "base", ["a", "bb", "ccc"], torch.float16)
    donor = model(tmp_path / "donor", ["ccc", "a", "bb", "x"], torch.bfloat16, start=1)
    mapped, notes = map_vocabulary(donor, base, tmp_path / "scratch")
    plan = plan_ties(
        base,
        [Donor(mapped, 1.0, vocabulary="map", notes=tuple(notes))],
        TiesSettings(),
        dtype="F16",
        shard_bytes=10**9,
    )
    manifest = build(plan, tmp_path / "out", companions={}, scratch=tmp_path / "scratch", threads=1)
    assert values(open_checkpoint(tmp_path / "out"), EMBEDDING) == [2, 3, 4]
    assert ["donor", HEAD, notes[1].text] in manifest["notes"]


def test_both_kinds_of_tokenizer_number_the_embedded_tokens_alike(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((EMBEDDED / "base" / "tokenizer.model").read_bytes())
    assert token_ids(tmp_path) == token_ids(EMBEDDED / "base")


def test_a_donor_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json and no tokenizer\.model"):
        token_ids(tmp_path)
