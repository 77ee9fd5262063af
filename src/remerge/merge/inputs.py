"""What every merge asks of its inputs before it computes, and how it names a bad number after.

Merging is blind to architecture: models fit together when their tensors have the same names and
shapes. The one difference that donors legitimately show is a vocabulary that somebody enlarged, and
that is handled by a rule that the recipe names, or refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from remerge.errors import CheckpointError, NumericError, printable
from remerge.merge.order import is_buffer
from remerge.tensors.checkpoint import Checkpoint, read_f32
from remerge.tensors.dtypes import ITEM_SIZE, KERNEL_CODE
from remerge.tensors.safetensors import TensorInfo

#: The last two parts of the names that tensors with a row a token have.
TOKEN_TENSORS = (
    "embed_tokens.weight",
    "lm_head.weight",
    "wte.weight",
    "embed_in.weight",
    "embed_out.weight",
    "word_embeddings.weight",
)
VOCABULARY_RULES = ("truncate", "map")


@dataclass(frozen=True)
class Note:
    """A line of the manifest: what was dropped or changed on the way in."""

    model: str
    tensor: str
    text: str


def weights_only(model: Checkpoint) -> tuple[dict[str, TensorInfo], list[Note]]:
    """The model's weights, without buffers that its own code recomputes."""
    kept = {name: info for name, info in model.tensors.items() if not is_buffer(name)}
    notes = [Note(model.label, n, "buffer, dropped") for n in model.tensors if n not in kept]
    return kept, notes


def require_mergeable(model: Checkpoint, tensors: Mapping[str, TensorInfo]) -> None:
    """CheckpointError unless every tensor is of a type whose values are float32 numbers."""
    for name, info in tensors.items():
        if info.dtype not in KERNEL_CODE:
            raise CheckpointError(
                f"{model.label}: tensor {printable(name)!r} in {info.path} is {info.dtype}; "
                "merges need F16, BF16 or F32 (is this a quantised checkpoint?)"
            )


def fit(
    model: Checkpoint,
    base: Checkpoint,
    base_tensors: Mapping[str, TensorInfo],
    vocabulary: str | None,
) -> tuple[dict[str, TensorInfo], list[Note]]:
    """The model's tensors under the base's names and shapes, or CheckpointError.

    `vocabulary="truncate"` lets embedding and head have more rows than the base's; the rows beyond
    are left out, with a note for each tensor. A model that was mapped fits as it is.
    """
    tensors, notes = weights_only(model)
    require_mergeable(model, tensors)
    for names, verb in (
        (base_tensors.keys() - tensors.keys(), "lacks"),
        (tensors.keys() - base_tensors.keys(), "has beyond the base's"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"{model.label} ({model.folder}) {verb} tensor {printable(min(names))!r}{more}; "
                f"it is not a fine-tune of {base.label}"
            )
    fitted = {}
    for name, wanted in base_tensors.items():
        info = tensors[name]
        if info.shape != wanted.shape:
            extra = _extra_rows(info, wanted)
            where = f"{model.label}: tensor {printable(name)!r}"
            if extra is None:
                raise CheckpointError(
                    f"{where} has shape {list(info.shape)}, {base.label} has {list(wanted.shape)}"
                )
            if vocabulary != "truncate":
                raise CheckpointError(
                    f"{where} has {extra} rows more than {base.label}'s; set "
                    "`vocabulary: truncate` on this donor in the recipe to leave them out"
                )
            notes.append(
                Note(model.label, name, f"{extra} vocabulary rows beyond the base, dropped")
            )
            nbytes = wanted.size * ITEM_SIZE[info.dtype]
            info = replace(info, shape=wanted.shape, nbytes=nbytes)
        fitted[name] = info
    return fitted, notes


def _extra_rows(info: TensorInfo, wanted: TensorInfo) -> int | None:
    per_token = info.name.endswith(TOKEN_TENSORS)
    same_columns = len(info.shape) == 2 and info.shape[1:] == wanted.shape[1:]
    extra = info.shape[0] - wanted.shape[0] if per_token and same_columns else 0
    return extra if extra > 0 else None


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
