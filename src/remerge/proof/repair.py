"""Remove a damaged output, and the damaged objects of the cache that it is linked with.

>>> repair(Path("merged/final"))
Repaired(files=13, objects=1)

A damaged file that is linked with DVC's cache is damaged there as well, so both must go; then a
remote has the right bytes (`dvc pull`), or the stage makes them again (`dvc repro`). An object of
the cache is removed only if its content is not what its name says, so nothing sound can be lost
wherever the settings of a project say that its cache is.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from remerge.errors import CheckpointError, printable
from remerge.proof.check import FolderCheck, check_folder
from remerge.proof.contents import read_contents
from remerge.proof.digests import md5_of_files
from remerge.proof.lock import cache_folders, object_name, project_of, recorded_files

_OBJECT = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?")


@dataclass(frozen=True)
class Repaired:
    """How much was removed: files of the output, and objects of the cache."""

    files: int
    objects: int


def repair(folder: Path | str, threads: int | None = None) -> Repaired:
    """Remove a damaged output of a DVC project, so that it can be pulled or made again.

    Args:
        folder: an output that `dvc.lock` records.
        threads: threads that read.

    Returns:
        What was removed; nothing of a folder that is sound.

    Raises:
        CheckpointError: the folder is not an output of a project, or holds what no list names,
            which could be somebody's only copy.
    """
    folder = Path(folder)
    root = project_of(folder)
    if root is None or recorded_files(folder) is None:
        raise CheckpointError(
            f"{folder}: is not an output of a DVC project; fetch it again from where it came"
        )
    try:
        check = check_folder(folder, threads)
    except CheckpointError:
        check = FolderCheck(folder, "", 0, 0, "", (), objects={})
        damaged = tuple(read_contents(folder).files)  # nothing of it can be told apart
    else:
        damaged = check.damaged
    if not damaged:
        return Repaired(0, 0)
    contents = read_contents(folder)
    listed = check.objects or contents.files
    for name in contents.unlisted(listed):
        raise CheckpointError(
            f"{folder}: {printable(name)} is in no list; move it away first, as all of the folder "
            "is removed"
        )
    suspects = [] if check.objects else list(contents.files)
    suspects += [name for name in damaged if name in contents.files]
    removed = 0
    for path in dict.fromkeys(_objects(root, folder, suspects, check)):
        if path.is_file() and md5_of_files([path], 1)[0] != path.parent.name + path.name[:30]:
            path.unlink()
            removed += 1
    shutil.rmtree(folder)
    return Repaired(len(contents.files), removed)


def _objects(root: Path, folder: Path, suspects: list[str], check: FolderCheck) -> Iterator[Path]:
    """Objects of the cache that suspicious files are, by name or by link."""
    nodes = set()
    for name in suspects:
        status = (folder / name).stat()
        nodes.add((status.st_dev, status.st_ino))
    for cache in cache_folders(root):
        for name in check.damaged:
            if name in check.objects:
                yield cache / object_name(check.objects[name])
        place = cache / "files" / "md5"
        for path in place.glob("*/*") if place.is_dir() else ():
            status = path.lstat()
            if (status.st_dev, status.st_ino) in nodes and _OBJECT.fullmatch(
                f"{path.parent.name}/{path.name}"
            ):
                yield path
