"""The tables of architectures say what the installed transformers does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers.pytorch_utils import Conv1D

from remerge.architectures.heads import Head, head_of, is_tied, untied
from remerge.architectures.layers import is_conv1d
from tests.architectures import models


def names_in(folder: Path) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return list(file.keys())


@pytest.mark.parametrize("row", models.ROWS)
def test_default_of_tied_flag_is_transformers(row: str) -> None:
    model_type, own = models.ROWS[row]
    own = {key: value for key, value in own.items() if key != "tie_word_embeddings"}
    config = transformers.AutoConfig.for_model(model_type, **own)
    assert is_tied({"model_type": model_type}) is bool(config.tie_word_embeddings)


@pytest.mark.parametrize("row", models.ROWS)
def test_head_is_known_by_its_stored_name(tmp_path: Path, row: str) -> None:
    stored = {}
    for tied in (True, False):
        model = models.build(row, tie_word_embeddings=tied)
        model.save_pretrained(tmp_path / str(tied))
        stored[tied] = names_in(tmp_path / str(tied))
        assert is_tied(model.config.to_dict()) is tied
    (name,) = set(stored[False]) - set(stored[True])
    config = model.config.to_dict()
    found = head_of(stored[False], config)
    assert found is not None and found.name == name and found.embedding in stored[True]
    assert head_of(stored[True], config) == found


@pytest.mark.parametrize("row", models.ROWS)
def test_conv1d_is_what_transformers_builds(row: str) -> None:
    model = models.build(row)
    config = model.config.to_dict()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            assert is_conv1d(name, config) is isinstance(module, Conv1D), name


def test_several_embeddings_leave_the_head_unknown() -> None:
    names = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"]
    assert head_of(names, {"model_type": "bart"}) is None
    mamba = {"model_type": "mamba"}
    assert head_of(["backbone.embeddings.weight"], mamba) == Head(
        "backbone.embeddings.weight", "lm_head.weight"
    )


def test_untied_reaches_nested_configs() -> None:
    config = {"text_config": {"hidden_size": 8, "tie_word_embeddings": True}}
    assert untied(config) == {
        "text_config": {"hidden_size": 8, "tie_word_embeddings": False},
        "tie_word_embeddings": False,
    }
