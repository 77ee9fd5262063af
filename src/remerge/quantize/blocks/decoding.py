"""The numbers that a file of ggml types stands for, as a runtime computes with them.

Each tensor is float64 in the shape and row order of transformers, exactly what the file says: scale
times code in float32, as ggml's readers do it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from remerge.errors import CheckpointError
from remerge.quantize.core.forward import Weights
from remerge.quantize.core.llama import LlamaShape
from remerge.tensors.safetensors import TensorInfo


def _in_source_order(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo the change of places that `ModelTensor.source_rows` describes."""
    if not heads:
        return rows
    size = len(rows) // heads
    # [heads, pair, half] → [heads, half, pair]
    paired = rows.reshape(heads, size // 2, 2, -1)
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(rows.shape))


def numbers(info: TensorInfo) -> np.ndarray:
    """The float32 numbers of a tensor whose `dtype` is ggml's name of a type."""
    from gguf import GGMLQuantizationType, dequantize

    packed = np.memmap(info.path, np.uint8, "r", info.offset, (1, info.nbytes))
    return np.asarray(dequantize(packed, GGMLQuantizationType[info.dtype])).reshape(info.shape)


def file_weights(
    tensors: Mapping[str, TensorInfo], name: Callable[[str, int], str], shape: LlamaShape
) -> Weights:
    """The weights of a file; `name` gives what it calls a part of a layer."""
    rotated = {"attn_q": shape.heads, "attn_k": shape.kv_heads}

    def weights(part: str, layer: int) -> np.ndarray:
        info = tensors.get(name(part, layer))
        if info is None:
            raise CheckpointError(f"a file to be measured has no tensor {name(part, layer)}")
        return _in_source_order(numbers(info).astype(np.float64), rotated.get(part, 0))

    return weights
