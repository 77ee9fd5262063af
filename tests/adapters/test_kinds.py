"""Every kind of adapter that can be baked gives the weights and logits of the live peft model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from remerge.adapters.peft_files import read_adapter
from remerge.baking.bake import plan_bake
from remerge.errors import CheckpointError
from remerge.shards.artefact import build, companions_of
from remerge.tensors.checkpoint import config_of, open_checkpoint, read_f32
from tests.architectures import models

pytestmark = pytest.mark.filterwarnings("ignore")

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def train(model: torch.nn.Module, seed: int = 2) -> None:
    """What training does: no parameter of the adapter keeps its first value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def adapted(folder: Path, row: str, config: peft.PeftConfig, **settings: Any) -> Any:
    """Save `folder`/model and `folder`/adapter; returns the live model."""
    models.build(row, **settings).save_pretrained(folder / "model")
    model = peft.get_peft_model(models.load(folder / "model"), config).eval()
    train(model)
    model.save_pretrained(str(folder / "adapter"))
    return model


def bake(folder: Path, dtype: str = "F32") -> dict[str, np.ndarray]:
    """Bake `folder`/adapter into `folder`/model, as `folder`/baked; returns its weights."""
    plan = plan_bake(
        open_checkpoint(folder / "model"),
        read_adapter(folder / "adapter"),
        dtype=dtype,
        shard_bytes=10**9,
    )
    companions = companions_of(folder / "model")
    build(plan, folder / "baked", companions=companions, scratch=folder / "scratch", threads=2)
    tensors = open_checkpoint(folder / "baked").tensors
    return {name: read_f32(info).reshape(info.shape) for name, info in tensors.items()}


def compare(folder: Path, live: Any, kind: str = "") -> None:
    """Bake in float32: logits as the live model's, weights as peft merges them."""
    expected = models.logits(live)
    baked = bake(folder)
    found = models.logits(models.load(folder / "baked"))
    assert np.abs(found - expected).max() <= 4e-6 * max(1.0, np.abs(expected).max())
    if kind in MERGED_WRONGLY:
        return
    merged = live.merge_and_unload().state_dict()
    for name, mine in baked.items():
        theirs = merged[name].detach().numpy()
        assert np.abs(mine - theirs).max(initial=0) <= 2e-6 * max(1.0, np.abs(theirs).max()), name


