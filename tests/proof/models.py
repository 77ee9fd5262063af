"""Small models with the names of a Llama, in any number of files, for the tests of proof."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from remerge.tensors.layout import OutputTensor, index_of, plan_shards

HIDDEN, FEED_FORWARD, ROWS, LAYERS = 32, 48, 40, 2
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FEED_FORWARD,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "vocab_size": ROWS,
    "tie_word_embeddings": False,
}
_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}


def llama(seed: int, dtype: str = "F16") -> dict[str, tuple[str, np.ndarray]]:
    """Random weights by name, in state-dict order: (safetensors type, array)."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, HIDDEN)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        for part in "qkvo":
            shapes[f"{stem}.self_attn.{part}_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{stem}.mlp.gate_proj.weight"] = (FEED_FORWARD, HIDDEN)
        shapes[f"{stem}.mlp.up_proj.weight"] = (FEED_FORWARD, HIDDEN)
        shapes[f"{stem}.mlp.down_proj.weight"] = (HIDDEN, FEED_FORWARD)
        shapes[f"{stem}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{stem}.post_attention_layernorm.weight"] = (HIDDEN,)
    shapes["model.norm.weight"] = (HIDDEN,)
    shapes["lm_head.weight"] = (ROWS, HIDDEN)
    return {n: (dtype, encode(random.normal(0, 0.05, s), dtype)) for n, s in shapes.items()}


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` as the given type; BF16, which NumPy lacks, as uint16 patterns (truncated)."""
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    return values.astype(_TYPES[dtype])


def save(
    folder: Path, tensors: Mapping[str, tuple[str, np.ndarray]], shard_bytes: int = 10**9
) -> Path:
    """Write the weights as safetensors of at most `shard_bytes`, with a config."""
    folder.mkdir(parents=True)
    outputs = [OutputTensor(name, dtype, a.shape) for name, (dtype, a) in tensors.items()]
    shards = plan_shards(outputs, shard_bytes)
    for shard in shards:
        data = b"".join(tensors[t.name][1].tobytes() for t in shard.tensors)
        (folder / shard.file).write_bytes(shard.header + data)
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_of(shards)))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def save_gguf(path: Path, tensors: dict[str, tuple[str, np.ndarray]], tokens: int = 50) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([f"token {i}" for i in range(tokens)])
    writer.add_token_scores([float(i) for i in range(tokens)])
    for name, (dtype, values) in tensors.items():
        if dtype == "Q8_0":
            data = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    """Change one bit of a file in place, as a failing disk does: same name, size and inode."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))
