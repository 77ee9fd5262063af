"""How the 4-bit weights lie in the file: `pack-quantized` of compressed-tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from remerge.kernels.blocks import narrow, widen
from remerge.quantize.core.tensor import ModelTensor
from remerge.quantize.gptq.solver import GROUP
from remerge.shards.layout import OutputTensor
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE

FILE_NAME = "model.safetensors"
#: The projections of a layer in the steps in which they are fitted.
STEPS = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))
FITTED = tuple(part for step in STEPS for part in step)


def quantization_config(*, by_activation: bool) -> dict[str, Any]:
    """What `config.json` says of the weights, in the words of compressed-tensors."""
    weights = {
        "actorder": "static" if by_activation else None,
        "dynamic": False,
        "group_size": GROUP,
        "num_bits": 4,
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    }
    group = {"format": "pack-quantized", "targets": ["Linear"], "weights": weights}
    return {
        "config_groups": {"group_0": group},
        "format": "pack-quantized",
        "ignore": ["lm_head"],
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def group_scales(weight: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """One scale for 128 weights of a row: as float64 [out, in/128], and as bytes of `dtype`.

    max|w| / 7.5, rounded to the type of the weights; 1 where that is 0.
    """
    groups = np.abs(weight).reshape(len(weight), -1, GROUP).max(axis=2)
    scales = np.ascontiguousarray(groups / np.float32(7.5)).reshape(-1)
    raw = np.empty(scales.size * ITEM_SIZE[dtype], np.uint8)
    narrow(scales, KERNEL_CODE[dtype], raw)
    widen(raw, KERNEL_CODE[dtype], scales)
    scales[scales == 0.0] = 1.0
    narrow(scales, KERNEL_CODE[dtype], raw)
    return scales.astype(np.float64).reshape(groups.shape), raw


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes int8 [out, in] as int32 [out, in/8]: code + 8, the first in the lowest four bits."""
    nibbles = (codes.astype(np.int16) + 8).astype(np.uint32).reshape(len(codes), -1, 8)
    return (
        (nibbles << np.arange(0, 32, 4, dtype=np.uint32)).sum(axis=2, dtype=np.uint32).view("<i4")
    )


def unpack(packed: np.ndarray) -> np.ndarray:
    """The inverse of `pack`."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    nibbles = (packed.view("<u4")[:, :, None] >> shifts) & np.uint32(15)
    return nibbles.reshape(len(packed), -1).astype(np.int8) - np.int8(8)


def packed_tensors(tensor: ModelTensor) -> list[OutputTensor]:
    """The tensors of the file that one tensor of the model becomes."""
    info = tensor.info
    if tensor.part not in FITTED:
        return [OutputTensor(info.name, info.dtype, info.shape)]
    rows, columns = info.shape
    stem = info.name.removesuffix(".weight")
    return [
        OutputTensor(f"{stem}.weight_packed", "I32", (rows, columns // 8)),
        OutputTensor(f"{stem}.weight_scale", info.dtype, (rows, columns // GROUP)),
        OutputTensor(f"{stem}.weight_shape", "I64", (2,)),
    ]
