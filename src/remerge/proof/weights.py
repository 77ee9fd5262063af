"""Any model by its path: a folder of shards, an adapter, one safetensors file or one GGUF.

>>> open_weights("quantized/gguf_q4_k_m/model.gguf").tensors
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from remerge.errors import CheckpointError
from remerge.proof.gguf_tensors import read_gguf_header
from remerge.tensors.checkpoint import INDEX_NAME, SINGLE_NAME, open_checkpoint
from remerge.tensors.safetensors import TensorInfo, read_header

_ADAPTER_NAME = "adapter_model.safetensors"


@dataclass(frozen=True)
class Weights:
    """The tensors of one model; `container` is `safetensors` or `gguf`."""

    path: Path
    container: str
    tensors: dict[str, TensorInfo]


def open_weights(path: Path | str) -> Weights:
    """The tensors at `path`, unread; CheckpointError if there are none or they are malformed."""
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".gguf":
        return Weights(path, "gguf", read_gguf_header(path))
    if path.suffix == ".safetensors":
        return Weights(path, "safetensors", read_header(path))
    if not path.exists():
        raise CheckpointError(f"{path}: does not exist (was it pulled? `dvc pull {path}`)")
    raise CheckpointError(f"{path}: expected a model folder, a .safetensors or a .gguf file")


def _open_folder(folder: Path) -> Weights:
    if (folder / INDEX_NAME).exists() or (folder / SINGLE_NAME).exists():
        return Weights(folder, "safetensors", open_checkpoint(folder).tensors)
    if (folder / _ADAPTER_NAME).exists():
        return Weights(folder, "safetensors", read_header(folder / _ADAPTER_NAME))
    found = sorted(folder.glob("*.gguf"))
    if len(found) == 1:
        return Weights(folder, "gguf", read_gguf_header(found[0]))
    if found:
        raise CheckpointError(f"{folder}: holds {len(found)} GGUF files; name one of them")
    raise CheckpointError(
        f"{folder}: holds no {SINGLE_NAME}, {INDEX_NAME}, {_ADAPTER_NAME} or .gguf file"
    )
