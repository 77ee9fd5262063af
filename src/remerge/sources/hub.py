"""The hub as `huggingface_hub` reaches it: addresses, authorisation, and its errors as one line.

`HF_ENDPOINT` names another server (a mirror, a loopback), `HF_TOKEN` opens gated repositories,
`HF_HUB_OFFLINE` forbids all requests. No message ever holds the token, a signed address or a
user name within an address.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from huggingface_hub import constants, hf_hub_url, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_token, hf_raise_for_status

from remerge.errors import SourceError, printable
from remerge.formatting import duration
from remerge.progress import note
from remerge.sources.requests import AnswerError, open_response

#: Answers that another attempt may turn into the right one.
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Seconds from which a wait is shown, also when the server did not ask for it.
_SHOWN_S = 5.0
#: `RateLimit` of a limit that is used up: `"api";r=0;t=42`, or as earlier drafts had it.
_USED_UP = re.compile(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})\b|\bremaining=0,\s*reset=(\d{1,9})\b")

Result = TypeVar("Result")

# The library's warnings repeat what our errors say, over several lines.
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
logging.getLogger("httpx").setLevel(logging.WARNING)

#: What can go wrong in a request: no answer, or an answer that is an error or no hub's.
HubError = (httpx.HTTPError, httpx.InvalidURL, HfHubHTTPError, OfflineModeIsEnabled, AnswerError)


@dataclass(frozen=True)
class Patience:
    """How long to go on when the hub fails.

    attempts        failures in a row without progress
    first_wait_s    seconds before the second attempt; doubled for each that follows
    longest_wait_s  to which they are doubled
    longest_asked_s for which the hub may ask
    """

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    longest_asked_s: float = 900.0

    def wait_s(self, failures: int, error: Exception | None, what: str) -> float:
        """Say how long to wait before the next attempt, and show it where it is long.

        Args:
            failures: How many attempts failed in a row.
            error: The last failure; the hub may have asked for a time in it.
            what: What is waited for.

        Returns:
            Seconds: doubling with each failure, or what the hub asks for where that is longer.

        Raises:
            SourceError: The hub asks for more than `longest_asked_s`.
        """
        asked_s = 0.0 if error is None else asked_wait_s(error)
        if asked_s > self.longest_asked_s:
            raise SourceError(
                f"{what}: {shown_endpoint()} asks to wait {duration(asked_s)}, longer than the "
                f"{duration(self.longest_asked_s)} that are waited; run it again after that"
            )
        backed_off = min(self.longest_wait_s, self.first_wait_s * 2 ** max(0, failures - 1))
        if asked_s >= backed_off and asked_s > 0:
            note(f"{what}: waiting {duration(asked_s)}, as {shown_endpoint()} asks")
        elif backed_off >= _SHOWN_S:
            note(f"{what}: waiting {duration(backed_off)} before the next attempt")
        return max(backed_off, asked_s)


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

    Redirects are followed, as for renamed repositories and storage hosts.
    """
    with get_url(file.url, {"Range": f"bytes={byte_range}"} if byte_range else {}) as response:
        yield response


@contextmanager
def get_url(url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """A response of the hub to a request for one of its addresses, as `get`; with the token."""
    if is_offline_mode():
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    with open_response(url, build_hf_headers(library_name="remerge") | headers) as response:
        if response.is_error:
            # The headers say what is wrong. The library would read a body of any length.
            bare = httpx.Headers(response.headers)
            for name in ("Content-Encoding", "Content-Length", "Transfer-Encoding"):
                bare.pop(name, None)
            hf_raise_for_status(
                httpx.Response(response.status_code, headers=bare, request=response.request)
            )
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


def asked_wait_s(error: Exception) -> float:
    """Seconds that the hub asked us to wait, by `Retry-After` or `RateLimit`, or 0."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    if response is None:
        return 0.0
    asked = [_retry_after_s(response.headers)]
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        limits = _USED_UP.finditer(response.headers.get("RateLimit", ""))
        asked += [float(found[1] or found[2]) for found in limits]
    return max(asked)


def _retry_after_s(headers: httpx.Headers) -> float:
    """`Retry-After` in seconds; of a date, by the server's own clock where it states it."""
    stated = headers.get("Retry-After", "").strip()
    if stated.isascii() and stated.isdecimal():
        return float(stated) if len(stated) < 10 else math.inf
    then = _date(stated)
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (then - now).total_seconds()) if then else 0.0


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def patiently(action: Callable[[], Result], patience: Patience, what: str) -> Result:
    """The result of a small request for `what`, tried again while the hub is busy or away."""
    failures = 0
    while True:
        try:
            return action()
        except HubError as error:
            failures += 1
            if not is_transient(error) or failures >= patience.attempts:
                raise
            time.sleep(patience.wait_s(failures, error, what))


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
    elif isinstance(error, AnswerError):
        text = f"{hub} {error}, when it is asked for {what or repo}; check HF_ENDPOINT"
    elif isinstance(error, httpx.ReadTimeout):
        slow = f" ({printable(error, 80)})" if "bytes in" in str(error) else ""
        text = f"{hub} is too slow to send {what or repo}{slow}; try again later"
    else:
        kind = type(error).__name__
        text = f"{hub} cannot be reached for {what or repo} ({kind}); check HF_ENDPOINT"
    return SourceError(f"{where}: {text}")


def repo_type(kind: str) -> str:
    """The hub's type of repository for a source's kind."""
    return "dataset" if kind == "dataset" else "model"
