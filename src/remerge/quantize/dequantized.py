"""The weights that a file stands for, as numbers again: what a runtime computes with.

>>> weights = quantized_weights(Path("quantized/gguf_q4_k_m"), shape)
>>> weights("attn_q", 0)

Each is float64 in the shape and row order of transformers, exactly what the file says (scale times
code in float32 for the ggml types, as their readers do it).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from remerge.errors import CheckpointError, printable
from remerge.quantize.forward import Weights
from remerge.quantize.ggml import tensor_name as ggml_name
from remerge.quantize.gguf import tensor_name as gguf_name
from remerge.quantize.gptq import FILE_NAME, FITTED, read_weights, unpack
from remerge.quantize.gptq_solver import GROUP
from remerge.quantize.llama import LlamaShape, LlamaTensor, llama_tensors
from remerge.tensors.checkpoint import open_checkpoint, raw_bytes, read_f32, read_json
from remerge.tensors.safetensors import read_header


def checkpoint_weights(folder: Path, shape: LlamaShape) -> Weights:
    """The weights of an unquantized model folder."""
    tensors = {(t.part, t.layer): t for t in llama_tensors(open_checkpoint(folder), shape)}

    def weights(part: str, layer: int) -> np.ndarray:
        return read_weights(tensors[part, layer]).astype(np.float64)

    return weights


def _rotated_heads(part: str, shape: LlamaShape) -> int:
    return {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(part, 0)


def _in_source_order(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo the change of places that `LlamaTensor.source_rows` describes."""
    if not heads:
        return rows
    size = len(rows) // heads
    # [heads, pair, half] → [heads, half, pair]
    paired = rows.reshape(heads, size // 2, 2, -1)
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(rows.shape))


def _named(
    read: Callable[[str], np.ndarray], name: Callable[[LlamaTensor], str], shape: LlamaShape
) -> Weights:
    def weights(part: str, layer: int) -> np.ndarray:
        values = read(name(LlamaTensor(part, layer, None)))  # type: ignore[arg-type]
        return _in_source_order(values.astype(np.float64), _rotated_heads(part, shape))

    return weights


def gguf_weights(path: Path, shape: LlamaShape) -> Weights:
    """The weights of a GGUF file."""
    from gguf import GGUFReader, dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        return dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1].tolist())

    return _named(read, gguf_name, shape)


def ggml_weights(path: Path, shape: LlamaShape) -> Weights:
    """The weights of a ggjt file."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    data = np.memmap(path, np.uint8, mode="r")

    def numbers(at: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", data[at : at + 4 * count].tobytes())

    tensors: dict[str, tuple[int, GGMLQuantizationType, tuple[int, ...]]] = {}
    at = 9 * 4
    for _ in range(shape.vocabulary):
        at += 4 + numbers(at, 1)[0] + 4
    while at < len(data):
        dimensions, length, code = numbers(at, 3)
        sizes = numbers(at + 12, dimensions)
        at += 12 + 4 * dimensions
        name = data[at : at + length].tobytes().decode()
        at += length
        at += -at % 32
        kind = GGMLQuantizationType(code)
        width, nbytes = GGML_QUANT_SIZES[kind]
        tensors[name] = (at, kind, sizes[::-1])
        at += int(np.prod(sizes)) // width * nbytes

    def read(name: str) -> np.ndarray:
        start, kind, sizes = tensors[name]
        width, nbytes = GGML_QUANT_SIZES[kind]
        stop = start + int(np.prod(sizes)) // width * nbytes
        row = np.ascontiguousarray(data[start:stop]).reshape(1, -1)
        return dequantize(row, kind).reshape(sizes)

    return _named(read, ggml_name, shape)


def gptq_weights(folder: Path, shape: LlamaShape, model: Path) -> Weights:
    """The weights of a folder written by `gptq.quantize` from `model`."""
    packed = read_header(folder / FILE_NAME)
    sources = {(t.part, t.layer): t for t in llama_tensors(open_checkpoint(model), shape)}

    def weights(part: str, layer: int) -> np.ndarray:
        name = sources[part, layer].info.name
        if part not in FITTED:
            return read_f32(packed[name]).reshape(packed[name].shape).astype(np.float64)
        stem = name.removesuffix(".weight")
        codes, scales = packed[f"{stem}.weight_packed"], packed[f"{stem}.weight_scale"]
        numbers = unpack(raw_bytes(codes).view("<i4").reshape(codes.shape))
        steps = read_f32(scales).reshape(scales.shape).astype(np.float64)
        return numbers * np.repeat(steps, GROUP, axis=1)

    return weights


def quantized_weights(folder: Path, shape: LlamaShape, model: Path) -> Weights:
    """The weights of any folder that this library quantized `model` into, by its manifest.json."""
    manifest = read_json(folder / "manifest.json")
    container, file = manifest.get("container"), manifest.get("file")
    if container == "gptq":
        return gptq_weights(folder, shape, model)
    if not isinstance(file, str) or container not in ("gguf", "ggml"):
        raise CheckpointError(f"{folder}: manifest.json is not of a quantized model")
    if not (folder / file).is_file():
        raise CheckpointError(f"{folder}: {printable(file, 80)} is missing")
    read = gguf_weights if container == "gguf" else ggml_weights
    return read(folder / file, shape)
