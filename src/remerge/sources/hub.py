"""The hub as `huggingface_hub` reaches it: addresses, authorisation, and its errors as one line.

`HF_ENDPOINT` names another server (a mirror, a loopback), `HF_TOKEN` opens gated repositories,
`HF_HUB_OFFLINE` forbids all requests. No message ever holds the token, a signed address or a
user name within an address.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, get_token, hf_raise_for_status

from remerge.errors import SourceError, printable

#: Answers that another attempt may turn into the right one.
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_TIMEOUT_S = 30.0

Result = TypeVar("Result")

# The library's warnings repeat what our errors say, over several lines.
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
logging.getLogger("httpx").setLevel(logging.WARNING)

#: What can go wrong in a request: no answer, or an answer that is an error.
HubError = (httpx.HTTPError, httpx.InvalidURL, HfHubHTTPError, OfflineModeIsEnabled)


@dataclass(frozen=True)
class Patience:
    """How long to go on: failures in a row without a new byte, and seconds between attempts."""

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0

    def wait_s(self, failures: int, asked_s: float) -> float:
        """Seconds before the next attempt: doubling, or what the server asked for."""
        backed_off = self.first_wait_s * 2 ** max(0, failures - 1)
        return min(self.longest_wait_s, max(backed_off, asked_s))


@dataclass(frozen=True)
class RepoFile:
    """A file of a repository at a commit. `path` is its full name within the repository."""

    repo: str
    repo_type: str
    revision: str
    path: str

    @property
    def where(self) -> str:
        """For messages: what is meant, without its address."""
        return f"{self.repo}@{self.revision[:12]}/{self.path}"

    @property
    def url(self) -> str:
        """Where the hub serves it."""
        return hf_hub_url(
            self.repo,
            self.path,
            repo_type=self.repo_type,
            revision=self.revision,
            endpoint=endpoint(),
        )


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, else the public hub."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def shown_endpoint() -> str:
    """The hub's address for messages, without a user name or password in it."""
    try:
        parts = urlsplit(endpoint())
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the address in HF_ENDPOINT"
    if not (parts.scheme and parts.hostname):
        return "the address in HF_ENDPOINT"
    return f"{parts.scheme}://{parts.hostname}{port}"


@contextmanager
def get(file: RepoFile, byte_range: str = "") -> Iterator[httpx.Response]:
    """A response whose body is streamed; raises one of `HubError` for an error status.

    byte_range  such as `100-` or `0-7`; the answer may be the whole file all the same (status 200)

    Redirects are followed, as for renamed repositories and storage hosts; the library drops the
    token when a redirect leads to another host.
    """
    headers = build_hf_headers(library_name="remerge") | {"Accept-Encoding": "identity"}
    if byte_range:
        headers["Range"] = f"bytes={byte_range}"
    with get_session().stream("GET", file.url, headers=headers, timeout=_TIMEOUT_S) as response:
        hf_raise_for_status(response)
        yield response


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in TRANSIENT
    return isinstance(error, httpx.TransportError) and not isinstance(
        error, httpx.UnsupportedProtocol
    )


def status_of(error: Exception) -> int | None:
    """The status that the hub answered with, if it answered."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    return None if response is None else response.status_code


def retry_after_s(error: Exception) -> float:
    """Seconds that the hub asked us to wait, or 0."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    stated = "" if response is None else response.headers.get("Retry-After", "")
    return float(stated) if stated.isdecimal() else 0.0


def patiently(action: Callable[[], Result], patience: Patience) -> Result:
    """The result of a small request, tried again while the hub is busy or out of reach."""
    failures = 0
    while True:
        try:
            return action()
        except HubError as error:
            failures += 1
            if not is_transient(error) or failures >= patience.attempts:
                raise
            time.sleep(patience.wait_s(failures, retry_after_s(error)))


def explain(error: Exception, repo: str, revision: str, what: str, where: str) -> SourceError:
    """The one line for a failed request about `what` (a file's path, or empty) of a repository."""
    token = "HF_TOKEN is set" if get_token() else "HF_TOKEN is not set"
    hub = shown_endpoint()
    if isinstance(error, OfflineModeIsEnabled):
        text = f"{what or repo} is not here and HF_HUB_OFFLINE forbids fetching it; unset it once"
    elif isinstance(error, GatedRepoError):
        text = (
            f"{repo} is gated at {hub}: accept its terms on its page and set HF_TOKEN to a token "
            f"of that account ({token})"
        )
    elif isinstance(error, RepositoryNotFoundError):
        text = (
            f"{repo} is not at {hub}: it was removed or renamed without a redirect, or is private "
            f"({token}); look it up and correct `repo` in the recipe"
        )
    elif isinstance(error, RevisionNotFoundError):
        text = (
            f"{repo} has no revision {printable(revision, 60)!r} at {hub}; `remerge pin --check` "
            "shows where it stands now"
        )
    elif isinstance(error, EntryNotFoundError):
        lacks = f"no file {printable(what)!r}" if what else "not what was asked for"
        text = f"{repo} has {lacks} at revision {printable(revision, 60)!r}"
    elif isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        hint = f" ({token})" if status in (401, 403) else ""
        about = f"{printable(what)!r} of {repo}" if what else repo
        text = f"{hub} answers {status} for {about}{hint}; try again later"
    else:
        kind = type(error).__name__
        text = f"{hub} cannot be reached for {what or repo} ({kind}); check HF_ENDPOINT"
    return SourceError(f"{where}: {text}")


def repo_type(kind: str) -> str:
    """The hub's type of repository for a source's kind."""
    return "dataset" if kind == "dataset" else "model"


def api() -> Any:
    """The hub's API at the same address."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="remerge")
