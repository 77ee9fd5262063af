"""What tells one state of an input from another, and how a merge names a bad number in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from remerge.errors import NumericError, printable
from remerge.tensors.checkpoint import read_f32
from remerge.tensors.safetensors import TensorInfo


def name_bad_number(label_of: Mapping[str, TensorInfo], tensor: str) -> NumericError:
    """The error for a kernel that met NaN or Inf: which model, which tensor, which element.

    `label_of` maps each model's label to its tensor of that name.
    """
    step = 1 << 20
    for label, info in label_of.items():
        for start in range(0, info.size, step):
            values = read_f32(info, start, min(start + step, info.size))
            bad = np.flatnonzero(~np.isfinite(values))
            if bad.size:
                flat = start + int(bad[0])
                index = [int(i) for i in np.unravel_index(flat, info.shape)] if info.shape else []
                return NumericError(
                    f"{label}: tensor {printable(tensor)!r} holds {values[bad[0]]} at index "
                    f"{index} ({info.path}); the source is damaged: fetch it again or drop it"
                )
    return NumericError(
        f"{printable(tensor)!r}: the difference of {' and '.join(label_of)} overflows float32"
    )


def overflow(tensor: str, dtype: str) -> NumericError:
    """The error for a finite result that the output type cannot hold."""
    return NumericError(
        f"tensor {printable(tensor)!r}: a result is too large for {dtype}; choose a wider dtype"
    )


def input_identity(folder: Path) -> dict[str, Any]:
    """What tells one state of an input folder from another, without reading its weights.

    A folder made by this library says its model id; any other is known by sizes and times.
    """
    try:
        return {"model_id": json.loads((folder / "manifest.json").read_text())["model_id"]}
    except (OSError, ValueError, KeyError, TypeError):
        stats = {p.name: p.stat() for p in sorted(folder.iterdir()) if p.is_file()}
        return {
            "folder": str(folder.resolve()),
            "files": {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()},
        }
