"""Every architecture: bake, TIES and gradient, loaded by transformers, against plain float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from remerge.cli import main
from remerge.tensors.json_files import read_json
from tests.architectures import models

#: Rows that `make test` runs; the others are run by `make test-full`.
FAST = ("llama", "gpt2", "mixtral", "gemma3 (multimodal)", "phi3")
ROWS = [row if row in FAST else pytest.param(row, marks=pytest.mark.full) for row in models.ROWS]
#: Modules with a LoRA, where they are not called as in Llama.
TARGETS = {
    "gpt2": ["c_attn", "c_proj"],
    "gpt_bigcode": ["c_attn", "c_proj"],
    "gpt_neo": ["q_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense"],
    "falcon": ["query_key_value", "dense"],
    "phi3": ["qkv_proj", "o_proj"],
    "deepseek_v3": ["q_b_proj", "o_proj"],
    "gemma3 (multimodal)": r".*language_model.*\.(q_proj|o_proj)",
}


def run(*words: str | Path) -> None:
    assert main([str(word) for word in words]) == 0


def donors(row: str, folder: Path) -> list[torch.nn.Module]:
    """A base and two fine-tunes of it, saved in `base`, `one` and `two`."""
    made = [models.build(row)]
    for seed, name in enumerate(("one", "two"), 1):
        model = models.build(row)
        made.append(models.perturbed(model, seed, 0.05))
        model.save_pretrained(folder / name)
    made[0].save_pretrained(folder / "base")
    return made


def assert_same_model(folder: Path, expected: torch.nn.Module, places: dict[str, tuple]) -> None:
    """The model in a folder is the expected one to the bit, and in state-dict order."""
    loaded = models.load(folder)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert np.array_equal(models.logits(loaded), models.logits(expected.eval()))
    order = read_json(folder / "manifest.json")["order"]
    assert order == sorted(order, key=places.__getitem__)


@pytest.mark.parametrize("row", ROWS)
def test_merges_load_as_the_reference_computes(tmp_path: Path, row: str) -> None:
    base, one, two = donors(row, tmp_path)
    places = models.places(row, tmp_path / "places")
    common = ("--dtype", "float32", "--threads", "1")
    folders = [tmp_path / name for name in ("base", "one", "two")]
    out = tmp_path / "ties"
    run("ties", *folders, "--density", "1", "--out", out, *common)
    expected = models.build(row)
    with torch.no_grad():
        for (name, target), b in zip(
            expected.state_dict().items(), base.state_dict().values(), strict=True
        ):
            deltas = [model.state_dict()[name] - b for model in (one, two)]
            positive = deltas[0] + deltas[1] >= 0
            agree = [torch.where(positive, delta > 0, delta < 0) for delta in deltas]
            total = sum(torch.where(a, d, 0.0) for a, d in zip(agree, deltas, strict=True))
            count = agree[0].float() + agree[1].float()
            target.copy_(b + total / torch.where(count == 0, 1.0, count))
    assert_same_model(out, expected, places)

    out = tmp_path / "gradient"
    run("gradient", *folders[1:], "0", "1", "--out", out, *common)
    blended = {}
    x, y = (load_file(folder / "model.safetensors") for folder in folders[1:])
    names = sorted(x, key=places.__getitem__)
    for position, name in enumerate(names):
        ratio = position / (len(names) - 1)
        if 0 < ratio < 1:
            blended[name] = torch.tensor(1 - ratio) * x[name] + torch.tensor(ratio) * y[name]
        else:
            blended[name] = (x, y)[int(ratio)][name]
    written = load_file(out / "model.safetensors")
    assert written.keys() == blended.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in blended.items())
    assert read_json(out / "manifest.json")["order"] == names
    assert np.isfinite(models.logits(models.load(out))).all()


@pytest.mark.parametrize("row", ROWS)
def test_baked_lora_is_the_live_model(tmp_path: Path, row: str) -> None:
    model = models.build(row)
    model.save_pretrained(tmp_path / "base")
    target = TARGETS.get(row, ["q_proj", "o_proj"])
    live = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=5, target_modules=target))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            if "lora_" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    live.save_pretrained(tmp_path / "adapter")
    out = tmp_path / "baked"
    run("bake", tmp_path / "base", tmp_path / "adapter", "--out", out, "--dtype", "float32")
    expected = models.logits(live.eval())
    apart = np.abs(models.logits(models.load(out)) - expected).max()
    assert apart < 2e-5 * max(1, np.abs(expected).max())
    assert np.abs(models.logits(models.load(tmp_path / "base")) - expected).max() > 1e-3
    places = models.places(row, tmp_path / "places")
    order = read_json(out / "manifest.json")["order"]
    assert order == sorted(order, key=places.__getitem__)
