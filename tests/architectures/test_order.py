"""The order that is data is the one that transformers defines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from remerge.architectures.order import state_dict_order
from tests.architectures import models

#: Settings that add tensors, beside those of the rows.
BIASES = {"attention_bias": True, "mlp_bias": True}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((row, {}) for row in models.ROWS),
    *((row, BIASES) for row in ("llama", "qwen3", "granite", "olmo2", "gemma2", "glm4")),
    ("llama", {"num_hidden_layers": 11}),
    ("falcon", {"new_decoder_architecture": True}),
    ("falcon", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}),
    ("falcon", {"parallel_attn": False, "bias": True, "alibi": True}),
    ("qwen3_moe", {"mlp_only_layers": [0]}),
    ("deepseek_v3", {"q_lora_rank": None, "attention_bias": True}),
    ("gpt_neox", {"attention_bias": False, "use_parallel_residual": False}),
    ("gpt_bigcode", {"multi_query": False}),
    ("starcoder2", {"use_bias": False}),
    ("phi3", {"num_hidden_layers": 3}),
]


@pytest.mark.parametrize(("row", "settings"), VARIANTS)
def test_order_is_that_of_transformers(tmp_path: Path, row: str, settings: dict[str, Any]) -> None:
    expected = models.places(row, tmp_path, **settings)
    config = transformers.AutoConfig.from_pretrained(tmp_path).to_dict()
    names, known = state_dict_order(config, sorted(expected, reverse=True))
    assert known
    assert names == sorted(expected, key=expected.__getitem__)


@pytest.mark.parametrize("row", ["mixtral", "qwen3_moe", "deepseek_v3", "gemma3 (multimodal)"])
def test_names_in_memory_have_the_same_order(row: str) -> None:
    model = models.build(row)
    names = list(model.state_dict())
    order = state_dict_order(model.config.to_dict(), sorted(names))
    assert order == (names, True)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.model.", "transformer."])
def test_prefixes_do_not_change_the_order(prefix: str) -> None:
    names = list(models.build("gpt2", tie_word_embeddings=True).state_dict())[:-1]
    given = [prefix + name.removeprefix("transformer.") for name in names]
    assert state_dict_order({"model_type": "gpt2"}, reversed(given)) == (given, True)


def test_unknown_tensors_follow_by_number_and_word() -> None:
    names = ["b.10", "b.9", "a", "b.9.c"]
    for model_type in ("of tomorrow", None, ["llama"], 3, "llama"):
        order = state_dict_order({"model_type": model_type}, names)
        assert order == (["a", "b.9", "b.9.c", "b.10"], False)
    more = ["lm_head.weight", "model.layers.0.new.weight", "model.norm.weight"]
    assert state_dict_order({"model_type": "llama"}, more) == (
        ["model.norm.weight", "lm_head.weight", "model.layers.0.new.weight"],
        False,
    )


@pytest.mark.parametrize("number", ["00", "+1", "1" * 5000, "٣", "1_0"])
def test_a_number_has_one_spelling(number: str) -> None:
    name = f"model.layers.{number}.mlp.up_proj.weight"
    assert state_dict_order({"model_type": "llama"}, [name]) == ([name], False)


def test_two_names_of_one_tensor_have_no_order() -> None:
    names = ["model.norm.weight", "model.model.norm.weight"]
    assert state_dict_order({"model_type": "llama"}, names)[1] is False
