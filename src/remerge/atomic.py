"""Files appear under their final name whole, durable and with mode 0644, or not at all.

>>> write_json(folder / "manifest.json", {"b": 1, "a": 2})

The temporary name lies in the target folder, so that the rename stays within one file system; the
data are flushed to disk before the rename and the folder after it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".partial"


def flush_folder(folder: Path) -> None:
    """Make renames within `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """The name under which `path` is written until it is whole; one per process."""
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")


def publish(temporary: Path, path: Path) -> None:
    """Rename a finished, already flushed file to its final name."""
    temporary.chmod(0o644)
    temporary.replace(path)
    flush_folder(path.parent)


@contextmanager
def open_atomic(path: Path | str) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well and vanishes when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with open_atomic(path) as file:
        file.write(data)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 with the line ends it has."""
    write_bytes(path, text.encode())


def json_text(value: object) -> str:
    """The one JSON form of this project: sorted keys, two spaces, a newline at the end.

    NaN and Infinity are no JSON and raise ValueError.
    """
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path | str, value: object) -> None:
    """Write `value` to `path` atomically in the form of `json_text`."""
    write_text(path, json_text(value))
