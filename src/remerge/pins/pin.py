"""Resolving what a recipe names to what it can be held to: commits, file lists, sizes, digests.

>>> pin_files(sources_files("stheno_l2_13b"))

The one place where a branch, a tag or a short commit id means something; `lookup` asks the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from remerge.errors import RecipeError, RemergeError, SourceError, printable
from remerge.files import regular_file_size, write_text
from remerge.pins.lookup import Listed, is_fixed, look_up, look_up_local, resolve
from remerge.pins.recipe_text import Pins, read_document, read_entries, with_pins
from remerge.progress import track
from remerge.sources.pinned import is_commit, local_files, local_paths, parse_source, unpinned


@dataclass
class Report:
    """What was found.

    lines    for the reader
    broken   a pin is missing or does not hold
    written  files that were changed
    """

    lines: list[str] = field(default_factory=list)
    broken: bool = False
    written: tuple[Path, ...] = ()


def sources_files(name: str, conf: Path = Path("conf")) -> list[Path]:
    """Find the files that pin the sources of a recipe or suite.

    Args:
        name: A recipe, suite or file of pins of `conf`, or a path of a YAML file.
        conf: The configuration.

    Returns:
        Files of `conf/pins`: the recipe's own, and that of its suite where it has one.

    Raises:
        RecipeError: There is no such recipe, or it has no pins.
    """
    if name.endswith((".yaml", ".yml")):
        return [Path(name)]
    plain = re.fullmatch(r"[\w.-]+", name) is not None
    starts = [conf / "recipe" / f"{name}.yaml", *sorted(conf.glob(f"*/{name}.yaml"))]
    start = next((path for path in starts if plain and path.is_file()), None)
    if start is None:
        raise RecipeError(f"{printable(name)!r}: neither a recipe of {conf}/ nor a YAML file")
    names: dict[str, None] = {}
    own: list[str] = [start.stem]
    for path in _composed(start, conf):
        recipe = read_document(_text(path), str(path)).get("recipe")
        if isinstance(recipe, Mapping):
            pins = recipe.get("pins") or own
            own = [pins] if isinstance(pins, str) else list(map(str, pins))
        if path.parent.name == "eval":
            names[path.stem] = None
    wanted = [*own, *names] if start.parent.name != "eval" else [start.stem]
    files = [conf / "pins" / f"{each}.yaml" for each in dict.fromkeys(wanted)]
    found = [path for path in files if path.is_file()]
    if not found:
        raise RecipeError(
            f"{start}: its sources have no file of pins; write {files[0]}, or name "
            "that of another recipe, such as `pins: tiny`"
        )
    return found


def pin_files(
    paths: Sequence[Path], only: Sequence[str] = (), *, update: bool = False, root: Path = Path()
) -> Report:
    """Write the pins of the sources in `paths` (all, or those named in `only`), keeping comments.

    A revision that is a commit stays, unless `update` asks for what `ref` (or `main`) is now; so
    do the pins of files on disk, whose relative paths are below `root`.
    Nothing is written if any source cannot be resolved.
    """
    report = Report()
    texts: dict[Path, str] = {}
    chosen = _chosen(paths, only)
    with track(sum(len(entries) for *_, entries in chosen), "looking at sources", "source") as bar:
        for path, text, entries in chosen:
            pins = {}
            for name, entry in entries.items():
                if entry.get("repo"):
                    pins[name], lines = _pins(name, entry, update)
                else:
                    pins[name], lines = _local_pins(name, entry, root, update)
                report.lines += lines
                bar.advance(1)
            changed = with_pins(text, pins, str(path))
            if changed != text:
                texts[path] = changed
    for path, text in texts.items():
        write_text(path, text)
    report.written = tuple(texts)
    return report


def _pins(name: str, entry: Mapping[str, Any], update: bool) -> tuple[Pins, list[str]]:
    """What is to be written of one source, and what to tell of it."""
    revision = entry.get("revision") or ""
    wanted = str(revision) if revision and not update else str(entry.get("ref") or "main")
    found = look_up(entry, wanted, f"source {name!r}")
    lines = []
    if found.repo != entry["repo"]:
        lines.append(f"{name}: {entry['repo']} is called {found.repo} now")
    how = "kept" if found.revision == revision else f"{wanted} was resolved"
    total = sum(pin.size for pin in found.files.values())
    lines.append(
        f"{name}: {found.revision} ({how}), {len(found.files)} files, {total / 1e9:.2f} GB"
    )
    stated = entry.get("licence")
    if not (stated or found.licence):
        lines.append(f"{name}: neither recipe nor hub states a licence; the model card will say so")
    elif stated and found.licence and stated != found.licence:
        lines.append(f"{name}: the hub states licence {found.licence}, the recipe {stated}; kept")
    return Pins(found.repo, found.revision, found.files, str(stated or found.licence)), lines


def _local_pins(
    name: str, entry: Mapping[str, Any], root: Path, update: bool
) -> tuple[Pins, list[str]]:
    """What is to be written of a source on disk, and what to tell of it."""
    where = f"source {name!r}"
    if not entry.get("path"):
        raise RecipeError(f"{where}: has neither a repo of the hub nor a path of a folder")
    licence = str(entry.get("licence") or "")
    if not update and not unpinned({name: entry}):
        source = parse_source(name, entry)
        for file, path in local_paths(source, root).items():
            size = regular_file_size(path)
            if size != source.files[file].size:
                raise SourceError(
                    f"{where}: {path} has {size} bytes, pinned are {source.files[file].size}; "
                    "`--update` pins the files as they are"
                )
        total = sum(pin.size for pin in source.files.values())
        lines = [f"{name}: {source.path} (kept), {_amount(len(source.files), total)}"]
        return Pins("", "", source.files, licence), lines
    found = look_up_local(entry, root, where)
    total = sum(pin.size for pin in found.files.values())
    lines = [f"{name}: {entry['path']} (hashed), {_amount(len(found.files), total)}"]
    if not licence:
        lines.append(f"{name}: states no licence; the model card will say so")
    return Pins("", "", found.files, licence), lines


def _amount(files: int, total: int) -> str:
    size = f"{total / 1e9:.2f} GB" if total >= 1e8 else f"{total / 1e6:.2f} MB"
    return f"{files} file{'' if files == 1 else 's'}, {size}"


def check_files(paths: Sequence[Path], only: Sequence[str] = (), *, root: Path = Path()) -> Report:
    """Compare the pins in `paths` with hub and disk: do they hold, and what has moved since?"""
    report = Report()
    named = [item for *_, entries in _chosen(paths, only) for item in entries.items()]
    with track(len(named), "looking at sources", "source") as bar:
        for name, entry in named:
            try:
                if entry.get("repo"):
                    lines, broken = _check(name, entry)
                else:
                    lines, broken = _check_local(name, entry, root)
            except RemergeError as error:
                lines, broken = [str(error)], True
            report.lines += lines
            report.broken |= broken
            bar.advance(1)
    return report


def _check(name: str, entry: Mapping[str, Any]) -> tuple[list[str], bool]:
    where, revision = f"source {name!r}", str(entry.get("revision") or "")
    if not is_commit(revision):
        return [f"{name}: not pinned (revision {revision or 'absent'})"], True
    if unpinned({name: entry}):
        now = resolve(entry, revision, where).id
        renamed = "" if now == entry["repo"] else f"; {entry['repo']} is called {now} now"
        return [f"{name}: {revision} holds; digests not pinned yet{renamed}"], True
    pinned = entry["files"]
    entry = {**entry, "select": None}  # exactly what is pinned
    found = look_up(entry, revision, where)
    wrong = [
        f"{name}: {file} has SHA-256 {pin.sha256}, pinned is {pinned[file].get('sha256')}"
        for file, pin in found.files.items()
        if (pinned[file].get("sha256"), pinned[file].get("size")) != (pin.sha256, pin.size)
    ]
    lines = []
    if found.repo != entry["repo"]:
        lines.append(f"{name}: {entry['repo']} is called {found.repo} now")
    lines += _moved(name, entry, found, where)
    if not wrong and not lines:
        lines.append(f"{name}: {revision} holds")
    return wrong + lines, bool(wrong)


def _check_local(name: str, entry: Mapping[str, Any], root: Path) -> tuple[list[str], bool]:
    if unpinned({name: entry}):
        return [f"{name}: not pinned (no digests of its files)"], True
    source = parse_source(name, entry)
    local_files(source, root)
    return [f"{name}: {source.path} holds, {len(source.files)} files"], False


def _moved(name: str, entry: Mapping[str, Any], pinned: Listed, where: str) -> list[str]:
    """A line if the branch that was pinned stands elsewhere now; that is news and no fault."""
    ref = str(entry.get("ref") or "main")
    if is_fixed(ref):
        return []
    try:
        head = look_up(entry, ref, where)
    except RemergeError as error:
        return [f"{name}: the pin holds, but {ref} is another thing now: {error}"]
    if head.revision == pinned.revision:
        return []
    moved = sorted(
        file
        for file in pinned.files.keys() | head.files.keys()
        if pinned.files.get(file) != head.files.get(file)
    )
    changes = f"other bytes in {', '.join(moved)}" if moved else "the same files"
    return [f"{name}: {ref} moved to {head.revision}, pinned is {pinned.revision}: {changes}"]


def _composed(path: Path, conf: Path) -> Iterator[Path]:
    """A file of conf/ and those that its `defaults` name, as Hydra would find them."""
    document = read_document(_text(path), str(path))
    defaults = document.get("defaults")
    for entry in defaults if isinstance(defaults, list) else []:
        for key, chosen in entry.items() if isinstance(entry, dict) else [("", entry)]:
            group = str(key).removeprefix("override ").partition("@")[0]
            folder = conf / group[1:] if group.startswith("/") else path.parent / group
            for option in chosen if isinstance(chosen, list) else [chosen]:
                other = folder / f"{str(option).partition('@')[0]}.yaml"
                if other != path and other.is_file():
                    yield from _composed(other, conf)
    yield path


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from None


def _chosen(
    paths: Sequence[Path], only: Sequence[str]
) -> list[tuple[Path, str, dict[str, CommentedMap]]]:
    """Each file, its text and those of its sources that are wanted; RecipeError for one of none."""
    files = [
        (path, text, read_entries(text, str(path))) for path in paths for text in [_text(path)]
    ]
    unknown = [name for name in only if not any(name in entries for _, _, entries in files)]
    if unknown:
        where = " and ".join(map(str, paths))
        raise RecipeError(f"{where}: has no source {printable(unknown[0])!r}")
    return [
        (path, text, {n: e for n, e in entries.items() if not only or n in only})
        for path, text, entries in files
    ]
