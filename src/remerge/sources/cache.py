"""The hub's own cache on this machine: always looked into, added to when downloads are kept."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from remerge.sources.hub import RepoFile


def root() -> Path:
    """The cache's folder, as `HF_HUB_CACHE` or `HF_HOME` set it."""
    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)


def staging() -> Path:
    """A place on the cache's file system for downloads on their way into it."""
    return root() / ".remerge"


def find(file: RepoFile) -> Path | None:
    """The file in the cache, as yet unverified, or None."""
    found = try_to_load_from_cache(
        file.repo,
        file.path,
        cache_dir=str(root()),
        revision=file.revision,
        repo_type=file.repo_type,
    )
    return Path(found) if isinstance(found, str) else None


def adopt(downloaded: Path, file: RepoFile, sha256: str) -> Path:
    """Move a verified file into the cache and enter it there; no server is asked anything.

    Args:
        downloaded: The file, on the cache's file system.
        file: What it is on the hub, at a commit.
        sha256: Its digest, which is the name of its blob: for large files the hub's as well.

    Returns:
        Its path in the cache, where `huggingface_hub` finds it too.
    """
    folder = root() / repo_folder_name(repo_id=file.repo, repo_type=file.repo_type)
    blob = folder / "blobs" / sha256
    entry = folder / "snapshots" / file.revision / file.path
    for path in (blob, entry):
        path.parent.mkdir(parents=True, exist_ok=True)
    downloaded.replace(blob)
    with suppress(FileExistsError):
        entry.symlink_to(os.path.relpath(blob, entry.parent))
    return entry
