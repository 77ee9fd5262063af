"""What the hub has for a source: the commit behind a name, and the files that a recipe wants of it.

>>> look_up(entry, "main", "source 'chronos'").revision

Weights are not downloaded: the hub states the SHA-256 of every large file; small ones are read and
hashed. What is found is one complete checkpoint or adapter, or refused.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from remerge.errors import CheckpointError, SourceError, printable
from remerge.files import regular_file_size
from remerge.pins import listing
from remerge.progress import track
from remerge.sources.hub import (
    HubError,
    Patience,
    RepoFile,
    explain,
    get,
    patiently,
    repo_type,
)
from remerge.sources.layouts import (
    ADAPTER_WEIGHTS,
    INDEXES,
    LAYOUTS,
    adapter_file,
    is_weights,
    require_config,
    weight_files,
)
from remerge.sources.pinned import (
    KINDS,
    PinnedFile,
    check_repo_name,
    check_source_file,
    is_commit,
    local_folder,
    stays_within,
)
from remerge.sources.requests import AnswerError, read_body
from remerge.tensors.checkpoint import parse_index
from remerge.tensors.json_files import parse_json_object

#: Files that are pinned when the recipe names none.
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
        "model.safetensors",
        "model-*.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model-*.bin",
        "pytorch_model.bin.index.json",
    ),
    "adapter": ("adapter_config.json", *ADAPTER_WEIGHTS),
    "dataset": ("*.parquet", "*/*.parquet"),
}
_SMALL = 20_000_000
_SHORT_ID = re.compile(r"[0-9a-f]{6,39}")


Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Listed:
    """A repository at a commit: its present name, the files of interest, the licence it states."""

    repo: str
    revision: str
    files: dict[str, PinnedFile]
    licence: str = ""


def resolve(entry: Mapping[str, Any], revision: str, where: str) -> listing.Repository:
    """The hub's record of a source's repository at a branch, tag, commit or short commit id."""
    repo, kind = str(entry.get("repo")), entry.get("kind")
    if kind not in KINDS:
        raise SourceError(f"{where}: kind is {printable(kind, 40)!r}; expected {', '.join(KINDS)}")
    check_repo_name(repo, where)
    type_ = repo_type(str(kind))
    if _SHORT_ID.fullmatch(revision):
        commits = _ask(lambda: listing.commits(repo, type_), repo, revision, where)
        matching = [commit for commit in commits if commit.startswith(revision)]
        if len(matching) != 1:
            raise SourceError(
                f"{where}: {len(matching)} commits of {repo} begin with {revision}; give more of it"
            )
        revision = matching[0]
    info = _ask(lambda: listing.repository(repo, type_, revision), repo, revision, where)
    check_repo_name(info.id, where)
    if is_commit(revision) and info.sha != revision:
        raise SourceError(f"{where}: the hub answers with commit {info.sha} for {revision}")
    return info


def look_up(entry: Mapping[str, Any], revision: str, where: str) -> Listed:
    """What the hub has for a source at a branch, tag, commit or short commit id.

    SourceError or CheckpointError unless the files make one complete model or adapter.
    """
    info = resolve(entry, revision, where)
    kind = str(entry["kind"])
    tree = _ask(lambda: listing.files(info.id, repo_type(kind), info.sha), info.id, info.sha, where)
    subfolder = str(entry.get("subfolder") or "")
    prefix = f"{subfolder}/" if subfolder else ""
    there = {f.path.removeprefix(prefix): f for f in tree if f.path.startswith(prefix)}

    @functools.cache
    def content(name: str) -> bytes:
        file = RepoFile(info.id, repo_type(kind), info.sha, prefix + name)
        return _ask(functools.partial(_content, there[name], file), info.id, info.sha, where)

    names = _selected(entry, there, where)
    if kind != "dataset":
        names = _one_layout(kind, names, there, content, bool(_listed(entry)), where)
    files = {}
    for name in names:
        lfs = there[name].lfs
        data = b"" if lfs else content(name)
        pin = (lfs.sha256, lfs.size) if lfs else (hashlib.sha256(data).hexdigest(), len(data))
        files[name] = PinnedFile(*pin)
    return Listed(info.id, info.sha, files, info.licence)


def look_up_local(entry: Mapping[str, Any], root: Path, where: str) -> Listed:
    """What a folder on disk has for a source, every file of interest hashed.

    Args:
        entry: The source, with `kind` and `path`.
        root: What a relative path is relative to.
        where: What errors begin with.

    Returns:
        The files, with neither repository nor revision.

    Raises:
        SourceError: No such folder, a file that is missing, or a link out of the folder.
        CheckpointError: The files are not one complete model or adapter.
    """
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise SourceError(f"{where}: kind is {printable(kind, 40)!r}; expected {', '.join(KINDS)}")
    folder = local_folder(str(entry["path"]), root) / str(entry.get("subfolder") or "")
    if not folder.is_dir():
        raise SourceError(f"{where}: {folder} is no folder")
    there = {
        path.relative_to(folder).as_posix(): path
        for path in (folder.rglob("*") if kind == "dataset" else folder.iterdir())
        if path.is_file()
    }
    names = _selected(entry, there, where)
    if kind != "dataset":
        literal = bool(_listed(entry))
        names = _one_layout(kind, names, there, lambda n: there[n].read_bytes(), literal, where)
    for name in names:
        if not stays_within(there[name], folder):
            raise SourceError(f"{where}: {there[name]} is a link out of its folder; refused")
    sizes = {name: regular_file_size(there[name]) for name in names}
    files = {}
    with track(sum(sizes.values()), f"hashing {printable(entry['path'], 60)}") as bar:
        for name in names:
            digest = hashlib.sha256()
            with there[name].open("rb") as opened:
                while block := opened.read(1 << 22):
                    digest.update(block)
                    bar.advance(len(block))
            files[name] = PinnedFile(digest.hexdigest(), sizes[name])
    return Listed("", "", files)


def is_fixed(ref: str) -> bool:
    """Whether `ref` is a commit id, whole or short, which does not move."""
    return is_commit(ref) or _SHORT_ID.fullmatch(ref) is not None


def _ask(action: Callable[[], Answer], repo: str, revision: str, where: str) -> Answer:
    """The hub's answer, or SourceError."""
    try:
        return patiently(action, Patience(), f"{where}: {repo}")
    except HubError as error:
        raise explain(error, repo, revision, "", where) from None


