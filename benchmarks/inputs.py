"""Models to merge, as large as one likes: a Llama of normal numbers, its fine-tunes, its adapters.

>>> base, donors = make_models(folder, SIZES["0.94B"], donors=3)

Weights are N(0, 0.02), task vectors N(0, 0.002), all float16 in safetensors shards. A file that
exists with the right size is kept.
"""

from __future__ import annotations

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remerge.tensors.layout import OutputTensor, Shard, index_of, plan_shards

SHARD_BYTES = 1_000_000_000
VOCABULARY = 32000


@dataclass(frozen=True)
class Size:
    """The dimensions of a Llama without grouped queries."""

    hidden: int
    intermediate: int
    layers: int

    def tensors(self) -> list[OutputTensor]:
        """All weights in state-dict order."""
        h, i = self.hidden, self.intermediate
        shapes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens", (VOCABULARY, h))]
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            shapes += [(f"{at}.self_attn.{p}_proj", (h, h)) for p in "qkvo"]
            shapes += [(f"{at}.mlp.gate_proj", (i, h)), (f"{at}.mlp.up_proj", (i, h))]
            shapes += [(f"{at}.mlp.down_proj", (h, i))]
            shapes += [(f"{at}.{n}_layernorm", (h,)) for n in ("input", "post_attention")]
        shapes += [("model.norm", (h,)), ("lm_head", (VOCABULARY, h))]
        return [OutputTensor(f"{name}.weight", "F16", shape) for name, shape in shapes]

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(tensor.size for tensor in self.tensors())

    def config(self) -> dict[str, object]:
        """A config.json that transformers loads."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "dtype": "float16",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 2048,
            "model_type": "llama",
            "num_attention_heads": self.hidden // 128,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.hidden // 128,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "vocab_size": VOCABULARY,
        }


SIZES = {
    "0.25B": Size(1024, 2752, 16),
    "0.94B": Size(2048, 5504, 16),
    "3B": Size(3072, 8192, 26),
}


def make_models(folder: Path, size: Size, donors: int) -> tuple[Path, list[Path]]:
    """`folder/base` and `folder/donor0` …, made where they are missing."""
    names = ["base", *(f"donor{i}" for i in range(donors))]
    shards = plan_shards(size.tensors(), SHARD_BYTES)
    jobs = [(folder / name, shard) for name in names for shard in shards]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: _write_shard(job[0], job[1]), jobs))
    for name in names:
        (folder / name / "config.json").write_text(json.dumps(size.config(), indent=2))
        if len(shards) > 1:
            index = folder / name / "model.safetensors.index.json"
            index.write_text(json.dumps(index_of(shards)))
    return folder / "base", [folder / name for name in names[1:]]


def _write_shard(model: Path, shard: Shard) -> None:
    path = model / shard.file
    if path.exists() and path.stat().st_size == shard.nbytes:
        return
    model.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(shard.header)
        for tensor in shard.tensors:
            seed = zlib.crc32(tensor.name.encode())
            values = np.random.default_rng(seed).standard_normal(tensor.size, np.float32)
            values *= np.float32(0.02)
            if model.name != "base":
                own = zlib.crc32(f"{model.name} {tensor.name}".encode())
                noise = np.random.default_rng(own).standard_normal(tensor.size, np.float32)
                noise *= np.float32(0.002)
                values += noise
            values.astype(np.float16).tofile(file)


def make_adapter(folder: Path, size: Size, rank: int) -> Path:
    """A peft LoRA of `rank` on all seven linear weights of every layer, in float32."""
    adapter = folder / f"adapter{rank}"
    adapter.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(rank)
    tensors, values = [], []
    for weight in size.tensors():
        if "_proj" in weight.name:
            module = f"base_model.model.{weight.name.removesuffix('.weight')}"
            rows, columns = weight.shape
            for part, shape, scale in (("A", (rank, columns), 1.0), ("B", (rows, rank), 0.01)):
                tensors.append(OutputTensor(f"{module}.lora_{part}.weight", "F32", shape))
                values.append((rng.standard_normal(shape) * scale).astype(np.float32))
    (shard,) = plan_shards(tensors, 1 << 60, stem="adapter_model")
    with (adapter / shard.file).open("wb") as file:
        file.write(shard.header)
        for value in values:
            value.tofile(file)
    config = {
        "base_model_name_or_path": str(folder / "base"),
        "bias": "none",
        "lora_alpha": 2 * rank,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": [f"{p}_proj" for p in ("q", "k", "v", "o", "gate", "up", "down")],
        "task_type": "CAUSAL_LM",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return adapter
