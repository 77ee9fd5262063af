"""The order that is data is the one that transformers defines."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from remerge.architectures.order import llama_order


@pytest.mark.parametrize("settings", [{}, {"attention_bias": True, "mlp_bias": True}])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2"])
def test_order_is_that_of_transformers(model_type: str, settings: dict[str, bool]) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = {"num_hidden_layers": 11, "num_key_value_heads": 1, "vocab_size": 8, **sizes}
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(model_type, **config, **settings)
        )
    names = list(built.state_dict())
    order = llama_order({"model_type": model_type, **config})
    assert [name for name in order if name in names] == names


def test_another_architecture_has_no_order_here() -> None:
    assert llama_order({"model_type": "gpt2", "num_hidden_layers": 1}) == []
    assert llama_order({"model_type": ["llama"], "num_hidden_layers": "1"}) == []
