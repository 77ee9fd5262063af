"""The hub's own cache on this machine: always looked into, added to when downloads are kept."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.file_download import get_hf_file_metadata, repo_folder_name
from huggingface_hub.utils import build_hf_headers

from remerge.sources.hub import HubError, RepoFile, endpoint, explain


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


def adopt(downloaded: Path, file: RepoFile, where: str) -> Path:
    """Move a verified file into the cache; returns its path there.

    The cache names its blobs by the server's etag. The blob is put there; the library, which finds
    that nothing is left to download, makes the entry of the commit.
    """
    try:
        headers = build_hf_headers(library_name="remerge")
        etag = get_hf_file_metadata(file.url, headers=headers, retry_on_errors=True).etag
        if not etag or not etag.isalnum():
            return downloaded
        folder = root() / repo_folder_name(repo_id=file.repo, repo_type=file.repo_type)
        blob = folder / "blobs" / etag
        blob.parent.mkdir(parents=True, exist_ok=True)
        downloaded.replace(blob)
        return Path(
            hf_hub_download(
                file.repo,
                file.path,
                repo_type=file.repo_type,
                revision=file.revision,
                cache_dir=str(root()),
                endpoint=endpoint(),
            )
        )
    except HubError as error:
        raise explain(error, file.repo, file.revision, file.path, where) from None
