"""Baked models give the logits of the live peft model, whatever the adapter does to a tied head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from remerge.adapters.fit import fit_adapter
from remerge.adapters.peft_files import read_adapter
from remerge.baking.bake import plan_bake
from remerge.errors import CheckpointError
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import config_of, open_checkpoint
from tests.architectures import models

pytestmark = pytest.mark.filterwarnings("ignore")


def adapted(folder: Path, seed: int = 2, scale: float = 0.1, **lora: Any) -> np.ndarray:
    """Save `folder`/adapter for `folder`/model; returns the logits of the live model."""
    base = models.load(folder / "model")
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=4, **lora)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += scale * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(folder / "adapter"))
    return models.logits(model)


def bake(folder: Path) -> dict[str, Any]:
    """Bake `folder`/adapter into `folder`/model in float32, as `folder`/baked."""
    plan = plan_bake(
        open_checkpoint(folder / "model"),
        read_adapter(folder / "adapter"),
        dtype="F32",
        shard_bytes=10**9,
    )
    return build(
        plan,
        folder / "baked",
        companions=companions_of(folder / "model"),
        scratch=folder / "scratch",
        threads=1,
    )


def off_by(folder: Path, live: np.ndarray) -> float:
    """The largest difference of logits, as a share of the largest logit."""
    baked = models.logits(models.load(folder / "baked"))
    return float(np.abs(baked - live).max() / max(1.0, np.abs(live).max()))


TIED = {
    "lora on embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "embedding saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "lora on head": {"target_modules": ["q_proj", "lm_head"]},
    "head saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "lora on both": {"target_modules": ["embed_tokens", "lm_head"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding saved, lora on head": {
        "target_modules": ["q_proj", "lm_head"],
        "modules_to_save": ["embed_tokens"],
    },
}


@pytest.mark.parametrize("stored", [False, True], ids=["one matrix", "head stored too"])
@pytest.mark.parametrize("kind", TIED)
def test_tied_model_bakes_as_live_model(tmp_path: Path, kind: str, stored: bool) -> None:
    models.build("llama3.2 (tied)").save_pretrained(tmp_path / "model")
    if stored:
        path = tmp_path / "model" / "model.safetensors"
        weights = load_file(path)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, path, metadata={"format": "pt"})
    live = adapted(tmp_path, **TIED[kind])
    manifest = bake(tmp_path)
    assert off_by(tmp_path, live) <= 2e-6
    assert config_of(tmp_path / "baked")["tie_word_embeddings"] is False
    assert "lm_head.weight" in manifest["order"]
    assert any("untied from model.embed_tokens" in text for _, _, text in manifest["notes"])


@pytest.mark.parametrize("stored", [False, True], ids=["one matrix", "head stored too"])
@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
    ids=str,
)
def test_ensure_weight_tying_keeps_one_matrix(
    tmp_path: Path, lora: dict[str, Any], stored: bool
) -> None:
    models.build("llama3.2 (tied)").save_pretrained(tmp_path / "model")
    if stored:
        path = tmp_path / "model" / "model.safetensors"
        weights = load_file(path)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, path, metadata={"format": "pt"})
    live = adapted(tmp_path, ensure_weight_tying=True, **lora)
    bake(tmp_path)
    assert off_by(tmp_path, live) <= 2e-6
    assert config_of(tmp_path / "baked")["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    "row, embedding",
    [
        ("qwen2", "embed_tokens"),
        ("gemma2", "embed_tokens"),
        ("gemma3 (text)", "embed_tokens"),
        ("smollm3", "embed_tokens"),
        ("starcoder2", "embed_tokens"),
        ("gpt2", "wte"),
        ("gpt_bigcode", "wte"),
        ("gpt_neo", "wte"),
        ("falcon", "word_embeddings"),
    ],
)
def test_tied_flag_may_be_the_default(tmp_path: Path, row: str, embedding: str) -> None:
    models.build(row).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    tied = config.pop("tie_word_embeddings", True)
    if row == "qwen2":  # not tied by default
        config["tie_word_embeddings"] = tied
    path.write_text(json.dumps(config))
    live = adapted(tmp_path, target_modules=[embedding])
    bake(tmp_path)
    assert off_by(tmp_path, live) <= 2e-6
    assert config_of(tmp_path / "baked")["tie_word_embeddings"] is False


def test_untied_model_keeps_its_head_untouched(tmp_path: Path) -> None:
    models.build("gpt_neox").save_pretrained(tmp_path / "model")
    live = adapted(tmp_path, target_modules=["embed_in", "query_key_value"])
    manifest = bake(tmp_path)
    assert off_by(tmp_path, live) <= 2e-6
    assert not any("untied" in text for _, _, text in manifest["notes"])


MODULES = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_bigcode": ["c_attn", "c_proj", "c_fc"],
    "starcoder2": ["c_fc", "c_proj", "q_proj"],
    "gpt_neo": ["c_fc", "c_proj", "out_proj"],
    "gpt_neox": ["dense", "query_key_value", "dense_h_to_4h"],
    "falcon": ["query_key_value", "dense"],
    "phi3": ["qkv_proj", "gate_up_proj"],
}


@pytest.mark.parametrize("fan_in_fan_out", [False, True])
@pytest.mark.parametrize("row", MODULES)
def test_class_of_module_follows_from_architecture(
    tmp_path: Path, row: str, fan_in_fan_out: bool
) -> None:
    models.build(row).save_pretrained(tmp_path / "model")
    live = adapted(tmp_path, target_modules=MODULES[row])
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"fan_in_fan_out": fan_in_fan_out}))
    manifest = bake(tmp_path)
    assert off_by(tmp_path, live) <= 2e-6
    ignored = [t for _, _, t in manifest["notes"] if t.startswith("fan_in_fan_out ignored")]
    assert bool(ignored) == (fan_in_fan_out and row != "gpt2")


@pytest.mark.parametrize("model_type", ["of tomorrow", None])
def test_square_module_of_unknown_class_is_refused(tmp_path: Path, model_type: str | None) -> None:
    models.build("gpt2").save_pretrained(tmp_path / "model")
    adapted(tmp_path, target_modules=["c_proj"])
    config = {} if model_type is None else {"model_type": model_type}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"attn\.c_proj.*square.*Linear or Conv1D"):
        bake(tmp_path)


def test_shape_tells_class_of_unknown_architecture(tmp_path: Path) -> None:
    models.build("gpt2").save_pretrained(tmp_path / "model")
    adapted(tmp_path, target_modules=["c_fc", "c_attn"])
    model = open_checkpoint(tmp_path / "model")
    fitted = fit_adapter(read_adapter(tmp_path / "adapter"), model.tensors, {}, "model")
    assert {update.transposed for update in fitted.adapter.updates.values()} == {True}


def test_changed_embedding_with_unknown_head_is_refused(tmp_path: Path) -> None:
    models.build("llama3.2 (tied)").save_pretrained(tmp_path / "model")
    adapted(tmp_path, target_modules=["embed_tokens"])
    for folder, file in (("model", "model"), ("adapter", "adapter_model")):
        path = tmp_path / folder / f"{file}.safetensors"
        weights = {n.replace("embed_tokens", "embed_words"): t for n, t in load_file(path).items()}
        save_file(weights, path)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "of tomorrow"}')
    with pytest.raises(CheckpointError, match=r"embed_words.*"):
        bake(tmp_path)