def lora(**settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**({"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8} | settings))


KINDS: dict[str, tuple[str, dict[str, Any], peft.PeftConfig]] = {
    "dora": ("llama", {}, lora(target_modules=LINEAR, use_dora=True)),
    "dora on embedding and head": (
        "llama",
        {},
        lora(target_modules=["embed_tokens", "lm_head", "q_proj"], use_dora=True),
    ),
    "dora on Conv1D": ("gpt2", {}, lora(target_modules=["c_attn", "c_proj"], use_dora=True)),
    "dora, rslora, patterns": (
        "llama",
        {},
        lora(
            target_modules=LINEAR,
            use_dora=True,
            use_rslora=True,
            rank_pattern={"layers.1.self_attn.q_proj": 2},
            alpha_pattern={r".*\.1\..*": 3},
        ),
    ),
    "lora_bias": ("qwen2", {}, lora(target_modules=["q_proj", "v_proj"], lora_bias=True)),
    "bias: all": ("qwen2", {}, lora(target_modules=["q_proj", "o_proj"], bias="all")),
    "bias: all (gpt2)": ("gpt2", {}, lora(target_modules=["c_attn"], bias="all")),
    "bias: lora_only": ("qwen2", {}, lora(target_modules=["q_proj"], bias="lora_only")),
    "layers_to_transform": (
        "llama",
        {},
        lora(target_modules=["q_proj", "v_proj"], layers_to_transform=[1]),
    ),
    "exclude_modules": (
        "llama",
        {},
        lora(target_modules=["q_proj", "v_proj"], exclude_modules=r".*layers\.0.*v_proj"),
    ),
    "modules_to_save: norms by suffix": (
        "llama",
        {},
        lora(target_modules=["q_proj"], modules_to_save=["norm", "layers.1.mlp"]),
    ),
    "modules_to_save: part of a name": (
        "llama",
        {},
        lora(target_modules=["q_proj"], modules_to_save=["_head", "1.self_attn.k_proj"]),
    ),
    "trainable tokens": (
        "llama",
        {},
        lora(target_modules=["q_proj"], trainable_token_indices=[7, 3, 60]),
    ),
    "trainable tokens, tied": (
        "llama3.2 (tied)",
        {},
        lora(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 9]}),
    ),
    "trainable tokens, head of its own": (
        "llama",
        {},
        lora(
            target_modules=["q_proj"],
            trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [1]},
        ),
    ),
    "trainable tokens, tied, other tokens of the head": (
        "llama3.2 (tied)",
        {},
        lora(
            target_modules=["q_proj"],
            trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [1]},
        ),
    ),
    "trainable tokens, tied, same tokens of the head": (
        "llama3.2 (tied)",
        {},
        lora(
            target_modules=["q_proj"],
            trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [5, 9]},
        ),
    ),
    "trainable tokens, tied, head alone": (
        "llama3.2 (tied)",
        {},
        lora(target_modules=["q_proj"], trainable_token_indices={"lm_head": [5, 9]}),
    ),
    "TRAINABLE_TOKENS": (
        "llama",
        {},
        peft.TrainableTokensConfig(token_indices=[3, 60, 4], task_type="CAUSAL_LM"),
    ),
    "TRAINABLE_TOKENS, tied": (
        "llama3.2 (tied)",
        {},
        peft.TrainableTokensConfig(token_indices=[3, 60], task_type="CAUSAL_LM"),
    ),
    "target_parameters of experts": (
        "gpt_oss",
        {},
        lora(
            target_modules=["q_proj"],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ),
    ),
    "target_parameters, square": (
        "gpt_oss",
        {"intermediate_size": 32},
        lora(
            target_modules=[],
            target_parameters=["experts.down_proj"],
            rank_pattern={"layers.1.mlp.experts.down_proj": 2},
        ),
    ),
    "target_parameters of linear modules": (
        "llama",
        {},
        lora(target_modules=[], target_parameters=["q_proj.weight", "mlp.up_proj.weight"]),
    ),
    "loha": ("llama", {}, peft.LoHaConfig(r=3, alpha=5, target_modules=LINEAR)),
    "lokr": ("llama", {}, peft.LoKrConfig(r=3, alpha=5, target_modules=LINEAR)),
    "lokr, both decomposed": (
        "llama",
        {},
        peft.LoKrConfig(
            r=1,
            alpha=2,
            target_modules=LINEAR,
            decompose_both=True,
            decompose_factor=8,
            rank_pattern={"up_proj": 2},
        ),
    ),
    "lokr, whole factors": ("llama", {}, peft.LoKrConfig(r=64, alpha=5, target_modules=LINEAR)),
    "ia3": (
        "qwen2",
        {},
        peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
        ),
    ),
    "ia3 on Conv1D": (
        "gpt2",
        {},
        peft.IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]),
    ),
    "vera": ("llama", {}, peft.VeraConfig(r=5, target_modules=["q_proj", "v_proj", "down_proj"])),
    "vera on Conv1D": ("gpt2", {}, peft.VeraConfig(r=5, target_modules=["c_attn"])),
    "ln tuning": ("gpt2", {}, peft.LNTuningConfig(target_modules=["ln_1", "ln_f"])),
}
#: peft computes these with two matrices and merges both changes into the one that is tied.
MERGED_WRONGLY = (
    "trainable tokens, tied, other tokens of the head",
    "trainable tokens, tied, head alone",
)


@pytest.mark.parametrize("kind", KINDS)
def test_kind_is_baked_as_the_live_model_computes(tmp_path: Path, kind: str) -> None:
    row, settings, config = KINDS[kind]
    compare(tmp_path, adapted(tmp_path, row, config, **settings), kind)


RESIZED: dict[str, dict[str, Any]] = {
    "saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "lora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "not trained": {"target_modules": ["q_proj"]},
    "trained tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [64, 65]},
    "dora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_dora": True},
}


