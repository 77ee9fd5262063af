"""Adapters of every kind that peft writes, baked by us and merged by peft."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from remerge.adapters.peft_config import check_adapter_config
from remerge.adapters.peft_files import read_adapter
from remerge.baking.bake import plan_bake
from remerge.errors import CheckpointError
from remerge.shards.artefact import build
from remerge.tensors.checkpoint import open_checkpoint, read_f32

LLAMA = LlamaConfig(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    tie_word_embeddings=False,
)
GPT2 = GPT2Config(vocab_size=48, n_embd=32, n_layer=2, n_head=4, n_positions=32)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def made(config: Any, seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return (LlamaForCausalLM if config is LLAMA else GPT2LMHeadModel)(config).eval()


def train(model: Any, seed: int = 2) -> None:
    """What training does to an adapter: no matrix stays zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.05


def ulps(mine: np.ndarray, theirs: np.ndarray) -> int:
    """The largest distance of two float16 arrays in steps of the type."""

    def line(values: np.ndarray) -> np.ndarray:
        bits = values.view(np.int16).astype(np.int32)
        return np.where(bits < 0, -(bits & 0x7FFF), bits)

    return int(np.abs(line(mine) - line(theirs)).max(initial=0))


def bake(folder: Path) -> dict[str, np.ndarray]:
    plan = plan_bake(
        open_checkpoint(folder / "model"),
        read_adapter(folder / "adapter"),
        dtype="F16",
        shard_bytes=10**9,
    )
    build(plan, folder / "baked", companions={}, scratch=folder / "scratch", threads=1)
    baked = open_checkpoint(folder / "baked").tensors
    return {n: read_f32(t).astype(np.float16).reshape(t.shape) for n, t in baked.items()}


def compare(folder: Path, base: torch.nn.Module, lora: peft.LoraConfig) -> dict[str, Any]:
    """Bake and merge; returns the config that peft wrote. Weights must agree within one ulp."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").mkdir()
    weights = {n: t.clone() for n, t in base.state_dict().items()}
    if getattr(base.config, "tie_word_embeddings", False):
        weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model" / "model.safetensors")
    base.config.save_pretrained(folder / "model")
    model = peft.get_peft_model(base, lora)
    train(model)
    model.save_pretrained(str(folder / "adapter"))
    merged = model.merge_and_unload().state_dict()
    baked = bake(folder)
    assert set(baked) == set(weights)
    changed = 0
    for name, mine in baked.items():
        theirs = merged[name].detach().to(torch.float16).numpy()
        assert ulps(mine, theirs) <= 1, name
        changed += not np.array_equal(mine, weights[name].to(torch.float16).numpy())
    assert changed
    return json.loads((folder / "adapter" / "adapter_config.json").read_text())


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    targets=st.lists(
        st.sampled_from([*LINEAR, "lm_head", "embed_tokens"]), min_size=1, unique=True
    ),
    rank=st.integers(1, 9),
    alpha=st.integers(1, 40),
    rslora=st.booleans(),
    patterns=st.dictionaries(
        st.sampled_from(
            ["q_proj", "layers.1.mlp.up_proj", r".*\.0\..*", "^model.layers.1.self_attn.v_proj"]
        ),
        st.integers(1, 12),
        max_size=3,
    ),
    fan_in_fan_out=st.booleans(),
    number=st.integers(0, 10**9),
)
@pytest.mark.filterwarnings("ignore")
def test_any_llama_adapter_is_baked_as_peft_merges_it(
    tmp_path: Path,
    targets: list[str],
    rank: int,
    alpha: int,
    rslora: bool,
    patterns: dict[str, int],
    fan_in_fan_out: bool,
    number: int,
) -> None:
    patterns = dict(sorted(patterns.items()))  # peft sorts them when it saves, and the first counts
    lora = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        use_rslora=rslora,
        rank_pattern=patterns,
        alpha_pattern={key: value + 3 for key, value in patterns.items()},
        fan_in_fan_out=fan_in_fan_out,
    )
    compare(tmp_path / f"{number}-{len(list(tmp_path.iterdir()))}", made(LLAMA), lora)


@pytest.mark.filterwarnings("ignore")
def test_layers_stored_the_other_way_round_are_baked_that_way(tmp_path: Path) -> None:
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"])
    compare(tmp_path / "default", made(GPT2), lora)
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True)
    compare(tmp_path / "stated", made(GPT2), lora)


@pytest.mark.filterwarnings("ignore")
def test_modules_saved_whole_replace_the_models(tmp_path: Path) -> None:
    lora = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]
    )
    compare(tmp_path, made(LLAMA), lora)


@pytest.mark.filterwarnings("ignore")
def test_an_embedding_that_is_saved_and_updated_is_first_replaced(tmp_path: Path) -> None:
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["embed_tokens", "lm_head", "q_proj"])
    compare(tmp_path, made(LLAMA), lora)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("base_layer" in name for name in saved)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["raw", "adapter"])
def test_names_of_any_age_are_understood(tmp_path: Path, kind: str) -> None:
    """Raw state dicts carry the adapter's name; early versions of peft saved them so."""
    lora = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"]
    )
    compare(tmp_path, made(LLAMA), lora)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    before = read_adapter(tmp_path / "adapter")
    renamed = {}
    for name, tensor in load_file(path).items():
        if kind == "raw":
            name = name.replace("lora_A.weight", "lora_A.default.weight")
            name = name.replace("lora_B.weight", "lora_B.default.weight")
            for side in "AB":
                if name.endswith(f"lora_embedding_{side}"):
                    name += ".default"
            name = name.replace("lm_head.weight", "lm_head.modules_to_save.default.weight")
        renamed[name] = tensor
    save_file(renamed, path)
    after = read_adapter(tmp_path / "adapter")
    assert after.updates.keys() == before.updates.keys()
    assert after.replacements.keys() == before.replacements.keys()


