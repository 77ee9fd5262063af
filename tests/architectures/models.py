"""Tiny models of the architectures that people merge, built by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NEO = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
#: Settings beside SMALL, by the name of a row: (model_type, settings).
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL),
    "llama3.2 (tied)": ("llama", SMALL | {"tie_word_embeddings": True}),
    "mistral": ("mistral", SMALL),
    "mixtral": ("mixtral", SMALL | {"num_local_experts": 4}),
    "qwen2": ("qwen2", SMALL | {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", SMALL | {"head_dim": 8, "tie_word_embeddings": True}),
    "qwen3_moe": (
        "qwen3_moe",
        SMALL
        | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "gemma2": ("gemma2", SMALL | {"head_dim": 8}),
    "gemma3 (text)": ("gemma3_text", SMALL | {"head_dim": 8}),
    "gemma3 (multimodal)": (
        "gemma3",
        {
            "text_config": SMALL | {"head_dim": 8},
            "vision_config": VISION,
            "mm_tokens_per_image": 1,
            "image_token_index": 60,
            "boi_token_index": 61,
            "eoi_token_index": 62,
            "initializer_range": 0.2,
        },
    ),
    "phi3": ("phi3", SMALL),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", SMALL),
    "gpt_neo": ("gpt_neo", NEO),
    "gpt_bigcode": ("gpt_bigcode", GPT2),
    "starcoder2": ("starcoder2", SMALL),
    "falcon": ("falcon", SMALL | {"new_decoder_architecture": False}),
    "olmo2": ("olmo2", SMALL),
    "granite": ("granite", SMALL),
    "glm4": ("glm4", SMALL | {"head_dim": 8}),
    "smollm3": ("smollm3", SMALL),
    "deepseek_v3": (
        "deepseek_v3",
        SMALL
        | {
            "num_key_value_heads": 4,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 16,
        },
    ),
    "gpt_oss": ("gpt_oss", SMALL | {"head_dim": 8, "num_local_experts": 4}),
}


def build(row: str, seed: int = 0, **settings: Any) -> torch.nn.Module:
    """The model of a row in float32, all parameters random, settings of its config changed."""
    model_type, own = ROWS[row]
    config = transformers.AutoConfig.for_model(model_type, **(own | settings))
    torch.manual_seed(seed)
    family = (
        transformers.AutoModelForImageTextToText
        if model_type == "gemma3"
        else transformers.AutoModelForCausalLM
    )
    model = family.from_config(config, dtype=torch.float32)
    return perturbed(model, seed, 0.02).eval()


def perturbed(model: torch.nn.Module, seed: int, scale: float) -> torch.nn.Module:
    """Add noise to every parameter: initialization leaves biases zero and norms one."""
    generator = torch.Generator().manual_seed(seed + 1000)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


def load(folder: Path) -> torch.nn.Module:
    """The model in a folder as transformers loads it in float32; every weight must be there."""
    config = transformers.AutoConfig.from_pretrained(folder)
    family = (
        transformers.AutoModelForImageTextToText
        if config.model_type == "gemma3"
        else transformers.AutoModelForCausalLM
    )
    model, info = family.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def places(row: str, folder: Path, **settings: Any) -> dict[str, tuple[Any, ...]]:
    """Stored names of a model and where transformers has the tensor that each is part of.

    Every parameter is filled with its place in the state dict, so that stored values tell it.
    Experts that one module holds in two tensors count as one place, in which a stored expert comes
    by its number and then by the name of its part, in the order of the forward pass.
    """
    # Untied: a tied head would overwrite the place of the embedding.
    model = build(row, **{**settings, "tie_word_embeddings": False})
    held = model.state_dict()
    first = {}
    with torch.no_grad():
        for place, (name, tensor) in enumerate(held.items()):
            module = name.rpartition(".")[0]
            experts = module if module.endswith("experts") else name
            tensor.fill_(first.setdefault(experts, place))
    model.save_pretrained(folder)
    found = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        place = int(tensor.flatten()[0])
        assert (tensor == place).all()
        parts = name.split(".")
        number, part = 0, list(held).index(name) if name in held else 0
        if "experts" in parts and parts[parts.index("experts") + 1].isdigit():
            number = int(parts[parts.index("experts") + 1])
            part = ("gate_proj", "w1", "up_proj", "down_proj", "w2", "w3").index(parts[-2])
        found[name] = (place, number, part)
    return found


def logits(model: torch.nn.Module) -> np.ndarray:
    """Logits of eight tokens: float32 [8, vocabulary]."""
    with torch.no_grad():
        out = model(input_ids=torch.arange(3, 11)[None]).logits
    return out[0].float().numpy()
