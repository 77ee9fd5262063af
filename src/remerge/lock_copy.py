"""A copy of `dvc.lock`, for when an interruption broke the original.

DVC writes its lock in place, so a Ctrl-C or a full disk at the wrong moment leaves it empty or cut
off. Every stage copies a whole lock as it starts; `remerge repair` puts the copy back. What was
finished after the copy is in DVC's run cache, or is made again.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from remerge.errors import ToolError
from remerge.files import write_text
from remerge.yaml_text import parse_yaml

LOCK = Path("dvc.lock")
#: In DVC's own folder of temporary files, which git ignores.
COPY = Path(".dvc/tmp/dvc.lock.copy")
_ENTRY = "  "


def stages_in(text: str) -> dict[str, object] | None:
    """The stages of a lock; None unless the text is one that DVC can read."""
    if not text.endswith("\n"):  # cut off within a line, which may still be YAML
        return None
    try:
        content = parse_yaml(text.encode())
    except ValueError:
        return None
    stages = content.get("stages") if isinstance(content, dict) else None
    whole = isinstance(stages, dict) and all(isinstance(entry, dict) for entry in stages.values())
    return stages if whole else None


def keep_copy(root: Path) -> None:
    """Copy the lock of a project if it is whole.

    Args:
        root: The project. Without DVC in it, nothing happens.

    Raises:
        ToolError: The lock is empty or cut off; the line says how it is repaired.
    """
    lock, copy = root / LOCK, root / COPY
    if not copy.parent.is_dir() or not lock.is_file():
        return
    try:
        text = lock.read_text()
        last = copy.read_text() if copy.is_file() else ""
    except (OSError, UnicodeDecodeError):
        text, last = "", ""
    if text == last and text:
        return
    # DVC adds entries to what is there: a lock that grew by whole lines needs no parsing.
    doubtful = not text.endswith("\n") or not text.startswith("schema:") or len(text) < len(last)
    if doubtful and stages_in(text) is None:
        raise ToolError("dvc.lock is empty or cut off; `remerge repair` puts back its last state")
    write_text(copy, text)


def repair(root: Path) -> str:
    """Put the copy back if the lock is broken; return a line that says what was done.

    Raises:
        ToolError: The lock is broken, and there is no copy of it.
    """
    lock, copy = root / LOCK, root / COPY
    if _stages_of(lock) is not None:
        return "dvc.lock is whole"
    stages = _stages_of(copy)
    if stages is None:
        raise ToolError(
            "dvc.lock is missing, empty or cut off, and there is no copy of it; "
            "`git checkout dvc.lock` takes the committed one"
        )
    age = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(copy.stat().st_mtime))
    write_text(lock, copy.read_text())
    return (
        f"dvc.lock was broken; its copy of {age} with {len(stages)} stages is back: "
        "`dvc checkout` restores their outputs, `dvc repro` goes on"
    )


def pruned(text: str, existing: Collection[str]) -> tuple[str, list[str]]:
    """Drop the entries of stages that do not exist; all other bytes stay.

    Args:
        text: A lock as DVC writes it.
        existing: Names of the stages that exist.

    Returns:
        The text, and the names that were dropped.

    Raises:
        ToolError: The lock is broken, or not in DVC's own form.
    """
    before = stages_in(text)
    if before is None:
        raise ToolError("dvc.lock is empty or cut off; `remerge repair` puts back its last state")
    gone = [name for name in before if name not in existing]
    kept, dropping = [], False
    for line in text.splitlines(keepends=True):
        if line.startswith(_ENTRY) and not line.startswith((f"{_ENTRY} ", f"{_ENTRY}-")):
            dropping = line.strip().rstrip(":").strip("'\"") in gone
        elif not line.startswith(" "):
            dropping = False
        if not dropping:
            kept.append(line)
    after = "".join(kept)
    left = {name: entry for name, entry in before.items() if name in existing}
    if (stages_in(after) or {}) != left:
        raise ToolError("dvc.lock is not laid out as DVC writes it; nothing was pruned")
    return after, gone


def _stages_of(path: Path) -> dict[str, object] | None:
    try:
        return stages_in(path.read_text())
    except (OSError, UnicodeDecodeError):
        return None
