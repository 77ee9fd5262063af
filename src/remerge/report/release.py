"""A folder to upload: the model, its card beside it, where it comes from, and chosen formats.

>>> release(Path("release"), formats=["gguf_q4_k_m"])

Nothing is copied where a hard link does: the folder costs no room beside the pipeline's outputs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from remerge.errors import CheckpointError, RecipeError
from remerge.files import TEMPORARY_SUFFIX, disk_errors, flush_folder, write_text
from remerge.tensors.json_files import read_json

MODEL, QUANTIZED, REPORT = Path("merged/final"), Path("quantized"), Path("report")
#: What comes of the report: the card, which is the folder's README, licences, provenance.
_BESIDE = ("README.md", "LICENSE.md", "provenance.json", "bom.cdx.json")
_SUMS = "SHA256SUMS"


def release(out: Path, formats: Sequence[str] = (), root: Path = Path()) -> list[str]:
    """Make `out` whole or not at all; returns the names of its files.

    out      a folder that is not there yet
    formats  names of folders of `quantized/`, which become folders of `out`
    root     the project, whose pipeline has run

    RecipeError if `out` exists, a format was not made, or the report is of another model;
    CheckpointError for an output that is incomplete.
    """
    if out.exists():
        raise RecipeError(f"{out}: is there already; name a folder that is not")
    places = {"": root / MODEL, **{name: root / QUANTIZED / name for name in formats}}
    for folder in places.values():
        _check_complete(folder)
    _check_card(root)
    temporary = out.with_name(f".{out.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with disk_errors(f"release {out}", out.parent):
            for name, folder in places.items():
                _link_files(folder, temporary / name)
            for name in _BESIDE:
                _link(root / REPORT / name, temporary / name)
            write_text(temporary / _SUMS, "".join(sorted(_sums(root, temporary, places))))
            flush_folder(temporary)
            temporary.rename(out)
            flush_folder(out.parent)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(temporary)
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def _check_complete(folder: Path) -> None:
    """CheckpointError unless every file that the manifest lists is there with its size."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise RecipeError(f"{folder}: is not built; run `dvc repro`")
    for name, entry in read_json(manifest)["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["size"]:
            raise CheckpointError(
                f"{file}: is missing or incomplete; `remerge check {folder}` says how to repair it"
            )


def _check_card(root: Path) -> None:
    for name in (*_BESIDE, _SUMS):
        if not (root / REPORT / name).is_file():
            raise RecipeError(f"{root / REPORT / name}: is not there; run `dvc repro`")
    identity = read_json(root / MODEL / "manifest.json")["model_id"]
    card = root / REPORT / "README.md"
    if identity not in card.read_text():
        raise RecipeError(
            f"{card}: is the card of another model than {root / MODEL}; run `dvc repro`"
        )


def _link_files(folder: Path, target: Path) -> None:
    for file in sorted(folder.iterdir()):
        if file.is_file():
            _link(file, target / file.name)


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the two are on different file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sums(root: Path, made: Path, places: dict[str, Path]) -> Iterator[str]:
    """The lines of the report's `SHA256SUMS` with the paths that the files have here."""
    kept = {
        f"{folder.relative_to(root).as_posix()}/": f"{name}/" if name else ""
        for name, folder in places.items()
    }
    for line in (root / REPORT / _SUMS).read_text().splitlines():
        digest, path = line.split("  ", 1)
        for before, after in kept.items():
            if path.startswith(before):
                yield f"{digest}  {after}{path.removeprefix(before)}\n"
    for name in _BESIDE:
        yield f"{hashlib.sha256((made / name).read_bytes()).hexdigest()}  {name}\n"
