"""Writes models and adapters in the shapes in which those of 2023 were published.

Nothing here is how one would write a checkpoint today: sharded pickles, rotary buffers among the
weights, rows without tokens and tokens without rows are the point. `embedded/README.md` tells
which source has which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import LlamaTokenizer

from embedded.train.learning import CONFIG
from embedded.train.tokenizer import BEGIN, END, SPECIAL_TOKENS, VOCABULARY
from embedded.train.tokenizer import CONFIG as TOKENIZER_CONFIG

EXTRA_ROWS = 32
"""Rows that a donor with a padded vocabulary has beyond the base's."""
QUANTISED_GROUP = 128
"""Input columns that share a scale in the stray 4-bit file."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """How one model is published.

    `layout` is "pickle" or "safetensors"; one shard has no index. `config` is laid over the keys
    that all models share, `added_tokens` becomes the file of that name.
    """

    dtype: torch.dtype
    layout: str
    shards: int
    inv_freq: bool = False
    extra_rows: int = 0
    stray_quantised: bool = False
    tokenizer_json: bool = True
    added_tokens: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)


def write_model(folder: Path, weights: Weights, shape: Shape, tokenizer: bytes) -> None:
    """Writes one model folder: weights, configurations, tokenizer.

    `weights` is a state dict of float32 in the model's own order, which the shards keep.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.to(shape.dtype) for name, tensor in weights.items()}
    if shape.extra_rows:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            stored[name] = _with_rows(weights[name], shape.extra_rows).to(shape.dtype)
    if shape.inv_freq:
        stored = _with_inv_freq(stored)
    _write_weights(folder, stored, shape)
    if shape.stray_quantised:
        save_file(_quantised(weights), folder / f"4bit-{QUANTISED_GROUP}g.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "hidden_act": CONFIG.hidden_act,
        "hidden_size": CONFIG.hidden_size,
        "initializer_range": CONFIG.initializer_range,
        "intermediate_size": CONFIG.intermediate_size,
        "max_position_embeddings": CONFIG.max_position_embeddings,
        "model_type": "llama",
        "num_attention_heads": CONFIG.num_attention_heads,
        "num_hidden_layers": CONFIG.num_hidden_layers,
        "num_key_value_heads": CONFIG.num_key_value_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": CONFIG.rms_norm_eps,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": str(shape.dtype).removeprefix("torch."),
        "use_cache": True,
        "vocab_size": VOCABULARY + shape.extra_rows,
    }
    write_json(folder / "config.json", {**config, **shape.config})
    write_json(
        folder / "generation_config.json",
        {"_from_model_config": True, "bos_token_id": BEGIN, "eos_token_id": END},
    )
    _write_tokenizer(folder, tokenizer, shape)


