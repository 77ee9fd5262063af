"""A folder to upload: the model, its card beside it, where it comes from, and chosen formats.

>>> release(Path("release"), formats=["gguf_q4_k_m"])

Nothing is copied where a hard link does: the folder takes no space beside the pipeline's outputs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from remerge.errors import CheckpointError, RecipeError
from remerge.files import disk_errors, publish_folder, temporary_path, write_text
from remerge.proof.check import MANIFEST, FolderCheck, check_folder
from remerge.proof.contents import Contents, read_contents
from remerge.proof.lock import recorded_files
from remerge.report.released_card import Origin, released_card, title_of
from remerge.tensors.checkpoint import check_file_name
from remerge.tensors.json_files import read_json, write_json
from remerge.tensors.model_id import parse_model_id

MODEL, QUANTIZED, REPORT = Path("merged/final"), Path("quantized"), Path("report")
#: What comes of the report: the card, which is the folder's README, licences, provenance.
CARD = "README.md"
_BESIDE = (CARD, "LICENSE.md", "provenance.json", "bom.cdx.json")
_SUMS = "SHA256SUMS"


def release(
    out: Path, formats: Sequence[str] = (), root: Path = Path(), origin: Origin | None = None
) -> list[str]:
    """Make `out` whole or not at all; returns the names of its files.

    out      a folder that is not there yet
    formats  names of folders of `quantized/`, which become folders of `out`; a GGUF or GGML file in
             it has a name that is known in a list of downloads
    root     the project, whose pipeline has run
    origin   where the project is, for the card

    Every byte is checked first, and only what manifests list is taken. RecipeError if `out` exists,
    a format was not made, or the report is of another model; CheckpointError for an output that is
    damaged or holds more than its manifest lists.
    """
    if os.path.lexists(out):
        raise RecipeError(f"{out}: is there already; name a folder that is not")
    for name in formats:
        check_file_name(name, "--formats")
    places = {"": root / MODEL, **{name: root / QUANTIZED / name for name in formats}}
    listed = {name: _checked(folder) for name, folder in places.items()}
    report = _checked_report(root)
    released: dict[str, dict[str, str]] = {}
    card = (report.folder / CARD).read_text()
    title = title_of(card)
    temporary = temporary_path(out)
    try:
        with disk_errors(f"release {out}", out.parent):
            for name, contents in listed.items():
                renamed = _renamed(name, contents, title)
                for file in contents.files:
                    _link(contents, file, temporary / name / renamed.get(file, file))
                if renamed:
                    _rename_in_manifest(contents, temporary / name, renamed)
                released[name] = renamed
            for name in _BESIDE:
                _link(report, name, temporary / name)
            write_text(temporary / CARD, released_card(card, released, origin))
            names = {
                f"{name}/{released[name].get(file, file)}" if name else file
                for name, contents in listed.items()
                for file in contents.files
            }
            sums = sorted(_sums(root, temporary, places, released))
            if {line[66:-1] for line in sums} != names | set(_BESIDE):
                raise CheckpointError(
                    f"{root / REPORT / _SUMS}: does not list the files of the model and its "
                    "formats; run `dvc repro`"
                )
            write_text(temporary / _SUMS, "".join(sums))
            problems = check_folder(temporary).problems
            if problems:
                raise CheckpointError(f"{root / REPORT / _SUMS}: {problems[0]}; run `dvc repro`")
            publish_folder(temporary, out)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(temporary)
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def _renamed(format_name: str, contents: Contents, title: str) -> dict[str, str]:
    """File → name in the release, for a format that is one file; nothing where no name is known."""
    file = read_json(contents.folder / MANIFEST).get("file")
    if not format_name or not title or file not in contents.files:
        return {}
    suffix = Path(file).suffix
    if suffix not in (".gguf", ".ggml"):
        return {}
    return {file: f"{title}.{format_name.partition('_')[2].upper()}{suffix}"}


def _rename_in_manifest(contents: Contents, folder: Path, renamed: Mapping[str, str]) -> None:
    """Write the manifest of a format anew, under the names that its files have in the release."""
    manifest = read_json(contents.folder / MANIFEST)
    manifest["file"] = renamed[manifest["file"]]
    manifest["files"] = {renamed.get(name, name): of for name, of in manifest["files"].items()}
    (folder / MANIFEST).unlink()  # a hard link to the build's own
    write_json(folder / MANIFEST, manifest)


def _checked(folder: Path) -> Contents:
    """The files of an output, which are those that its manifest lists, undamaged."""
    if not (folder / MANIFEST).is_file():
        raise RecipeError(f"{folder}: is not built; run `dvc repro`")
    contents = read_contents(folder)
    _require_sound(check_folder(folder))
    contents.require_unchanged()
    return contents


def _require_sound(check: FolderCheck) -> None:
    if check.problems:
        raise CheckpointError(
            f"{check.folder}: {check.problems[0]}; nothing is released: `remerge check` names all "
            "that is damaged, `remerge repair` removes it"
        )


def _checked_report(root: Path) -> Contents:
    """The files of the report, which must be of this model."""
    folder = root / REPORT
    for name in (*_BESIDE, _SUMS):
        if not (folder / name).is_file():
            raise RecipeError(f"{folder / name}: is not there; run `dvc repro`")
    contents = read_contents(folder)
    contents.require_plain()
    if recorded_files(folder) is not None:
        _require_sound(check_folder(folder))
    identity = parse_model_id(str(read_json(root / MODEL / MANIFEST).get("model_id")))
    if identity not in (folder / "README.md").read_text():
        raise RecipeError(
            f"{folder / 'README.md'}: is the card of another model than {root / MODEL}; run "
            "`dvc repro`"
        )
    return contents


def _link(source: Contents, name: str, target: Path) -> None:
    """A hard link, or a copy where the two are on different file systems, of what was checked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.folder / name, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source.folder / name, target, follow_symlinks=False)


def _sums(
    root: Path, made: Path, places: dict[str, Path], released: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """The lines of the report's `SHA256SUMS` with the paths that the files have here."""
    kept = {
        f"{folder.relative_to(root).as_posix()}/": f"{name}/" if name else ""
        for name, folder in places.items()
    }
    for line in (root / REPORT / _SUMS).read_text().splitlines():
        digest, path = line.split("  ", 1)
        for before, after in kept.items():
            if path.startswith(before):
                file = path.removeprefix(before)
                renamed = released.get(after.rstrip("/"), {})
                if renamed and file == MANIFEST:
                    digest = hashlib.sha256((made / after / file).read_bytes()).hexdigest()
                yield f"{digest}  {after}{renamed.get(file, file)}\n"
    for name in _BESIDE:
        yield f"{hashlib.sha256((made / name).read_bytes()).hexdigest()}  {name}\n"