@pytest.mark.parametrize("row", ["llama", "llama3.2 (tied)"])
@pytest.mark.parametrize("kind", RESIZED)
def test_adapter_of_a_resized_vocabulary(tmp_path: Path, kind: str, row: str) -> None:
    """On the resized model as in the live one; on the original one, what to do is said."""
    models.build(row).save_pretrained(tmp_path / "original")
    model = models.load(tmp_path / "original")
    model.resize_token_embeddings(66)
    model.save_pretrained(tmp_path / "model")
    model = models.load(tmp_path / "model")
    # peft compares the vocabulary with that of the model's path, and saves embeddings it if grew.
    model.name_or_path = model.config._name_or_path = str(tmp_path / "original")
    live = peft.get_peft_model(model, lora(**RESIZED[kind])).eval()
    train(live)
    live.save_pretrained(str(tmp_path / "adapter"))
    expected = models.logits(live)
    bake(tmp_path)
    found = models.logits(models.load(tmp_path / "baked"))
    assert np.abs(found - expected).max() <= 4e-6 * max(1.0, np.abs(expected).max())
    still = row != "llama" and kind in ("not trained", "trained tokens")
    assert config_of(tmp_path / "baked")["tie_word_embeddings"] is still
    (tmp_path / "model").rename(tmp_path / "resized")
    (tmp_path / "original").rename(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"66 rows.*model has 64; .*resize_token_embeddings"):
        bake(tmp_path)


def test_lora_bias_on_a_module_without_bias_is_refused(tmp_path: Path) -> None:
    adapted(tmp_path, "llama", lora(target_modules=["q_proj"], lora_bias=True))
    with pytest.raises(CheckpointError, match=r"q_proj' lora_bias, and model stores no bias"):
        bake(tmp_path)


@pytest.mark.parametrize(
    "entry, says",
    [
        ({"use_dora": False}, "has lora_magnitude_vector, but .* says use_dora=false"),
        ({"r": 2}, "not of the rank 2"),
        ({"trainable_token_indices": [3]}, "trains 2 tokens"),
    ],
)
def test_config_of_another_adapter_is_refused(
    tmp_path: Path, entry: dict[str, Any], says: str
) -> None:
    config = lora(target_modules=["q_proj"], use_dora=True, trainable_token_indices=[1, 2])
    adapted(tmp_path, "llama", config)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entry))
    with pytest.raises(CheckpointError, match=says):
        bake(tmp_path)


def test_adapter_without_a_module_that_it_saves_is_refused(tmp_path: Path) -> None:
    config = lora(target_modules=["q_proj"], modules_to_save=["layers.1.mlp", "lm_head"])
    adapted(tmp_path, "llama", config)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if "up_proj" not in name}
    save_file(kept, path)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj.*is incomplete"):
        bake(tmp_path)


@pytest.mark.parametrize("start", ["pissa_niter_2", "olora"])
def test_start_that_changes_the_model_is_refused(tmp_path: Path, start: str) -> None:
    adapted(tmp_path, "llama", lora(target_modules=["q_proj"], init_lora_weights=start))
    with pytest.raises(CheckpointError, match=f"init_lora_weights={start}.*merge_and_unload"):
        bake(tmp_path)


@pytest.mark.parametrize("start", ["pissa_niter_2", "olora"])
def test_converted_start_is_baked(tmp_path: Path, start: str) -> None:
    """What peft offers for these starts, and our refusal names: a plain LoRA of twice the rank."""
    models.build("llama").save_pretrained(tmp_path / "model")
    config = lora(target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    live = peft.get_peft_model(models.load(tmp_path / "model"), config).eval()
    live.peft_config["default"].init_lora_weights = True
    live.save_pretrained(str(tmp_path / "start"))
    live.peft_config["default"].init_lora_weights = start
    train(live)
    expected = models.logits(live)
    live.save_pretrained(
        str(tmp_path / "adapter"),
        path_initial_model_for_weight_conversion=str(tmp_path / "start"),
    )
    bake(tmp_path)
    found = models.logits(models.load(tmp_path / "baked"))
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


REFUSED = {
    "OFT": peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    "BOFT": peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"]),
    "FOURIERFT": peft.FourierFTConfig(n_frequency=9, target_modules=["q_proj"]),
    "ADALORA": peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10),
    "HRA": peft.HRAConfig(r=2, target_modules=["q_proj"]),
    "PROMPT_TUNING": peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_kind_that_cannot_be_baked_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    adapted(tmp_path, "llama", REFUSED[kind])
    with pytest.raises(CheckpointError, match=f"peft_type is {kind}"):
        bake(tmp_path)


def test_vera_without_its_projections_is_refused(tmp_path: Path) -> None:
    adapted(
        tmp_path, "llama", peft.VeraConfig(r=4, target_modules=["q_proj"], save_projection=False)
    )
    with pytest.raises(CheckpointError, match=r"without its projections \(save_projection\)"):
        bake(tmp_path)
