"""Small quantized checkpoints, made by the libraries whose formats they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from remerge.sources.files import open_files
from remerge.sources.intake import take_in_model
from remerge.sources.pinned import parse_source
from tests.architectures import models
from tests.sources.hub_server import sha256_of

Tensors = dict[str, torch.Tensor]
#: The tensors that stand for a weight, by their full names, from its name and value.
Quantize = Callable[[str, torch.Tensor], Tensors]


def is_linear(name: str, weight: torch.Tensor) -> bool:
    """Whether libraries quantize a tensor: matrices but embedding, head and router."""
    plain = ("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight", "router.weight")
    return weight.dim() == 2 and not name.endswith(plain)


def quantized(
    folder: Path,
    quantize: Quantize,
    quantization_config: dict[str, Any] | None,
    row: str = "llama",
    dtype: torch.dtype = torch.bfloat16,
    **settings: Any,
) -> Path:
    """Save a tiny model with its matrices quantized."""
    models.build(row, **settings).to(dtype).save_pretrained(folder)
    tensors: Tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        tensors |= quantize(name, weight) if is_linear(name, weight) else {name: weight}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if quantization_config is not None:
        change_config(folder, quantization_config=quantization_config)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Set entries of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    """Let a function change the table of tensors of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def source_of(folder: Path, **entry: Any) -> Any:
    """The pinned source of a folder; it is dequantized unless something else is said."""
    files = {
        path.name: {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    entry = {"kind": "model", "path": str(folder), "files": files, "dequantize": True} | entry
    return parse_source("donor", entry)


def taken_in(folder: Path, threads: int = 2, out: str = "plain", **entry: Any) -> Path:
    """Take a checkpoint in as stage fetch does; returns the folder."""
    target, scratch = folder.parent / out, folder.parent / "scratch"
    with open_files(source_of(folder, **entry), root=Path("/"), scratch=scratch) as files:
        take_in_model(files, target, scratch=scratch, shard_bytes=20_000, threads=threads)
    return target


def weights_of(folder: Path) -> Tensors:
    """All tensors of a folder."""
    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def require_same_bits(found: Tensors, expected: Tensors) -> None:
    """The same names, types and bits."""
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype, name
        same = (
            found[name].contiguous().view(torch.uint8).equal(weight.contiguous().view(torch.uint8))
        )
        assert same, name


def fp8_blocks(rows: int, columns: int, scale: torch.dtype = torch.float32) -> Quantize:
    """FP8 in blocks, as DeepSeek stores it."""

    def quantize(name: str, weight: torch.Tensor) -> Tensors:
        height, width = weight.shape
        padded = torch.zeros(-height % rows + height, -width % columns + width)
        padded[:height, :width] = weight.float()
        blocks = padded.reshape(padded.shape[0] // rows, rows, -1, columns)
        largest = blocks.abs().amax(dim=(1, 3), keepdim=True) / 448
        scales = largest.to(scale)
        values = (blocks / scales.float()).reshape(padded.shape)[:height, :width]
        return {
            name: values.to(torch.float8_e4m3fn).contiguous(),
            f"{name}_scale_inv": scales[:, 0, :, 0].contiguous(),
        }

    return quantize
