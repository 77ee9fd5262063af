"""The hub's lists: a repository at a commit, its files, its commits, each answer in bounds.

>>> repository("owner/name", "model", "main").sha

What a server states here is written into files of pins, so every value is checked for its form.
Lists come in pages; what leads to the next one is taken for a place in the list, never for an
address, so that no list leads to another server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from remerge.errors import printable
from remerge.sources.hub import endpoint, get_url
from remerge.sources.requests import AnswerError, read_body

_BODY_LIMIT = 8_000_000
#: Of at most a thousand entries each; the largest repositories have a few hundred thousand files.
_PAGES = 400
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")

Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, lt=2**63)]


class _Answer(BaseModel):
    """What a hub says of something; keys that we do not use are free."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", populate_by_name=True)


class Repository(_Answer):
    """A repository at a commit: its present name and what its card says."""

    id: str
    sha: Commit
    card: dict[str, Any] | None = Field(default=None, alias="cardData")

    @property
    def licence(self) -> str:
        """The licence that the card states, by its name on the hub, or empty."""
        card = self.card or {}
        stated = card.get("license")
        if stated == "other":
            stated = card.get("license_name")
        return stated if isinstance(stated, str) and _LICENCE.fullmatch(stated) else ""


class LargeFile(_Answer):
    """What a file outside of git is."""

    sha256: Sha256 = Field(alias="oid")
    size: Size


class File(_Answer):
    """A file at a commit. `blob` is its id in git."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    size: Size
    blob: Commit = Field(alias="oid")
    lfs: LargeFile | None = None


class _Commit(_Answer):
    id: Commit


_ENTRIES = TypeAdapter(list[dict[str, Any]])
_FILES = TypeAdapter(list[File])
_COMMITS = TypeAdapter(list[_Commit])
_REPOSITORY = TypeAdapter(Repository)


def repository(repo: str, repo_type: str, revision: str) -> Repository:
    """A repository at a branch, tag or commit; HubError when it or the revision is not there."""
    url = f"{_address(repo, repo_type)}/revision/{quote(revision, safe='')}"
    answer, _ = _get(url, {})
    return _checked(_REPOSITORY, answer, repo)


def files(repo: str, repo_type: str, commit: str) -> list[File]:
    """All files of a repository at a commit, those in folders too; HubError."""
    url = f"{_address(repo, repo_type)}/tree/{commit}"
    found: dict[str, File] = {}
    for page in _pages(url, {"recursive": "true", "expand": "false"}):
        entries = _checked(_ENTRIES, page, repo)
        listed = [entry for entry in entries if entry.get("type") == "file"]
        for file in _checked(_FILES, listed, repo):
            if found.setdefault(file.path, file) != file:
                raise AnswerError(f"lists {printable(file.path, 80)!r} twice")
    return list(found.values())


def commits(repo: str, repo_type: str) -> list[str]:
    """The ids of the commits of the main branch; HubError."""
    url = f"{_address(repo, repo_type)}/commits/main"
    return [commit.id for page in _pages(url, {}) for commit in _checked(_COMMITS, page, repo)]


def _address(repo: str, repo_type: str) -> str:
    return f"{endpoint()}/api/{repo_type}s/{repo}"


def _pages(url: str, query: Mapping[str, str]) -> Iterator[Any]:
    asked: set[str] = set()
    parameters = httpx.QueryParams(query)
    for _ in range(_PAGES):
        asked.add(str(parameters))
        answer, following = _get(url, parameters)
        yield answer
        if not following:
            return
        parameters = httpx.QueryParams(urlsplit(following).query)
        if str(parameters) in asked:
            raise AnswerError("has a list whose pages lead back to one another")
    raise AnswerError(f"has a list of more than {_PAGES} pages")


def _get(url: str, query: Mapping[str, str]) -> tuple[Any, str]:
    """An answer in JSON, and the address of the next page as the server gives it, or empty."""
    address = str(httpx.URL(url, params=query)) if query else url
    with get_url(address, {"Accept": "application/json"}) as response:
        body = read_body(response, _BODY_LIMIT)
        following = response.links.get("next", {}).get("url", "")
    try:
        return json.loads(body), following
    except (ValueError, RecursionError):
        raise AnswerError("answers with something else than JSON") from None


def _checked(form: TypeAdapter[Any], answer: Any, repo: str) -> Any:
    try:
        return form.validate_python(answer)
    except ValidationError as mistakes:
        first = mistakes.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"][:4])) or "the whole"
        raise AnswerError(
            f"says of {repo} what no hub says ({printable(place, 80)}: "
            f"{printable(first['msg'], 120)})"
        ) from None
