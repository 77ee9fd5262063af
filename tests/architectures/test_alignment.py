"""Merges of tied and untied models: what is stored, and what config.json then says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from remerge.errors import CheckpointError
from remerge.merge.donors import mapping_folder, open_donor
from remerge.methods.gradient import Gradient, plan_gradient
from remerge.methods.ties import Donor, TiesSettings, plan_ties
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import config_of, open_checkpoint
from tests.architectures import models

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def save(folder: Path, seed: int, kind: str) -> Path:
    """A donor: `tied` (no head stored), `copy` (an equal head stored), `own` (untied)."""
    model = models.build("llama3.2 (tied)", tie_word_embeddings=kind != "own")
    models.perturbed(model, seed, 0.05).save_pretrained(folder)
    if kind == "copy":
        path = folder / "model.safetensors"
        weights = load_file(path)
        weights[HEAD] = weights[EMBEDDING].clone()
        save_file(weights, path, metadata={"format": "pt"})
    return folder


def written(plan: Any, folder: Path, first: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    manifest = build(
        plan, folder, companions=companions_of(first), scratch=folder / "../scratch", threads=1
    )
    return manifest, load_file(folder / "model.safetensors")


def full(folder: Path) -> dict[str, np.ndarray]:
    """All weights with the head, tied or not, as float32."""
    weights = load_file(folder / "model.safetensors")
    weights.setdefault(HEAD, weights[EMBEDDING])
    return {name: tensor.numpy() for name, tensor in weights.items()}


@pytest.mark.parametrize("donor", ["tied", "copy", "own"])
@pytest.mark.parametrize("base", ["tied", "copy", "own"])
def test_ties_merges_tied_and_untied_models(tmp_path: Path, base: str, donor: str) -> None:
    one, two = save(tmp_path / "one", 1, base), save(tmp_path / "two", 2, donor)
    plan = plan_ties(
        open_checkpoint(one),
        [Donor(open_checkpoint(two), 1.0)],
        TiesSettings(),
        dtype="F32",
        shard_bytes=10**9,
    )
    _, weights = written(plan, tmp_path / "out", one)
    stored = base != "tied" or donor == "own"
    assert (HEAD in weights) is stored
    x, b = full(two), full(one)
    for name, tensor in weights.items():
        assert np.array_equal(tensor.numpy(), b[name] + (x[name] - b[name])), name
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is ("own" not in (base, donor))
    expected = models.logits(models.load(two))
    assert np.abs(models.logits(models.load(tmp_path / "out")) - expected).max() < 1e-4


@pytest.mark.parametrize("second", ["tied", "copy", "own"])
@pytest.mark.parametrize("first", ["tied", "copy", "own"])
def test_gradient_counts_a_head_where_it_is_stored(tmp_path: Path, first: str, second: str) -> None:
    one, two = save(tmp_path / "one", 1, first), save(tmp_path / "two", 2, second)
    plan = plan_gradient(
        open_checkpoint(one),
        open_checkpoint(two),
        Gradient((0.0, 1.0)),
        dtype="F32",
        shard_bytes=10**9,
    )
    manifest, weights = written(plan, tmp_path / "out", one)
    stored = first != "tied" or second == "own"
    assert (HEAD in weights) is stored and len(weights) == 20 + stored
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is not stored
    a, b = full(one), full(two)
    for name, entry in manifest["tensors"].items():
        ratio = np.float32(entry["statistics"]["ratio"])
        blend = np.float32(1 - entry["statistics"]["ratio"]) * a[name] + ratio * b[name]
        assert np.array_equal(weights[name].numpy(), blend), name
    models.load(tmp_path / "out")


def test_one_ratio_leaves_a_tied_model_tied(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", 1, "copy"), save(tmp_path / "two", 2, "tied")
    models_of = (open_checkpoint(one), open_checkpoint(two))
    plan = plan_gradient(*models_of, Gradient((0.5, 0.5)), dtype="F32", shard_bytes=10**9)
    _, weights = written(plan, tmp_path / "out", one)
    assert torch.equal(weights[HEAD], weights[EMBEDDING])
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is True


def test_untied_model_without_head_is_refused(tmp_path: Path) -> None:
    base = save(tmp_path / "base", 1, "own")
    broken = save(tmp_path / "broken", 2, "own")
    weights = load_file(broken / "model.safetensors")
    del weights[HEAD]
    save_file(weights, broken / "model.safetensors")
    for pair in ((base, broken), (broken, base)):
        one, two = map(open_checkpoint, pair)
        with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
            plan_ties(one, [Donor(two, 1.0)], TiesSettings(), dtype="F32", shard_bytes=10**9)


def tokenized(folder: Path, order: list[int]) -> Path:
    """Give a model a tokenizer whose token of row i is that of row order[i] of the others."""
    vocabulary = {f"token {text}": row for row, text in enumerate(order)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return folder


@pytest.mark.parametrize("kinds", [("tied", "own"), ("copy", "tied"), ("own", "own")])
@pytest.mark.parametrize("base", ["tied", "own"])
def test_tied_and_untied_donors_are_mapped_by_token(
    tmp_path: Path, base: str, kinds: tuple[str, str]
) -> None:
    plain, moved = list(range(64)), list(reversed(range(64)))
    first = tokenized(save(tmp_path / "base", 1, base), plain)
    model_ids = []
    for order, rule in ((plain, None), (moved, "map")):
        donors = []
        with mapping_folder(tmp_path / "scratch") as mapped:
            for number, kind in enumerate(kinds):
                folder = tmp_path / f"{rule} {number}"
                tokenized(save(folder, 2 + number, kind), order)
                weights = load_file(folder / "model.safetensors")
                rows = {name: weights[name][order] for name in (EMBEDDING, HEAD) if name in weights}
                save_file(weights | rows, folder / "model.safetensors", metadata={"format": "pt"})
                donors.append(
                    open_donor(
                        folder,
                        open_checkpoint(first),
                        density=0.5,
                        vocabulary=rule,
                        mapped=mapped,
                        label=f"{number}",
                    )
                )
            plan = plan_ties(
                open_checkpoint(first), donors, TiesSettings(), dtype="F32", shard_bytes=10**9
            )
            manifest, weights = written(plan, tmp_path / f"out {rule}", first)
        model_ids.append(manifest["model_id"])
        assert (HEAD in weights) is (base == "own" or "own" in kinds)
        models.load(tmp_path / f"out {rule}")
    assert model_ids[0] == model_ids[1]
