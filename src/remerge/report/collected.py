"""What the report needs of formats and scores, so that it need not read gigabytes of them again.

>>> collected = collect_folders([Path("quantized/gguf_q8_0"), Path("scores/final")])
>>> collected["scores/final"]["stated"]["average"]
0.362
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from remerge.errors import CheckpointError
from remerge.files import sha256_of
from remerge.tensors.json_files import read_json

#: What a folder says of itself: a format, or scores.
_STATEMENTS = ("manifest.json", "scores.json")
_ANSWERS = "answers.json"


def collect_folders(folders: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Read what each folder says of itself, and digest its files.

    Returns:
        By folder: `stated`, the content of its statement, `answers` if it has some, and `files`,
        SHA-256 by name.

    Raises:
        CheckpointError: A folder that was not built.
    """
    return {folder.as_posix(): _collected(folder) for folder in folders}


def _collected(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    statement = next((name for name in _STATEMENTS if name in names), None)
    if statement is None:
        raise CheckpointError(f"{folder}: holds no file; build it first (`dvc repro`)")
    digests = {name: sha256_of(path) for name, path in zip(names, files, strict=True)}
    answers = {"answers": read_json(folder / _ANSWERS)} if _ANSWERS in names else {}
    return {"files": digests, "stated": read_json(folder / statement), **answers}
