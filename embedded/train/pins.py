"""What a recipe says of the committed sources: the digest and size of every file."""

from __future__ import annotations

import hashlib
from pathlib import Path


def pins(sources: Path) -> str:
    """YAML of ``name: {file: {sha256, size}}`` for every source folder, in the order of names."""
    lines: list[str] = []
    for folder in sorted(path for path in sources.iterdir() if path.is_dir()):
        lines.append(f"{folder.name}:")
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            name = file.relative_to(folder).as_posix()
            lines.append(f"  {name}: {{sha256: {digest}, size: {file.stat().st_size}}}")
    return "\n".join(lines) + "\n"
