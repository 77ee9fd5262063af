"""Resolving what a recipe names to what it can be held to: commits, file lists, sizes, digests.

>>> pin_file(Path("conf/recipe/stheno_l2_13b_sources.yaml"))

The one place where a branch, a tag or a short commit id means something. Weights are not
downloaded: the hub states the SHA-256 of every large file; small ones are read and hashed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from remerge.atomic import write_text
from remerge.errors import RecipeError, RemergeError, SourceError, printable
from remerge.sources.hub import (
    HubError,
    Patience,
    RepoFile,
    api,
    explain,
    get,
    patiently,
    repo_type,
)
from remerge.sources.pinned import KINDS, PinnedFile, check_repo_name, is_commit
from remerge.sources.recipe_text import Pins, read_entries, with_pins

#: Files of a model or adapter that are pinned when the recipe names none.
SELECT = {
    "model": (
        "config.json",
        "generation_config.json",
        "added_tokens.json",
        "special_tokens_map.json",
        "tokenizer*",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    ),
    "adapter": ("adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"),
    "dataset": ("*.parquet", "*/*.parquet"),
}
_PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
_SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_SMALL = 20_000_000
_SHORT_ID = re.compile(r"[0-9a-f]{6,39}")


@dataclass(frozen=True)
class Listed:
    """A repository at a commit: its present name, and the files of interest by name."""

    repo: str
    revision: str
    files: dict[str, PinnedFile]


@dataclass
class Report:
    """What was found. `lines` for the reader; `broken` when a pin is missing or does not hold."""

    lines: list[str] = field(default_factory=list)
    broken: bool = False


def sources_file(name: str, conf: Path = Path("conf")) -> Path:
    """The file that holds the sources of a recipe or suite called `name`, or `name` as a path."""
    if name.endswith((".yaml", ".yml")):
        candidates = [Path(name)]
    else:
        plain = re.fullmatch(r"[\w.-]+", name) is not None
        candidates = [conf / "recipe" / f"{name}_sources.yaml"]
        candidates += sorted(conf.glob(f"*/{name}.yaml")) if plain else []
    for path in candidates:
        if path.is_file():
            return path
    raise RecipeError(f"{printable(name)!r}: neither a recipe of {conf}/ nor a YAML file")


def pin_file(path: Path, only: Sequence[str] = (), *, update: bool = False) -> Report:
    """Write the pins of the sources in `path` (all, or those named in `only`), keeping comments.

    A revision that is a commit stays, unless `update` asks for what `ref` (or `main`) is now.
    Nothing is written if any source cannot be resolved.
    """
    text, entries = _read(path)
    report = Report()
    pins = {}
    for name, entry in _chosen(entries, only, path):
        if not entry.get("repo"):
            report.lines.append(f"{name}: files of this project, pinned by hand")
            continue
        revision = entry.get("revision") or ""
        wanted = str(revision) if revision and not update else str(entry.get("ref") or "main")
        found = look_up(entry, wanted, f"source {name!r}")
        if found.repo != entry["repo"]:
            report.lines.append(f"{name}: {entry['repo']} is called {found.repo} now")
        pins[name] = Pins(found.repo, found.revision, found.files)
        how = "kept" if found.revision == revision else f"{wanted} was resolved"
        total = sum(pin.size for pin in found.files.values())
        report.lines.append(
            f"{name}: {found.revision} ({how}), {len(found.files)} files, {total / 1e9:.2f} GB"
        )
    write_text(path, with_pins(text, pins, str(path)))
    return report


def check_file(path: Path, only: Sequence[str] = ()) -> Report:
    """Compare the pins in `path` with the hub: do they hold, and what has moved since?"""
    _, entries = _read(path)
    report = Report()
    for name, entry in _chosen(entries, only, path):
        if entry.get("repo"):
            try:
                lines, broken = _check(name, entry)
            except RemergeError as error:
                lines, broken = [str(error)], True
            report.lines += lines
            report.broken |= broken
    return report


def _check(name: str, entry: Mapping[str, Any]) -> tuple[list[str], bool]:
    where, revision = f"source {name!r}", str(entry.get("revision") or "")
    if not is_commit(revision):
        return [f"{name}: not pinned (revision {revision or 'absent'})"], True
    pinned = entry.get("files") or {}
    if pinned:
        entry = {**entry, "select": None}  # exactly what is pinned
    found = look_up(entry, revision, where)
    lines = []
    if found.repo != entry["repo"]:
        lines.append(f"{name}: {entry['repo']} is called {found.repo} now")
    wrong = []
    for file, pin in found.files.items():
        stated = pinned.get(file) or {}
        if (stated.get("sha256"), stated.get("size")) != (pin.sha256, pin.size):
            wrong.append(
                f"{name}: {file} has SHA-256 {pin.sha256}, pinned is {stated.get('sha256')}"
            )
    ref = str(entry.get("ref") or "main")
    if not _SHORT_ID.fullmatch(ref) and not is_commit(ref):
        head = look_up(entry, ref, where)
        if head.revision != revision:
            moved = sorted(
                file
                for file in found.files.keys() | head.files.keys()
                if found.files.get(file) != head.files.get(file)
            )
            changes = f"other bytes in {', '.join(moved)}" if moved else "the same files"
            lines.append(f"{name}: {ref} moved to {head.revision}, pinned is {revision}: {changes}")
    if not wrong and not lines:
        lines.append(f"{name}: {revision} holds")
    return wrong + lines, bool(wrong)


def look_up(entry: Mapping[str, Any], revision: str, where: str) -> Listed:
    """What the hub has for a source at a branch, tag, commit or short commit id."""
    repo, kind = str(entry.get("repo")), entry.get("kind")
    if kind not in KINDS:
        raise SourceError(f"{where}: kind is {printable(kind, 40)!r}; expected {', '.join(KINDS)}")
    check_repo_name(repo, where)
    hub, type_ = api(), repo_type(str(kind))

    def ask(action: Callable[[], Any]) -> Any:
        try:
            return patiently(action, Patience())
        except HubError as error:
            raise explain(error, repo, revision, "", where) from None

    if _SHORT_ID.fullmatch(revision):
        commits = ask(lambda: hub.list_repo_commits(repo, repo_type=type_))
        matching = [c.commit_id for c in commits if c.commit_id.startswith(revision)]
        if len(matching) != 1:
            raise SourceError(
                f"{where}: {len(matching)} commits of {repo} begin with {revision}; give more of it"
            )
        revision = matching[0]
    info = ask(lambda: hub.repo_info(repo, revision=revision, repo_type=type_))
    if not is_commit(info.sha) or not isinstance(info.id, str):
        raise SourceError(f"{where}: the hub states no commit for {repo} at {revision}")
    check_repo_name(info.id, where)
    tree = ask(
        lambda: list(hub.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type=type_))
    )
    subfolder = str(entry.get("subfolder") or "")
    prefix = f"{subfolder}/" if subfolder else ""
    there = {
        item.path.removeprefix(prefix): item
        for item in tree
        if hasattr(item, "size") and item.path.startswith(prefix)
    }
    files = {}
    for name in _selected(entry, there, where):
        file = RepoFile(info.id, type_, info.sha, prefix + name)
        files[name] = ask(partial(_pin, there[name], file))
    return Listed(info.id, info.sha, files)


def _selected(entry: Mapping[str, Any], there: Iterable[str], where: str) -> list[str]:
    """Names of the files to pin: those that match `select`, else those listed, else the usual."""
    there, listed = sorted(there), list(entry.get("files") or {})
    patterns = entry.get("select") or listed or _usual(str(entry["kind"]), there)
    literal = not entry.get("select") and bool(listed)
    names = [
        name for name in there if any(name == p if literal else _matches(name, p) for p in patterns)
    ]
    missing = [p for p in patterns if literal and p not in names]
    if missing or not names:
        lacking = missing[0] if missing else ", ".join(patterns)
        raise SourceError(f"{where}: {entry['repo']} has no file {printable(lacking)!r}")
    return names


def _usual(kind: str, there: Sequence[str]) -> Sequence[str]:
    """What is pinned when the recipe says nothing; of two kinds of weights, the safer one."""
    if kind != "model":
        return SELECT[kind]
    safe = _SAFETENSORS[0] in there or _SAFETENSORS[-1] in there
    return (*SELECT[kind], *(_SAFETENSORS if safe else _PICKLES))


def _matches(name: str, pattern: str) -> bool:
    """Whether the pattern fits, folder by folder: `*` does not cross a slash."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _pin(item: Any, file: RepoFile) -> PinnedFile:
    if item.lfs is not None:
        return PinnedFile(item.lfs.sha256, item.lfs.size)
    if item.size > _SMALL:
        raise SourceError(f"{file.where}: {item.size} bytes in git itself; not a file to pin")
    with get(file) as response:
        data = bytearray()
        for block in response.iter_bytes():
            data += block
            if len(data) > item.size:
                break
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if len(data) != item.size or blob != item.blob_id:
        raise SourceError(f"{file.where}: what came is not what the hub lists; try again")
    return PinnedFile(hashlib.sha256(data).hexdigest(), len(data))


def _read(path: Path) -> tuple[str, CommentedMap]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from None
    return text, read_entries(text, str(path))


def _chosen(
    entries: CommentedMap, only: Sequence[str], path: Path
) -> list[tuple[str, CommentedMap]]:
    unknown = [name for name in only if name not in entries]
    if unknown:
        raise RecipeError(f"{path}: has no source {printable(unknown[0])!r}")
    return [(n, e) for n, e in entries.items() if not only or n in only]
