"""Checkpoints of the shapes of a 13B Llama with few layers, as awkward as those of 2023.

Every large tensor is a tile of numbers repeated, so that a gigabyte is made at the disk's speed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, INNER, VOCABULARY = 5120, 13824, 32000
TARGETS = ("q_proj", "v_proj")


@dataclass(frozen=True)
class Awkward:
    """What is odd about a model; `seed` 0 is the base."""

    seed: int
    dtype: torch.dtype = torch.float16
    rows: int = VOCABULARY
    inv_freq: bool = False
    stray: bool = False
    added_tokens: bool = False
    config: dict[str, object] = field(default_factory=dict)


def shapes(layers: int, rows: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order of the state dict."""
    yield "model.embed_tokens.weight", (rows, HIDDEN)
    for i in range(layers):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"model.layers.{i}.self_attn.{name}.weight", (HIDDEN, HIDDEN)
        yield f"model.layers.{i}.mlp.gate_proj.weight", (INNER, HIDDEN)
        yield f"model.layers.{i}.mlp.up_proj.weight", (INNER, HIDDEN)
        yield f"model.layers.{i}.mlp.down_proj.weight", (HIDDEN, INNER)
        yield f"model.layers.{i}.input_layernorm.weight", (HIDDEN,)
        yield f"model.layers.{i}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (rows, HIDDEN)


def tensor(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The base's numbers, and for a donor a small step away from each; float32."""
    size = 1
    for length in shape:
        size *= length
    generator = torch.Generator().manual_seed(sum(name.encode()))
    tile = torch.randn(min(size, 1 << 20), generator=generator) * 0.02
    if seed:
        generator.manual_seed(seed)
        tile = tile + torch.randn(tile.shape, generator=generator) * 0.002
    return tile.repeat(-(-size // tile.numel()))[:size].reshape(shape)


def write_model(folder: Path, layers: int, kind: Awkward) -> None:
    """Three pickled shards, index, config and a tokenizer's small files."""
    folder.mkdir(parents=True)
    names = list(shapes(layers, kind.rows))
    total = sum(torch.Size(shape).numel() for _, shape in names)
    parts: list[dict[str, tuple[int, ...]]] = [{}, {}, {}]
    written = 0
    for name, shape in names:
        parts[min(2, written * 3 // total)][name] = shape
        written += torch.Size(shape).numel()
    where = {}
    for number, part in enumerate(parts, start=1):
        file = f"pytorch_model-{number:05d}-of-00003.bin"
        weights = {n: tensor(n, s, kind.seed).to(kind.dtype) for n, s in part.items()}
        if kind.inv_freq:
            for name in [n for n in part if n.endswith("o_proj.weight")]:
                buffer = name.replace("o_proj.weight", "rotary_emb.inv_freq")
                weights[buffer] = 1.0 / (10000.0 ** (torch.arange(0, 128, 2).float() / 128))
        torch.save(weights, folder / file)
        where |= dict.fromkeys(weights, file)
    write(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": where})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "vocab_size": kind.rows,
        "max_position_embeddings": 2048 if kind.seed == 0 else 4096,
        "torch_dtype": str(kind.dtype).removeprefix("torch."),
        "tie_word_embeddings": False,
    }
    write(folder / "config.json", config | kind.config)
    write(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    if kind.added_tokens:
        write(folder / "added_tokens.json", {"<pad>": VOCABULARY})
    if kind.stray:
        stray = {
            "model.layers.0.mlp.up_proj.qweight": torch.ones(INNER // 8, 512, dtype=torch.int32)
        }
        save_file(stray, folder / "4bit-128g.safetensors")


def write_adapter(folder: Path, layers: int, rank: int) -> None:
    """A pickled LoRA on q and v, one checkpoint folder beside it."""
    weights = {}
    for i in range(layers):
        for target in TARGETS:
            stem = f"base_model.model.model.layers.{i}.self_attn.{target}"
            weights[f"{stem}.lora_A.weight"] = tensor(f"A{target}", (rank, HIDDEN), 0)
            weights[f"{stem}.lora_B.weight"] = tensor(f"B{target}", (HIDDEN, rank), 0)
    for place in (folder, folder / "checkpoint-100"):
        place.mkdir(parents=True)
        torch.save(weights, place / "adapter_model.bin")
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": list(TARGETS)}
        write(place / "adapter_config.json", config)


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
