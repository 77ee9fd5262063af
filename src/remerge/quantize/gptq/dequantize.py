"""The numbers that a GPTQ folder stands for: code times scale, as float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from remerge.quantize.core.forward import Weights
from remerge.quantize.core.llama import LlamaShape, llama_tensors
from remerge.quantize.gptq.packing import FILE_NAME, FITTED, unpack
from remerge.tensors.checkpoint import open_checkpoint, raw_bytes, read_f32
from remerge.tensors.safetensors import read_header


def open_weights(folder: Path, shape: LlamaShape, model: Path) -> Weights:
    """The weights of a folder that `gptq.write` made of `model`."""
    packed = read_header(folder / FILE_NAME)
    sources = {(t.part, t.layer): t for t in llama_tensors(open_checkpoint(model), shape)}

    def weights(part: str, layer: int) -> np.ndarray:
        name = sources[part, layer].info.name
        if part not in FITTED:
            return read_f32(packed[name]).reshape(packed[name].shape).astype(np.float64)
        stem = name.removesuffix(".weight")
        codes, scales = packed[f"{stem}.weight_packed"], packed[f"{stem}.weight_scale"]
        columns = sources[part, layer].columns
        bits = 32 * codes.shape[1] // columns
        numbers = unpack(raw_bytes(codes).view("<i4").reshape(codes.shape), bits)
        steps = read_f32(scales).reshape(scales.shape).astype(np.float64)
        return numbers * np.repeat(steps, columns // steps.shape[1], axis=1)

    return weights
