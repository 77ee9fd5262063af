"""SHA-256 of a file.

>>> sha256_of(Path("models/base/config.json"))
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Its hexadecimal digest; the file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
