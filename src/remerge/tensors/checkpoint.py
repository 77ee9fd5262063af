"""A folder of weights as a table of tensors, mapped and not read.

>>> model = open_checkpoint("models/base")
>>> read_f32(model.tensors["model.norm.weight"])

Nothing is loaded: a tensor is a range of a mapped file until somebody asks for its bytes.
"""

from __future__ import annotations

import mmap
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remerge.errors import CheckpointError, printable
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE
from remerge.tensors.json_files import read_json
from remerge.tensors.safetensors import TensorInfo, read_header

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one model or adapter. `label` is the name used in messages and manifests."""

    label: str
    folder: Path
    tensors: dict[str, TensorInfo]


def read_config(folder: Path | str) -> dict[str, Any]:
    """The model's `config.json`."""
    return read_json(Path(folder) / "config.json")


def config_of(folder: Path | str) -> dict[str, Any]:
    """The model's `config.json`; empty where there is none."""
    return read_config(folder) if (Path(folder) / "config.json").exists() else {}


def check_file_name(name: object, where: str) -> str:
    """A file name from an untrusted list: one plain component, or CheckpointError."""
    plain = (
        isinstance(name, str)
        and 0 < len(name.encode("utf-8", "replace")) <= 255
        and name.isprintable()
        and not any(c in name for c in "/\\:")
        and name not in (".", "..")
    )
    if not plain:
        raise CheckpointError(f"{where}: {printable(name, 80)!r} is not a plain file name")
    return str(name)


def check_no_twins(names: Iterable[str], where: str) -> None:
    """CheckpointError for two file names that one file system or another takes for the same."""
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            raise CheckpointError(
                f"{where}: {printable(twin)!r} and {printable(name)!r} are one file on some disks"
            )


def read_index(path: Path) -> dict[str, str]:
    """The `weight_map` of an index file: tensor name to the plain name of a file beside it."""
    return parse_index(read_json(path), str(path))


def parse_index(index: dict[str, Any], where: str) -> dict[str, str]:
    """`read_index` for an index already in hand; `where` names it in an error."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where}: has no weight_map")
    named = {name: check_file_name(file, where) for name, file in weight_map.items()}
    check_no_twins(named.values(), where)
    return named


def open_checkpoint(folder: Path | str, label: str | None = None) -> Checkpoint:
    """Open `model.safetensors` or the shards that `model.safetensors.index.json` names.

    Tensors come in the order that the folder's manifest records (state-dict order, in folders that
    this library wrote), else in the order of the shards and of their bytes. Raises CheckpointError
    when a file is missing or malformed, when index and headers disagree, or when a tensor stands
    in two files.
    """
    folder = Path(folder)
    label = label or folder.name
    single, index = folder / SINGLE_NAME, folder / INDEX_NAME
    if not index.exists():
        if not single.exists():
            raise CheckpointError(
                f"{folder}: holds neither {SINGLE_NAME} nor {INDEX_NAME}{pickle_advice(folder)}"
            )
        return Checkpoint(label, folder, _in_manifest_order(folder, read_header(single)))
    if single.exists():
        raise CheckpointError(f"{folder}: holds both {SINGLE_NAME} and {INDEX_NAME}; keep one")
    weight_map = read_index(index)
    tensors: dict[str, TensorInfo] = {}
    for file in sorted(set(weight_map.values())):
        for name, info in read_header(folder / file).items():
            if name in tensors:
                raise CheckpointError(
                    f"{folder}: tensor {printable(name)!r} is in "
                    f"{tensors[name].path.name} and {file}"
                )
            if weight_map.get(name) != file:
                raise CheckpointError(
                    f"{folder / file}: tensor {printable(name)!r} is not what {index.name} says"
                )
            tensors[name] = info
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise CheckpointError(
            f"{folder}: tensor {printable(missing[0])!r} is in {index.name} but in no file"
        )
    return Checkpoint(label, folder, _in_manifest_order(folder, tensors))


def pickle_advice(folder: Path) -> str:
    """What to do about a folder that holds pickles; empty for any other."""
    if not any((folder / name).exists() for name in _PICKLES):
        return ""
    return (
        "; its weights are pickles: name it as a source in a recipe, whose fetch makes them plain"
    )


def _in_manifest_order(folder: Path, tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """State-dict order where a manifest of this library records it, else the order of the files."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return tensors
    order = read_json(manifest).get("order")
    if order is None:  # a quantised folder has one file, and that has its order
        return tensors
    names = order if isinstance(order, list) and all(isinstance(n, str) for n in order) else []
    if sorted(names) != sorted(tensors):
        raise CheckpointError(f"{manifest}: its order is not one of the folder's tensors")
    return {name: tensors[name] for name in names}


def raw_bytes(info: TensorInfo) -> np.ndarray:
    """The tensor's little-endian bytes: a read-only uint8 view [nbytes] of the mapped file.

    The view keeps its mapping alive. A tensor whose data start at an odd multiple of its item size
    is copied, since compiled code may rely on alignment.
    """
    if info.nbytes == 0:
        return np.empty(0, np.uint8)
    page_start = info.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    with info.path.open("rb") as file:
        try:
            mapping = mmap.mmap(
                file.fileno(),
                info.offset + info.nbytes - page_start,
                access=mmap.ACCESS_READ,
                offset=page_start,
            )
        except ValueError:
            raise CheckpointError(
                f"{info.path}: has changed since its header was read; run it again"
            ) from None
    view = np.frombuffer(mapping, np.uint8, info.nbytes, info.offset - page_start)
    return view if info.offset % ITEM_SIZE[info.dtype] == 0 else view.copy()


def read_f32(info: TensorInfo, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Elements [start:stop] of the flattened tensor as float32, exactly.

    CheckpointError for a type that is not F16, BF16 or F32.
    """
    if info.dtype not in KERNEL_CODE:
        raise CheckpointError(
            f"{info.path}: tensor {printable(info.name)!r} is {info.dtype}; "
            "only F16, BF16 and F32 weights can be used"
        )
    item = ITEM_SIZE[info.dtype]
    stop = info.size if stop is None else stop
    raw = raw_bytes(info)[start * item : stop * item]
    if info.dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    if info.dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.view("<f4").copy()
