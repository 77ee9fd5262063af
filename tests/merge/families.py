"""Small model folders, written by the safetensors library, and what merging them should give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from remerge.tensors.layout import OutputTensor, header_bytes
from tests.kernels.reference import encode

SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (33, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (24, 8),
    "model.layers.0.empty.weight": (0, 8),
    "model.layers.1.self_attn.q_proj.weight": (8, 8),
    "model.layers.1.mlp.up_proj.weight": (24, 8),
    "model.layers.1.gate": (),
    "model.norm.weight": (8,),
    "lm_head.weight": (33, 8),
}
LARGE_SHAPES = SHAPES | {"model.layers.0.mlp.up_proj.weight": (1100, 1100)}

Weights = dict[str, tuple[str, np.ndarray]]


def random_weights(
    seed: int, dtypes: tuple[str, ...] = ("F16",), shapes: Mapping[str, tuple[int, ...]] = SHAPES
) -> Weights:
    """Type and float32 values of every tensor, types in turn; values that the type can hold."""
    rng = np.random.default_rng(seed)
    weights = {}
    for position, (name, shape) in enumerate(shapes.items()):
        dtype = dtypes[position % len(dtypes)]
        raw = encode(rng.standard_normal(shape) * 0.02, dtype)
        weights[name] = (dtype, decode_shaped(raw, dtype, shape))
    return weights


def decode_shaped(raw: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    from tests.kernels.reference import decode

    return decode(raw, dtype).reshape(shape)


def write_model(folder: Path, weights: Weights) -> Path:
    """A model folder with one file. BF16, which NumPy lacks, is why the bytes are written here."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    path = folder / "model.safetensors"
    if all(dtype != "BF16" for dtype, _ in weights.values()):
        numpy_types = {"F16": np.float16, "F32": np.float32}
        save_file({n: np.asarray(v, numpy_types[d]) for n, (d, v) in weights.items()}, str(path))
        return folder
    tensors = [OutputTensor(n, d, v.shape) for n, (d, v) in weights.items()]
    data = b"".join(encode(v, d).tobytes() for d, v in weights.values())
    path.write_bytes(header_bytes(tensors) + data)
    return folder


def read_raw(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor in a folder, as the reference library reads them."""
    from safetensors import deserialize

    return {
        name: bytes(entry["data"])
        for path in sorted(folder.glob("*.safetensors"))
        for name, entry in deserialize(path.read_bytes())
    }
