"""The inputs of a merge: what they are called, and what tells one state of them from another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError, RecipeError, printable
from remerge.tensors.json_files import read_json

_MODEL_ID = re.compile(r"[0-9a-f]{64}")


def input_identity(folder: Path) -> dict[str, Any]:
    """What tells one state of an input folder from another, without reading its weights.

    A folder made by this library says its model id; any other is known by sizes and times.
    """
    try:
        said = read_json(folder / "manifest.json").get("model_id")
    except CheckpointError:
        said = None
    if isinstance(said, str) and _MODEL_ID.fullmatch(said):
        return {"model_id": said}
    stats = {p.name: p.stat() for p in sorted(folder.iterdir()) if p.is_file()}
    return {
        "folder": str(folder.resolve()),
        "files": {name: [s.st_size, s.st_mtime_ns] for name, s in stats.items()},
    }


def distinct_labels(folders: Sequence[Path | str]) -> list[str]:
    """What to call the inputs in these folders: their own names, longer where two are alike.

    >>> distinct_labels(["run1/final", "run2/final", "base"])
    ['run1/final', 'run2/final', 'base']

    Folders that are the same keep the same label.
    """
    parts = [_absolute(Path(folder)).parts[1:] for folder in folders]
    lengths = [1] * len(parts)
    while True:
        labels = ["/".join(p[-n:]) for p, n in zip(parts, lengths, strict=True)]
        others = {label: set[tuple[str, ...]]() for label in labels}
        for label, part in zip(labels, parts, strict=True):
            others[label].add(part)
        alike = [i for i, label in enumerate(labels) if len(others[label]) > 1]
        if not alike:
            return labels
        for i in alike:
            lengths[i] += 1


def _absolute(folder: Path) -> Path:
    """The folder from the root on; a link keeps its name, which is the one that its user knows."""
    return folder.resolve() if ".." in folder.parts else folder.absolute()


def require_distinct(labels: Sequence[str], what: str) -> None:
    """RecipeError for two inputs of one label: key, manifest and messages could not tell them."""
    label, count = Counter(labels).most_common(1)[0]
    if count > 1:
        raise RecipeError(f"{what}: {printable(label)!r} takes part more than once")