GOOD = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


@pytest.mark.parametrize(
    "entry, says",
    [
        ({"use_dora": 1}, "use_dora is 1, not true or false"),
        ({"peft_type": "OFT"}, "peft_type is OFT; LORA, LOHA"),
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING, which changes no weights"),
        ({"bias": "some"}, "bias=some is not one of none, all, lora_only"),
        ({"init_lora_weights": "olora"}, "init_lora_weights=olora is not supported"),
        ({"init_lora_weights": 1}, "init_lora_weights=1"),
        ({"new_maths": 3}, "new_maths=3 is not supported or not known; bake it with peft"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora="),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_parameters": "experts"}, "target_parameters is experts, not a list"),
        ({"r": 0}, "r is 0"),
        ({"use_rslora": "false"}, "use_rslora is false, not true or false"),
        ({"fan_in_fan_out": 1}, "fan_in_fan_out is 1"),
        ({"modules_to_save": "lm_head"}, "modules_to_save is lm_head, not a list of names"),
        ({"lora_alpha": math.inf}, "lora_alpha is inf"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(entry: dict[str, Any], says: str) -> None:
    check_adapter_config(GOOD, "here")
    with pytest.raises(CheckpointError) as caught:
        check_adapter_config(GOOD | entry, "here")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "twin",
    [
        ("lora_A.weight", "lora_A.default.weight"),
        ("lora_B.weight", "lora_B.default"),
        ("lora_A.weight", "lora_embedding_A"),
    ],
)
def test_two_tensors_for_one_place_are_refused(tmp_path: Path, twin: tuple[str, str]) -> None:
    module = "base_model.model.model.embed_tokens"
    names = ["lora_A.weight", "lora_B.weight"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(GOOD))
    tensors = {f"{module}.{name}": torch.ones(4, 4) for name in (*names, *twin)}
    if "embedding" in twin[1]:
        tensors[f"{module}.lora_embedding_B"] = torch.ones(4, 4)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"embed_tokens.*more than once"):
        read_adapter(tmp_path)


def test_a_module_saved_twice_must_be_the_same(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(GOOD | {"modules_to_save": ["head"]}))
    names = ("head.weight", "head.modules_to_save.default.weight")
    tensors = {f"base_model.model.{name}": torch.ones(4, 4) for name in names}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (found,) = read_adapter(tmp_path).replacements.values()
    assert found.name == f"base_model.model.{names[0]}"  # the one that peft reads
    tensors[f"base_model.model.{names[1]}"][0, 0] = 2
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"head.*more than once, and .*other values"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("key", ["(a+)+$", "(" * 9, "x" * 300, "a*b*c*d*e", r"(.*\.)*q_proj"])
def test_a_pattern_that_could_take_for_ever_is_refused(tmp_path: Path, key: str) -> None:
    config = GOOD | {"rank_pattern": {key: 4}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file(
        {name.format("A"): torch.ones(4, 8), name.format("B"): torch.ones(8, 4)},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"refused|no regular expression"):
        read_adapter(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_the_embedded_adapters_are_baked_as_peft_merges_them(tmp_path: Path) -> None:
    """Kimiko's and LimaRP's stand-ins on the donors that they are meant for."""
    embedded = Path(__file__).resolve().parents[2] / "embedded" / "sources"
    for donor, adapter in (("lookup", "reversal_lora"), ("brackets", "maximum_lora")):
        folder = tmp_path / donor
        (folder / "model").mkdir(parents=True)
        (folder / "adapter").mkdir()
        model = LlamaForCausalLM.from_pretrained(str(embedded / donor), dtype=torch.float32)
        save_file(
            {n: t.clone() for n, t in model.state_dict().items()},
            folder / "model" / "model.safetensors",
        )
        merged = peft.PeftModel.from_pretrained(model, str(embedded / adapter))
        theirs = merged.merge_and_unload().state_dict()
        pickled = embedded / adapter / "adapter_model.bin"
        weights = (
            torch.load(pickled, weights_only=True)
            if pickled.exists()
            else load_file(embedded / adapter / "adapter_model.safetensors")
        )
        save_file(weights, folder / "adapter" / "adapter_model.safetensors")
        config = (embedded / adapter / "adapter_config.json").read_text()
        (folder / "adapter" / "adapter_config.json").write_text(config)
        for name, mine in bake(folder).items():
            assert ulps(mine, theirs[name].to(torch.float16).numpy()) <= 1, name