def write_adapter(folder: Path, model: PeftModel, donor: str, *, pickled: bool) -> None:
    """Writes a LoRA as peft does, or with its weights as the pickle of earlier versions.

    The configuration names the donor rather than a path of the machine that trained it. Pickled
    weights are float16, the others float32.
    """
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    configuration = json.loads((folder / "adapter_config.json").read_text())
    configuration["base_model_name_or_path"] = donor
    configuration["target_modules"] = sorted(configuration["target_modules"])
    write_json(folder / "adapter_config.json", configuration)
    if pickled:
        from safetensors.torch import load_file

        weights = load_file(folder / "adapter_model.safetensors")
        halves = {name: tensor.to(torch.float16) for name, tensor in weights.items()}
        torch.save(halves, folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()


def write_json(path: Path, value: object) -> None:
    """Writes JSON with sorted keys, two spaces and a trailing newline."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(folder: Path, stored: Weights, shape: Shape) -> None:
    stem, suffix = {
        "pickle": ("pytorch_model", "bin"),
        "safetensors": ("model", "safetensors"),
    }[shape.layout]
    where: dict[str, str] = {}
    for number, names in enumerate(_split(stored, shape.shards), start=1):
        file = (
            f"{stem}.{suffix}"
            if shape.shards == 1
            else f"{stem}-{number:05}-of-{shape.shards:05}.{suffix}"
        )
        # A clone has storage of its own: a view would drag the whole model into each shard.
        part = {name: stored[name].clone().contiguous() for name in names}
        if shape.layout == "pickle":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(names, file))
    if shape.shards > 1:
        size = sum(t.numel() * t.element_size() for t in stored.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        write_json(folder / f"{stem}.{suffix}.index.json", index)


def _split(stored: Weights, shards: int) -> list[list[str]]:
    """Names in their order, cut where the running size passes each equal share."""
    total = sum(t.numel() * t.element_size() for t in stored.values())
    parts: list[list[str]] = [[] for _ in range(shards)]
    written = 0
    for name, tensor in stored.items():
        parts[min(shards - 1, written * shards // total)].append(name)
        written += tensor.numel() * tensor.element_size()
    return parts


def _with_inv_freq(stored: Weights) -> Weights:
    """The rotary frequencies, float32, behind each layer's attention as transformers 4.31 did."""
    head = CONFIG.hidden_size // CONFIG.num_attention_heads
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, head, 2, dtype=torch.float32) / head))
    result: Weights = {}
    for name, tensor in stored.items():
        result[name] = tensor
        if name.endswith("self_attn.o_proj.weight"):
            prefix = name.removesuffix("o_proj.weight")
            result[f"{prefix}rotary_emb.inv_freq"] = frequencies.clone()
    return result


def _with_rows(matrix: torch.Tensor, count: int) -> torch.Tensor:
    """More rows at the mean of the others, so that no such token ever wins."""
    return torch.cat([matrix, matrix.mean(0, keepdim=True).expand(count, -1)])


def _quantised(weights: Weights) -> Weights:
    """The model rounded to 4 bits in the layout of GPTQ-for-LLaMa.

    Per linear layer of `in` inputs and `out` outputs: `qweight` int32 [in / 8, out], `qzeros` int32
    [in / 128, out / 8], `scales` float16 [in / 128, out], `g_idx` int32 [in].
    """
    result: Weights = {}
    shifts = torch.arange(0, 32, 4)
    for name, weight in weights.items():
        if "_proj." not in name:
            result[name] = weight.to(torch.float16)
            continue
        prefix = name.removesuffix("weight")
        outputs, inputs = weight.shape
        groups = weight.reshape(outputs, inputs // QUANTISED_GROUP, QUANTISED_GROUP)
        scales = groups.abs().amax(-1) / 7
        codes = (groups / scales[..., None]).round().add(8).clamp(0, 15).reshape(outputs, inputs)
        packed = (codes.T.reshape(inputs // 8, 8, outputs).long() << shifts[None, :, None]).sum(1)
        zeros = (torch.full((scales.shape[1], outputs // 8, 8), 7) << shifts).sum(-1)
        result[f"{prefix}qweight"] = _as_int32(packed)
        result[f"{prefix}qzeros"] = _as_int32(zeros)
        result[f"{prefix}scales"] = scales.T.contiguous().to(torch.float16)
        result[f"{prefix}g_idx"] = torch.arange(inputs, dtype=torch.int32) // QUANTISED_GROUP
    return result


def _as_int32(words: torch.Tensor) -> torch.Tensor:
    """Unsigned 32-bit words, held in int64, as the int32 of the same bits."""
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _write_tokenizer(folder: Path, tokenizer: bytes, shape: Shape) -> None:
    (folder / "tokenizer.model").write_bytes(tokenizer)
    write_json(folder / "special_tokens_map.json", SPECIAL_TOKENS)
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    if shape.tokenizer_json:
        LlamaTokenizer.from_pretrained(str(folder)).backend_tokenizer.save(
            str(folder / "tokenizer.json")
        )
    if shape.added_tokens:
        write_json(folder / "added_tokens.json", dict(shape.added_tokens))
