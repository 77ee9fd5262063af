"""How the codes lie in the file: `pack-quantized` of compressed-tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from remerge.kernels.blocks import narrow, widen
from remerge.quantize.core.format import Format
from remerge.quantize.core.tensor import ModelTensor
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE
from remerge.tensors.layout import OutputTensor

FILE_NAME = "model.safetensors"
#: The projections of a layer in the steps in which they are fitted.
STEPS = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))
FITTED = tuple(part for step in STEPS for part in step)


def bits_of(form: Format) -> int:
    """Bits of a code."""
    return int(form.type.removeprefix("I"))


def quantization_config(form: Format) -> dict[str, Any]:
    """What `config.json` says of the weights, in the words of compressed-tensors."""
    weights = {
        "actorder": "static" if form.by_activation and form.group else None,
        "dynamic": False,
        "group_size": form.group or None,
        "num_bits": bits_of(form),
        "strategy": "group" if form.group else "channel",
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


def group_scales(weight: np.ndarray, dtype: str, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """One scale for a group of a row: as float64 [out, groups], and as bytes of `dtype`.

    max|w| / (2ᵇ⁻¹ − ½) for codes of b bits, rounded to the type of the weights; 1 where that is 0.
    """
    groups = np.abs(weight).reshape(len(weight), -1, form.group or weight.shape[1]).max(axis=2)
    top = np.float32(2 ** (bits_of(form) - 1) - 0.5)
    scales = np.ascontiguousarray(groups / top).reshape(-1)
    raw = np.empty(scales.size * ITEM_SIZE[dtype], np.uint8)
    narrow(scales, KERNEL_CODE[dtype], raw)
    widen(raw, KERNEL_CODE[dtype], scales)
    scales[scales == 0.0] = 1.0
    narrow(scales, KERNEL_CODE[dtype], raw)
    return scales.astype(np.float64).reshape(groups.shape), raw


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes int8 [out, in] as int32 [out, in·bits/32]: code + 2ᵇ⁻¹, the first in the low bits."""
    unsigned = (codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    words = unsigned.reshape(len(codes), -1, 32 // bits) << shifts
    return words.sum(axis=2, dtype=np.uint32).view("<i4")


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `pack`."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = (packed.view("<u4")[:, :, None] >> shifts) & np.uint32(2**bits - 1)
    return (codes.reshape(len(packed), -1).astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)


def packed_tensors(tensor: ModelTensor, form: Format) -> list[OutputTensor]:
    """The tensors of the file that one tensor of the model becomes."""
    info = tensor.info
    if tensor.part not in FITTED:
        return [OutputTensor(info.name, info.dtype, info.shape)]
    rows, columns = info.shape
    stem = info.name.removesuffix(".weight")
    return [
        OutputTensor(f"{stem}.weight_packed", "I32", (rows, columns * bits_of(form) // 32)),
        OutputTensor(
            f"{stem}.weight_scale", info.dtype, (rows, columns // (form.group or columns))
        ),
        OutputTensor(f"{stem}.weight_shape", "I64", (2,)),
    ]
