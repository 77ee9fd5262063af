"""Any model by its path: a folder of shards or pickles, an adapter, or one file.

>>> open_weights("quantized/gguf_q4_k_m").tensors
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remerge.errors import CheckpointError, printable
from remerge.quantize.ggml.header import read_ggml_header
from remerge.quantize.gguf.header import read_gguf_header
from remerge.sources.pickles import PickledTensor, open_pickle
from remerge.tensors.checkpoint import INDEX_NAME, SINGLE_NAME, open_checkpoint, read_index
from remerge.tensors.json_files import read_json
from remerge.tensors.safetensors import TensorInfo, read_header

_ADAPTER_NAME = "adapter_model.safetensors"
#: The form of 2023: a pickle, or several and their index.
_PICKLE_INDEX = "pytorch_model.bin.index.json"
_PICKLE_NAMES = ("pytorch_model.bin", "adapter_model.bin")

#: Files that some loader takes for weights, by the end of their names.
_WEIGHTS = (
    *(".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"),
    *(".h5", ".msgpack", ".gguf", ".ggml", ".onnx", ".npz", ".npy", ".pkl", ".pickle", ".joblib"),
    *(".keras", ".pdparams", ".llamafile", ".tflite", ".nemo", ".mlmodel", ".tar", ".zip"),
)
#: Left by training, and read by no loader of models.
_OF_TRAINING = frozenset(
    ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt")
)


@dataclass(frozen=True)
class PickledInfo(TensorInfo):
    """A tensor of a mapped pickle: it has bytes, but no place in the file that we know."""

    held: PickledTensor


@dataclass(frozen=True)
class Weights:
    """The tensors of one model; `container` is `safetensors`, `pickle`, `gguf` or `ggml`."""

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
    if path.suffix == ".ggml":
        return Weights(path, "ggml", read_ggml_header(path))
    if path.suffix == ".safetensors":
        return Weights(path, "safetensors", read_header(path))
    if not path.exists():
        raise CheckpointError(f"{path}: does not exist (was it pulled? see `dvc pull`)")
    if path.suffix == ".bin":
        # Programs of 2023 called legacy GGML files so as well.
        with path.open("rb") as file:
            legacy = file.read(4) == b"tjgg"
        if legacy:
            return Weights(path, "ggml", read_ggml_header(path))
        return Weights(path, "pickle", _pickled([path]))
    raise CheckpointError(
        f"{path}: expected a model folder, or a .safetensors, .bin, .gguf or .ggml file"
    )


def looks_like_weights(name: str) -> bool:
    """Whether some loader would take a file of this name for weights."""
    return name.lower().endswith(_WEIGHTS) and name not in _OF_TRAINING


def require_one_model(weights: Weights, names: Iterable[str]) -> None:
    """CheckpointError if a loader could read another model from the folder than `weights`.

    `names` are the files of the folder. Other weights beside the first, an adapter's config and a
    config that names a file of weights each make one loader or another load something else.
    """
    read = {info.path.name for info in weights.tensors.values()}
    read |= {INDEX_NAME} if weights.container == "safetensors" else {_PICKLE_INDEX}
    beside = [n for n in names if "/" not in n and looks_like_weights(n) and n not in read]
    if beside:
        raise CheckpointError(
            f"{weights.path}: {printable(min(beside))} is not part of the model's weights, and a "
            "loader may read it instead; move it away, or name one file of weights"
        )
    lowered = {name.lower(): name for name in names}
    if "adapter_config.json" in lowered and not read & {_ADAPTER_NAME, "adapter_model.bin"}:
        raise CheckpointError(
            f"{weights.path}: adapter_config.json makes loaders read another base model; remove it"
        )
    if "config.json" in names and "transformers_weights" in read_json(weights.path / "config.json"):
        raise CheckpointError(
            f"{weights.path}: config.json names weights of its own (transformers_weights); "
            "remove that entry"
        )


def _open_folder(folder: Path) -> Weights:
    if (folder / INDEX_NAME).exists() or (folder / SINGLE_NAME).exists():
        return Weights(folder, "safetensors", open_checkpoint(folder).tensors)
    if (folder / _ADAPTER_NAME).exists():
        return Weights(folder, "safetensors", read_header(folder / _ADAPTER_NAME))
    if (folder / _PICKLE_INDEX).exists():
        return Weights(folder, "pickle", _indexed_pickles(folder / _PICKLE_INDEX))
    for name in _PICKLE_NAMES:
        if (folder / name).exists():
            return Weights(folder, "pickle", _pickled([folder / name]))
    found = sorted([*folder.glob("*.gguf"), *folder.glob("*.ggml")])
    if len(found) == 1:
        of_file = open_weights(found[0])
        return Weights(folder, of_file.container, of_file.tensors)
    if found:
        raise CheckpointError(f"{folder}: holds {len(found)} GGUF or GGML files; name one of them")
    raise CheckpointError(
        f"{folder}: holds no weights: no {SINGLE_NAME}, {INDEX_NAME}, {_ADAPTER_NAME}, "
        f"{_PICKLE_INDEX}, {', '.join(_PICKLE_NAMES)}, .gguf or .ggml file"
    )


def _indexed_pickles(index: Path) -> dict[str, TensorInfo]:
    weight_map = read_index(index)
    tensors = _pickled(index.with_name(file) for file in sorted(set(weight_map.values())))
    for name in weight_map.keys() ^ tensors.keys():
        where = "in no file" if name in weight_map else "not in the index"
        raise CheckpointError(f"{index}: tensor {printable(name)!r} is {where}")
    return tensors


def _pickled(paths: Iterable[Path]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for path in paths:
        for name, held in open_pickle(path).items():
            if name in tensors:
                first = tensors[name].path.name
                raise CheckpointError(
                    f"{path}: tensor {printable(name)!r} is in {first} and {path.name}"
                )
            tensors[name] = PickledInfo(name, held.dtype, held.shape, path, 0, held.nbytes, held)
    return tensors


def read_bytes(info: TensorInfo, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Bytes [start:stop] of a tensor, little-endian: uint8 [stop−start]."""
    stop = info.nbytes if stop is None else stop
    if stop == start:
        return np.empty(0, np.uint8)
    if isinstance(info, PickledInfo):
        return info.held.bytes_u8()[start:stop].copy()
    # Not a map of the tensor: one of our own, so that blocks may be unaligned in an untrusted file.
    data = np.fromfile(info.path, np.uint8, stop - start, offset=info.offset + start)
    if data.size != stop - start:
        raise CheckpointError(f"{info.path}: ends within tensor {printable(info.name)!r}")
    return data
