"""Checkpoints of 2023 are pickles; this reads their tensors and nothing else.

>>> open_pickle("pytorch_model-00001-of-00003.bin")["model.norm.weight"].bytes_u8()

A pickle is a program. `torch.load(weights_only=True)` runs only the few instructions that rebuild
tensors; before it sees the file we check that the archive is a plain one: stored, not compressed,
so that it can be mapped and cannot swell.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remerge.errors import CheckpointError, printable
from remerge.files import regular_file_size
from remerge.tensors.safetensors import check_text

if TYPE_CHECKING:
    import torch

_PICKLE_LIMIT = 64_000_000
#: How files begin that torch wrote before 1.6: a pickled number of ten bytes.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
#: Entries under which training programs keep the table of tensors beside their own settings.
_NESTS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class PickledTensor:
    """One tensor of a mapped pickle checkpoint."""

    dtype: str
    shape: tuple[int, ...]
    tensor: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Number of bytes of its elements."""
        return self.tensor.numel() * self.tensor.element_size()

    def bytes_u8(self) -> np.ndarray:
        """Its little-endian bytes, uint8 [nbytes]; a view where the tensor is contiguous."""
        import torch

        flat = self.tensor.detach().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)


def _check_archive(path: Path) -> set[int]:
    """Sizes of the archive's records, or CheckpointError for anything but a plain torch archive."""
    size = regular_file_size(path)
    with path.open("rb") as file:
        legacy = file.read(len(_LEGACY)) == _LEGACY
    if legacy:
        name = path.name
        raise CheckpointError(
            f"{path}: was saved before torch 1.6, in a form that cannot be mapped; convert it: "
            f"python -c \"import torch; torch.save(torch.load('{printable(name, 80)}', "
            f"map_location='cpu', weights_only=True), '{printable(name, 80)}')\""
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path}: not a torch archive ({error}); it is truncated: fetch it again"
        ) from None
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(f"{path}: {printable(entry.filename)!r} is compressed; refused")
        if entry.filename.endswith("data.pkl") and entry.file_size > _PICKLE_LIMIT:
            raise CheckpointError(f"{path}: its pickle of {entry.file_size} bytes is not genuine")
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(f"{path}: its records are larger than the file; refused")
    return {entry.file_size for entry in entries}


def _unnested(loaded: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The table of tensors, which may lie beside what a training program saved with it.

    A table with a tensor beside the nested one is left as it is, and refused entry by entry: which
    of the two the model is made of cannot be known.
    """
    import torch

    nested = [key for key in _NESTS if isinstance(loaded.get(key), Mapping)]
    beside = any(isinstance(value, torch.Tensor) for value in loaded.values())
    if len(nested) != 1 or beside:
        return loaded
    table: Mapping[Any, Any] = loaded[nested[0]]
    return table


def open_pickle(path: Path | str) -> dict[str, PickledTensor]:
    """The tensors of a `.bin` checkpoint, mapped, in the order of the file's dictionary.

    CheckpointError for a damaged archive, for a pickle that asks for anything but tensors, and for
    one whose tensors do not fit their records.
    """
    path = Path(path)
    record_sizes = _check_archive(path)
    import torch

    names = {
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float32: "F32",
        torch.float64: "F64",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
    # Whatever the protocol, the file is read or refused below; torch's advice is for its authors.
    warnings.filterwarnings("ignore", message="Detected pickle protocol")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a hostile pickle provokes, it is refused the same way
        reason = str(error).strip().splitlines() or [type(error).__name__]
        shown = next(
            (line for line in reason if "GLOBAL" in line or "Unsupported" in line), reason[0]
        )
        raise CheckpointError(
            f"{path}: refused, its pickle is not one of plain tensors ({printable(shown, 160)})"
        ) from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a table of tensors")
    tensors = {}
    for name, tensor in _unnested(loaded).items():
        where = f"{path}: entry {printable(name)!r}"
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{where} is a {type(tensor).__name__}, not a named tensor")
        check_text(name, where)
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or tensor.dtype not in names:
            raise CheckpointError(f"{where} is of a kind that is no plain weight ({tensor.dtype})")
        stored = tensor.untyped_storage().nbytes()
        # Strides of 0 let a few bytes pose as a tensor of any size.
        if stored not in record_sizes or tensor.numel() * tensor.element_size() > stored:
            raise CheckpointError(f"{where}: its storage does not fit the archive; refused")
        tensors[name] = PickledTensor(names[tensor.dtype], tuple(tensor.shape), tensor)
    return tensors