def _listed(entry: Mapping[str, Any]) -> list[str]:
    """Names that the recipe lists one by one, and no patterns."""
    return [] if entry.get("select") else list(entry.get("files") or {})


def _selected(entry: Mapping[str, Any], there: Iterable[str], where: str) -> list[str]:
    """Files of interest: those that `select` matches, else those listed, else the usual."""
    there, listed = sorted(there), _listed(entry)
    if listed:
        missing = [name for name in listed if name not in there]
        names = sorted(set(listed) - set(missing))
    else:
        patterns = entry.get("select") or SELECT[str(entry["kind"])]
        names = [name for name in there if any(_matches(name, p) for p in patterns)]
        missing = [] if names else [", ".join(patterns)]
    if missing:
        origin = printable(entry.get("repo") or entry.get("path"), 80)
        raise SourceError(f"{where}: {origin} has no file {printable(missing[0])!r}")
    # They become keys of a file of pins and names on disk.
    return [check_source_file(name, str(entry["kind"]), where) for name in names]


def _one_layout(
    kind: str,
    names: Sequence[str],
    there: Collection[str],
    content: Callable[[str], bytes],
    literal: bool,
    where: str,
) -> list[str]:
    """Those of `names` that make one complete model or adapter; CheckpointError if none does.

    Where patterns found two kinds of weights, the safer one; weights that no index names are strays
    and are left out. A recipe that lists its files one by one must have it right.
    """
    if not literal:
        names = _safer(kind, names)
    try:
        require_config(names, kind, where)
        if kind == "adapter":
            weights = [adapter_file(names, where)]
        else:
            weight_maps = {
                index: parse_index(parse_json_object(content(index), index), f"{where}: {index}")
                for index in INDEXES
                if index in names
            }
            weights = weight_files(names, weight_maps, where)
    except CheckpointError as error:
        found = ", ".join(printable(n, 60) for n in sorted(there) if is_weights(n)) or "none"
        raise CheckpointError(
            f"{error}; weights that are there: {found}; correct `select` or `files`"
        ) from None
    return [name for name in names if literal or name in weights or not is_weights(name)]


def _safer(kind: str, names: Sequence[str]) -> list[str]:
    """Without pickles where there are safetensors, without single files where there are shards."""
    if kind == "adapter":
        first, second = ADAPTER_WEIGHTS
        return [name for name in names if not (name == second and first in names)]
    (index, single), (pickle_index, pickle) = LAYOUTS
    if index in names or single in names:
        names = [name for name in names if name != pickle_index and not name.endswith(".bin")]
    for whole, shards in ((index, single), (pickle_index, pickle)):
        if whole in names:
            names = [name for name in names if name != shards]
    return list(names)


def _matches(name: str, pattern: str) -> bool:
    """Whether the pattern fits, folder by folder: `*` does not cross a slash."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _content(item: listing.File, file: RepoFile) -> bytes:
    """A small file, which is what the hub's list says of it."""
    if item.size > _SMALL:
        raise SourceError(f"{file.where}: {item.size} bytes in git itself; not a file to pin")
    with get(file) as response:
        try:
            data = read_body(response, item.size)
        except AnswerError:
            data = b""
    if item.lfs:
        same = hashlib.sha256(data).hexdigest() == item.lfs.sha256
    else:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        same = blob == item.blob
    if len(data) != item.size or not same:
        raise SourceError(f"{file.where}: what came is not what the hub lists; try again")
    return data
