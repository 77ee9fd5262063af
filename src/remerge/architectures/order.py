"""State-dict order of decoders that are built like Llama, as data.

>>> llama_order({"model_type": "llama", "num_hidden_layers": 1})[:2]
['model.embed_tokens.weight', 'model.layers.0.self_attn.q_proj.weight']

The order is that in which transformers registers the modules; a test compares the two. It needs no
transformers, so the core package orders these models by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Architectures whose layers have these modules in this order, and no others.
_LIKE_LLAMA = frozenset({"llama", "mistral", "qwen2"})
_MODULES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
)


def llama_order(config: Mapping[str, Any]) -> list[str]:
    """Return all names that such a model may have, in state-dict order; none for another one.

    Args:
        config: The model's `config.json`. Biases are listed whether or not it has them.
    """
    layers = config.get("num_hidden_layers")
    if str(config.get("model_type")) not in _LIKE_LLAMA or type(layers) is not int:
        return []
    names = ["model.embed_tokens.weight"]
    for layer in range(layers):
        for module in _MODULES:
            names += [f"model.layers.{layer}.{module}.{kind}" for kind in ("weight", "bias")]
    return [*names, "model.norm.weight", "lm_head.weight"]
