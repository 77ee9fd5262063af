"""Weights as numbers, for the float64 forward pass: of a model, and of what became of it.

>>> weights = quantized_weights(Path("quantized/gguf_q4_k_m"), shape, Path("merged/final"))
>>> weights("attn_q", 0)

Each is float64 in the shape and row order of transformers, exactly what the file says.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

from remerge.errors import CheckpointError, NumericError, printable
from remerge.quantize.core.format import CONTAINERS
from remerge.quantize.core.forward import Weights
from remerge.quantize.core.llama import LlamaShape, llama_tensors
from remerge.quantize.core.tensor import ModelTensor
from remerge.tensors.checkpoint import open_checkpoint, read_f32
from remerge.tensors.json_files import read_json


def read_weights(tensor: ModelTensor) -> np.ndarray:
    """The tensor in its own shape as float32; NumericError for NaN or Inf."""
    values = read_f32(tensor.info)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        index = [int(i) for i in np.unravel_index(bad[0], tensor.info.shape)]
        raise NumericError(
            f"{tensor.info.path}: tensor {printable(tensor.info.name)!r}: {values[bad[0]]} at "
            f"index {index}; repair the source"
        )
    return values.reshape(tensor.info.shape)


def checkpoint_weights(folder: Path, shape: LlamaShape) -> Weights:
    """The weights of an unquantized model folder."""
    tensors = {(t.part, t.layer): t for t in llama_tensors(open_checkpoint(folder), shape)}

    def weights(part: str, layer: int) -> np.ndarray:
        return read_weights(tensors[part, layer]).astype(np.float64)

    return weights


def quantized_weights(folder: Path, shape: LlamaShape, model: Path) -> Weights:
    """The weights of any folder that this library quantized `model` into, by its manifest.json."""
    manifest = read_json(folder / "manifest.json")
    container, file = manifest.get("container"), manifest.get("file")
    if not isinstance(file, str) or container not in CONTAINERS:
        raise CheckpointError(f"{folder}: manifest.json is not of a quantized model")
    if not (folder / file).is_file():
        raise CheckpointError(f"{folder}: {printable(file, 80)} is missing")
    # Each container on its own: what measures GGUF needs nothing that GPTQ needs.
    module = importlib.import_module(f"remerge.quantize.{container}.dequantize")
    weights: Weights = module.open_weights(folder, shape, model)
    return weights
