"""Digests that decide whether kept work belongs to the model, the data and the settings at hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from remerge.files import sha256_of
from remerge.tensors.json_files import json_text


def digest_of_files(paths: Sequence[Path]) -> str:
    """SHA-256 over names and contents of files, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        total.update(f"{path.name}\0{sha256_of(path)}\n".encode())
    return total.hexdigest()


def digest_of_model(path: Path) -> str:
    """Digest of all that decides a model's answers: weights, configuration, tokenizer."""
    if path.is_file():
        return digest_of_files([path])
    skipped = {"manifest.json", "README.md"}
    files = [
        Path(entry.path)
        for entry in os.scandir(path)
        if entry.is_file() and entry.name not in skipped and not entry.name.startswith(".")
    ]
    return digest_of_files(files)


def digest_of_values(value: object) -> str:
    """Digest of JSON values."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()
